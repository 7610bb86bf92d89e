"""How much each person may ask through this process, from the settings and the context of the release's model."""

from __future__ import annotations

from typing import Final, cast

from flask import Flask, current_app

from appliance.people.allowance import Allowance, limits_of
from webui.services import Services

_KEY: Final = "gpt_oss_appliance.allowance"


def install(app: Flask, services: Services) -> Allowance:
    """Make the allowance that `allowance()` returns inside `app`."""
    config = services.config
    context_tokens = min(config.context_tokens or services.model.context_tokens, services.model.context_tokens)
    limits = limits_of(context_tokens=context_tokens, daily_mib=config.daily_mib_per_user)
    made = Allowance(services.record.database, limits)
    app.extensions[_KEY] = made
    return made


def allowance() -> Allowance:
    """The running application's allowance; needs an application context."""
    return allowance_of(current_app)


def allowance_of(app: Flask) -> Allowance:
    return cast(Allowance, app.extensions[_KEY])
