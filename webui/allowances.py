"""How much each person may ask through this process, from the settings and the context of the release's model, and how
much everybody uses."""

from __future__ import annotations

from typing import Final, cast

from flask import Flask, current_app

from appliance.people.allowance import Allowance, limits_of
from appliance.people.person_bounds import PersonBounds
from appliance.people.usage import Usage
from webui.services import Services

_KEY: Final = "gpt_oss_appliance.allowance"
_USAGE: Final = "gpt_oss_appliance.usage"


def install(app: Flask, services: Services) -> Allowance:
    """Make the allowance that `allowance()` returns inside `app`."""
    config = services.config
    context_tokens = min(config.context_tokens or services.model.context_tokens, services.model.context_tokens)
    limits = limits_of(context_tokens=context_tokens, daily_mib=config.daily_mib_per_user)
    made = Allowance(services.record.database, limits)
    app.extensions[_KEY] = made
    app.extensions[_USAGE] = Usage(services.record.database)
    return made


def allowance() -> Allowance:
    """The running application's allowance; needs an application context."""
    return allowance_of(current_app)


def allowance_of(app: Flask) -> Allowance:
    return cast(Allowance, app.extensions[_KEY])


def usage_of(app: Flask) -> Usage:
    """What counts the use of everybody in this process."""
    return cast(Usage, app.extensions[_USAGE])


def person_bounds(key_id: str = "") -> PersonBounds:
    """What bounds and counts the turns of a person: through the chat, or through an API key."""
    return PersonBounds(allowance(), usage_of(current_app), key_id)
