"""How much each person may ask through this process, from the settings and the context of the release's model, and how
much everybody uses."""

from __future__ import annotations

from typing import Final, cast

from flask import Flask, current_app

from appliance.database.transactions import now_us
from appliance.people.allowance import Allowance, limits_of
from appliance.people.person_bounds import PersonBounds
from appliance.people.turn_places import TurnPlaces, Use
from appliance.people.usage import Usage
from webui.services import Services
from webui.session import demand_user

_KEY: Final = "gpt_oss_appliance.allowance"
_USAGE: Final = "gpt_oss_appliance.usage"
_PLACES: Final = "gpt_oss_appliance.turn_places"


def install(app: Flask, services: Services) -> Allowance:
    """Make the allowance that `allowance()` returns inside `app`."""
    config = services.config
    context_tokens = min(config.context_tokens or services.model.context_tokens, services.model.context_tokens)
    limits = limits_of(context_tokens=context_tokens, daily_mib=config.daily_mib_per_user)
    made = Allowance(services.record.database, limits)
    app.extensions[_KEY] = made
    usage = app.extensions[_USAGE] = Usage(services.record.database)
    app.extensions[_PLACES] = TurnPlaces(services.record.database, usage, clock_us=now_us)
    app.add_template_global(_own_quota, "own_quota")
    return made


def allowance() -> Allowance:
    """The running application's allowance; needs an application context."""
    return allowance_of(current_app)


def allowance_of(app: Flask) -> Allowance:
    return cast(Allowance, app.extensions[_KEY])


def usage_of(app: Flask) -> Usage:
    """What counts the use of everybody in this process."""
    return cast(Usage, app.extensions[_USAGE])


def _own_quota() -> list[Use]:
    """For templates: how much of the limits of the person who looks is used."""
    return turn_places().uses(demand_user().id)


def turn_places() -> TurnPlaces:
    """What holds people to their quotas in this process."""
    return cast(TurnPlaces, current_app.extensions[_PLACES])


def person_bounds(key_id: str = "") -> PersonBounds:
    """What bounds and counts the turns of a person: through the chat, or through an API key."""
    return PersonBounds(allowance(), usage_of(current_app), turn_places(), key_id)
