"""The page of the engine: how busy and how fast it is, its memory, the release that runs, and the releases before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from flask import Response, current_app, make_response, render_template

from appliance.audit.details.site import ApplianceStarted
from appliance.audit.log import Event
from appliance.audit.rows import load_events
from appliance.database.tables import audit_events
from appliance.database.transactions import as_datetime, as_us
from appliance.people.allowance import DAY_US
from appliance.people.usage import Figures
from appliance.people.usage_report import Line, usage_lines
from appliance.release_facts import load_facts
from appliance.turns.engine import EngineUnavailableError, Status
from webui.admin.routes import STATUS_TIMEOUT_S, blueprint
from webui.allowances import usage_of
from webui.services import Services, services

_SPANS: Final = (1, 7, 30)  # days
_STARTS: Final = 200  # the newest that are looked at
GIB: Final = 1 << 30


@dataclass(frozen=True)
class Speed:
    """How fast answers were in some days; None where none ended."""

    days: int
    answers: int
    tokens_per_s: float | None
    first_s: float | None
    first_most_s: float | None
    whole_s: float | None


@dataclass(frozen=True)
class Served:
    """A release that this site has served, when it was first started, and the event that says so."""

    version: str
    since: datetime
    event: int
    manifest_sha256: str


@dataclass(frozen=True)
class Memory:
    """The engine's memory in bytes, and how much of the prompts' tokens came out of the prefix cache."""

    resident_bytes: int | None
    cache_bytes: int | None
    cached_share: float | None


@blueprint.get("/engine")
def engine() -> Response:
    service = services()
    status = _status(service)
    page = render_template(
        "admin_engine.html", engine=status, memory=None if status is None else memory_of(status), gib=GIB,
        speeds=speeds_of(service), served=served_releases(service),
        facts=load_facts(service.config.release_dir),
    )  # fmt: skip
    return make_response(page)


def _status(service: Services) -> Status | None:
    try:
        return service.engine.status(timeout_s=STATUS_TIMEOUT_S)
    except EngineUnavailableError:
        return None


def memory_of(status: Status) -> Memory:
    """What an engine says of its memory; an engine of an earlier release says nothing."""
    found = {name: value for name, value in status.details.items() if type(value) is int}
    prompted = found.get("prompt_tokens", 0)
    share = found.get("cached_tokens", 0) / prompted if prompted else None
    return Memory(found.get("resident_bytes"), found.get("cache_bytes"), share)


def speeds_of(service: Services) -> list[Speed]:
    """The speed of the answers of `_SPANS` days, today included, from the facts of their events."""
    usage_of(current_app).keep()
    today = as_us(service.clock()) // DAY_US
    lines = usage_lines(service.record.database, "day", today - max(_SPANS) + 1, today)
    return [_speed(days, [line for line in lines if int(line.name) > today - days]) for days in _SPANS]


def _speed(days: int, lines: Sequence[Line]) -> Speed:
    used = sum((line.figures for line in lines), Figures())
    decode_us = used.whole_us - used.first_us
    return Speed(
        days, used.timed, used.tokens_out / decode_us * 1e6 if decode_us else None, used.first_s,
        used.first_most_us / 1e6 if used.timed else None, used.whole_s,
    )  # fmt: skip


def served_releases(service: Services) -> list[Served]:
    """The releases of the newest starts in the record, each once for every time that it followed another; the one that
    runs comes first, the one before it next."""
    wanted = sa.select(audit_events.c.sequence).where(audit_events.c.action == "appliance_started")
    with service.record.database.read() as connection:
        starts = list(connection.scalars(wanted.order_by(audit_events.c.sequence.desc()).limit(_STARTS)))
    found: list[Served] = []
    for number, event in sorted(load_events(service.record.database, starts).items(), reverse=True):
        details = event.content.details if isinstance(event, Event) and event.content is not None else None
        if not isinstance(event, Event) or not isinstance(details, ApplianceStarted) or details.release is None:
            continue
        release = details.release
        started = Served(release.version, as_datetime(event.header.time_us), number, release.manifest_sha256)
        if found and (found[-1].version, found[-1].manifest_sha256) == (started.version, started.manifest_sha256):
            found[-1] = started  # an earlier start of the same
        else:
            found.append(started)
    return found
