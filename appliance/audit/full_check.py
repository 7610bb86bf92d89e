"""The last verification of every event and the last export, as the badge reports them.

The database has a setting for each. A setting counts only together with an event that says the same: otherwise anybody
who can write the database could make the badge claim what never happened. The setting has the time of its event, so
the event is found without reading others. Earlier releases wrote that of a verification up to a minute before the
event, and that of an export up to an hour after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from appliance.audit.details.kinds import parse_details
from appliance.audit.details.review import VerificationDetails
from appliance.audit.event import Action
from appliance.database.damaged_rows import read_rows
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import as_number, read_number, read_setting

EXPORTED, CHECKED = "audit_exported_us", "audit_checked"
_MINUTE_US: Final = 60 * 1_000_000
_MOST_EVENTS: Final = 100  # events of one kind within that time that are looked at


@dataclass(frozen=True)
class FullCheck:
    """A verification of every event: ``size`` of them at ``time_us``, and whether all was right."""

    time_us: int
    size: int
    intact: bool


def last_check(connection: sa.Connection) -> FullCheck | None:
    """The last verification of every event; None when there was none, or no event confirms the setting."""
    noted = _parse_check(read_setting(connection, CHECKED))
    if noted is None:
        return None
    for outcome, details in _events_about(connection, ("record_verified",), noted.time_us, noted.time_us + _MINUTE_US):
        if (_events_of(details), outcome == "ok") == (noted.size, noted.intact):
            return noted
    return None


def last_export(connection: sa.Connection) -> int | None:
    """When something last left the machine; None when nothing did, or no event confirms the setting."""
    noted = read_number(connection, EXPORTED)
    if noted is None:
        return None
    actions: tuple[Action, ...] = ("checkpoint_exported", "evidence_exported")
    found = _events_about(connection, actions, noted - 60 * _MINUTE_US, noted + _MINUTE_US)
    return None if next(found, None) is None else noted


def _parse_check(stored: str | None) -> FullCheck | None:
    try:
        body = json.loads(stored or "null")
        time_us, size = as_number(body["time_us"]), as_number(body["size"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return None if time_us is None or size is None else FullCheck(time_us, size, body.get("intact") is True)


def _events_about(
    connection: sa.Connection, actions: Sequence[Action], first_us: int, last_us: int
) -> Iterator[tuple[object, object]]:
    """Outcome and details of the events of these kinds and times; a damaged one confirms nothing."""
    events, contents = audit_events.c, audit_contents.c
    query: sa.Select[Any] = sa.select(events.outcome, contents.details)
    query = query.select_from(audit_events.outerjoin(audit_contents, events.sequence == contents.sequence))
    query = query.where(events.time_us.between(first_us, last_us), events.action.in_(actions))
    found = read_rows(connection, query.limit(_MOST_EVENTS), events.sequence, lambda row: row)
    yield from ((row.outcome, row.details) for row in found)


def _events_of(stored: object) -> int | None:
    """How many events a verification says that it has checked."""
    details = parse_details("record_verified", stored)
    return details.events if isinstance(details, VerificationDetails) else None
