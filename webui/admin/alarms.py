"""What an administrator must know now, as sentences at the top of the administration page.

A new alarm is a function in `_SOURCES`: it looks at one thing and returns what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from urllib.parse import urlsplit

import sqlalchemy as sa

from appliance.advisories import load_advisories
from appliance.audit.checkpoint import integrity
from appliance.audit.details.site import ReleaseReturned
from appliance.audit.log import Event
from appliance.audit.rows import EventRow, load_events, load_rows, newest_of
from appliance.certificates import CertificateError, load_pair
from appliance.database.tables import audit_events
from appliance.database.transactions import as_datetime, as_number, as_us
from appliance.disk import measured
from appliance.errors import ApplianceError
from appliance.isolation.dangers import danger_of
from appliance.isolation.refused import UNWATCHED, refused_of
from appliance.runtime.packed_watch import newest_packed_finding
from appliance.runtime.release_watch import newest_finding
from appliance.site_address import is_loopback
from appliance.transport import Transport, certificate_files
from webui.services import Services

Severity = Literal["warning", "alarm"]
_MOST_NAMED: Final = 10  # damaged accounts, or parts of the release
_UNEXPORTED: Final = timedelta(days=30)  # how long a record may go without a checkpoint that leaves the machine


@dataclass(frozen=True)
class Alarm:
    """One thing that is wrong: an ``alarm`` is a broken promise, a ``warning`` is about to become one."""

    severity: Severity
    sentence: str
    what_to_do: str
    since: datetime | None = None


def _time(time_us: int) -> datetime | None:
    """A time of the record; None for one that the appliance never writes."""
    return None if as_number(time_us) is None else as_datetime(time_us)


def current_alarms(services: Services) -> list[Alarm]:
    """Everything that is wrong now, alarms before warnings."""
    found = [alarm for source in _SOURCES for alarm in source(services)]
    return sorted(found, key=lambda alarm: alarm.severity)


def _record(services: Services) -> Iterable[Alarm]:
    found = integrity(services.record, services.config.state_dir)
    if found.state == "broken":
        yield Alarm(
            "alarm",
            f"The record is broken: {found.fault}.",
            "Keep the machine as it is and tell a reviewer and your security officer.",
        )


def _accounts(services: Services) -> Iterable[Alarm]:
    damaged = services.accounts.list_users().damaged
    if damaged:
        names = ", ".join(row.name or f"row {row.number}" for row in damaged[:_MOST_NAMED])
        more = f" and {len(damaged) - _MOST_NAMED} more" if len(damaged) > _MOST_NAMED else ""
        yield Alarm(
            "alarm",
            f"Somebody has damaged accounts in the database: {names}{more}.",
            "Tell a reviewer and your security officer, and restore the accounts from a copy of the database.",
        )


def _release(services: Services) -> Iterable[Alarm]:
    found = newest_finding(services.record, services.config.release_dir)
    if found is not None:
        yield Alarm(
            "alarm",
            f"{found}.",
            "Stop the appliance, tell your security officer, and install the archive again, which repairs the release.",
        )
    packed = newest_packed_finding(services.record, services.config.release_dir)
    if packed is not None:
        yield Alarm(
            "alarm",
            f"{packed}.",
            "Stop the appliance, tell your security officer, and remove state/packed: the next start packs anew.",
        )


def _vulnerabilities(services: Services) -> Iterable[Alarm]:
    """What the release says of its own parts. A release without data is no alarm: nothing is known of it."""
    try:
        found = load_advisories(services.config.release_dir)
    except ApplianceError as exc:
        yield Alarm("warning", f"{exc}.", "Ask the sender for a new archive.")
        return
    if found is None:
        return
    now = services.clock()
    if parts := found.affected_parts():
        more = f" and {len(parts) - _MOST_NAMED} more" if len(parts) > _MOST_NAMED else ""
        yield Alarm(
            "warning",
            f"Parts of this release have known vulnerabilities, by {found.age(now)}: "
            f"{', '.join(parts[:_MOST_NAMED])}{more}.",
            "`appliance doctor` names each vulnerability and what mends it. Ask the sender for a newer release.",
        )
    if found.is_old(now):
        yield Alarm(
            "warning",
            f"What is known about vulnerabilities of this release is from {found.age(now)}.",
            "Ask the sender for a release with newer data.",
        )


def _address(services: Services) -> Iterable[Alarm]:
    host = urlsplit(services.listener_url).hostname or ""
    if not services.config.site_addresses and not is_loopback(host):
        yield Alarm(
            "warning",
            "The site does not know its own address, so it answers under any.",
            'Set address = "https://..." in the section [site] of appliance.toml.',
        )


def _transport(services: Services) -> Iterable[Alarm]:
    if services.transport is Transport.PLAIN:
        yield Alarm(
            "alarm",
            "Passwords and prompts cross the network unencrypted: this site serves plain HTTP, because it was told to.",
            "Remove plain_http from [tls] in appliance.toml, or --plain-http from the command, and start again.",
        )
    files = certificate_files(services.config, services.transport)
    if files is None:
        return
    now = services.clock()
    severity: Severity = "alarm"
    try:
        certificate = load_pair(files)
        problem = certificate.problem(now)
        severity = "warning" if certificate.is_valid(now) else "alarm"
    except CertificateError as exc:
        problem = f"the certificate now on disk cannot be used: {exc}"
    if problem is not None:
        yield Alarm(
            severity,
            f"{problem[0].upper()}{problem[1:]}.",
            "Put a new certificate and key in the place of the old ones; no restart is needed.",
        )


def _disk(services: Services) -> Iterable[Alarm]:
    refusal = services.record.refusal()
    use = measured(services.config.record_dir, services.config.state_dir)
    if refusal is not None:
        yield Alarm("alarm", refusal, "Free space on that disk, or make it larger; answers come again by themselves.")
    elif use.level != "ok":
        severity: Severity = "warning" if use.level == "warning" else "alarm"
        what = "Free space there, or make it larger: when it is full, nothing is answered any more."
        yield Alarm(severity, f"{use.words()[:1].upper()}{use.words()[1:]}.", what, _since_filling(services))


def _since_filling(services: Services) -> datetime | None:
    """When the disk began to fill, by the newest event about it."""
    newest = newest_of(services.record, ("disk_filling", "disk_full", "disk_freed"))
    return None if newest is None or newest.action == "disk_freed" else as_datetime(newest.time_us)


def _checkpoint(services: Services) -> Iterable[Alarm]:
    """No checkpoint has left the machine for a month: only one that lies elsewhere shows a rewritten record."""
    exported_us = integrity(services.record, services.config.state_dir).exported_us
    first = load_rows(services.record.database, [1]).get(1)
    begun = as_datetime(first.header.time_us) if isinstance(first, EventRow) else None
    since = begun if exported_us is None else as_datetime(exported_us)
    if since is None or services.clock() - since < _UNEXPORTED:
        return
    lacks = "No checkpoint of the record was ever exported" if exported_us is None else "No checkpoint left for a month"
    yield Alarm(
        "warning",
        f"{lacks}: nobody outside this machine could show that the record was rewritten.",
        "Ask a reviewer to export the newest checkpoint on the page Integrity, and to keep it elsewhere.",
        since,
    )


def _clock(services: Services) -> Iterable[Alarm]:
    """The clock was set back behind what was signed, or shows a time before the release was signed."""
    what = "Set the clock; times in the record are wrong until then."
    if integrity(services.record, services.config.state_dir).ahead:
        yield Alarm("alarm", "The clock of this machine is behind the newest signed checkpoint.", what)
    elif services.clock().timestamp() < (services.release.signed_s or 0):
        yield Alarm("alarm", "The clock of this machine shows a time before this release was signed.", what)


def _attempts(services: Services) -> Iterable[Alarm]:
    """System calls that the kernel refused within a day: one alarm for each kind of process and call."""
    events, since_us = audit_events.c, as_us(services.clock() - timedelta(days=1))
    newest, first_us = sa.func.max(events.sequence).label("newest"), sa.func.min(events.time_us).label("first_us")
    wanted = sa.select(events.subject, sa.func.count().label("events"), newest, first_us)
    wanted = wanted.where(events.action == "attempt_refused", events.time_us >= since_us).group_by(events.subject)
    with services.record.database.read() as connection:
        rows = connection.execute(wanted.order_by(newest.desc())).all()
    for row in rows:
        kind, call = refused_of(row.subject)
        before = f", and {row.events - 1} before it" if row.events > 1 else ""
        told = f"A process of the appliance ({kind}) called {call}, which it must not. The kernel refused it."
        if danger_of(call) is None:
            yield Alarm("warning", told, f"Event {row.newest} says more{before}. {_UNFORESEEN}", _time(row.first_us))
        else:
            yield Alarm("alarm", told, f"Event {row.newest} says more{before}. {_BROKEN_INTO}", _time(row.first_us))


_UNFORESEEN: Final = "No program of the appliance is known to need this call. Tell whoever supplies the release."
_BROKEN_INTO: Final = (
    "The appliance does not do this by itself: somebody may have broken into it. Stop it, keep its disk as it is, and "
    "tell your security officer."
)


def _unwatched(services: Services) -> Iterable[Alarm]:
    """Warn if nobody sees refused calls: the newest start said so, or the watcher has ended since."""
    events = audit_events.c
    with services.record.database.read() as connection:
        newest = connection.scalar(sa.select(sa.func.max(events.sequence)).where(events.subject == UNWATCHED))
        if newest is None:
            return
        later = sa.select(events.sequence).where(events.sequence > newest, events.action == "appliance_started")
        if connection.scalar(later.limit(1)) is not None:
            return
    yield Alarm(
        "warning",
        f"Attempts that the kernel refuses are seen by nobody (event {newest}).",
        "Restart the appliance; if this comes back, `appliance doctor` says what this host lacks.",
    )


def _paused(services: Services) -> Iterable[Alarm]:
    """Processes that somebody stopped from outside within a day."""
    events, since_us = audit_events.c, as_us(services.clock() - timedelta(days=1))
    newest, first_us = sa.func.max(events.sequence).label("newest"), sa.func.min(events.time_us).label("first_us")
    wanted = sa.select(events.subject, newest, first_us).where(
        events.action == "process_paused", events.time_us >= since_us
    )
    with services.record.database.read() as connection:
        rows = connection.execute(wanted.group_by(events.subject).order_by(newest.desc())).all()
    for row in rows:
        yield Alarm(
            "warning",
            f"Somebody stopped a process of the appliance (the {row.subject}) from outside; it went on at once.",
            f"Event {row.newest} says more. Who can do this has the appliance's own user on this machine, or is root.",
            _time(row.first_us),
        )


def _returned(services: Services) -> Iterable[Alarm]:
    """A newer release did not become healthy, and the one that is served now was served again in its place."""
    newest = newest_of(services.record, ("release_returned",))
    if newest is None:
        return
    event = load_events(services.record.database, [newest.sequence]).get(newest.sequence)
    content = event.content if isinstance(event, Event) else None
    if content is None or not isinstance(content.details, ReleaseReturned):
        return
    if content.details.to == services.config.release_dir.name:
        yield Alarm(
            "alarm",
            f"{content.text}.",
            f"Event {newest.sequence} says when. The log of the service says what was wrong with the newer release; "
            "install a mended one, and this alarm ends when it serves.",
            as_datetime(newest.time_us),
        )


_SOURCES: Final[tuple[Callable[[Services], Iterable[Alarm]], ...]] = (
    _record, _checkpoint, _clock, _accounts, _attempts, _unwatched, _paused, _returned, _release, _vulnerabilities,
    _disk, _address, _transport,
)  # fmt: skip
