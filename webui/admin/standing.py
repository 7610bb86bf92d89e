"""How each of the promises stands now, in one list: record, checkpoint, disk, silence, clock, certificate.

The alarms (alarms.py) say what is wrong; this list says the same things when they are right, so that an administrator
sees that each was looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from flask import Response, make_response, render_template

from appliance.audit.checkpoint import integrity
from appliance.audit.log import Event
from appliance.audit.rows import load_events, newest_of
from appliance.certificates import CertificateError, load_pair
from appliance.database.transactions import as_datetime
from appliance.disk import measured
from appliance.transport import certificate_files
from webui.admin.alarms import current_alarms
from webui.admin.routes import blueprint
from webui.services import Services, services


@dataclass(frozen=True)
class Standing:
    """One thing that was looked at; ``since`` is None where it has no beginning."""

    name: str
    words: str
    since: datetime | None = None


@blueprint.get("/alarms")
def alarms() -> Response:
    """What is wrong, and how everything stands."""
    service = services()
    page = render_template("admin_alarms.html", alarms=current_alarms(service), standings=list(standings(service)))
    return make_response(page)


def standings(service: Services) -> Iterator[Standing]:
    """Everything that is looked at."""
    found = integrity(service.record, service.config.state_dir)
    verified_at = None if found.verified_us is None else as_datetime(found.verified_us)
    checked = f"signed up to event {found.verified_size:,} of {found.size:,}"
    yield Standing("Record", f"{found.state}; {checked}", verified_at)
    exported_at = None if found.exported_us is None else as_datetime(found.exported_us)
    yield Standing("Checkpoint exported", "never" if exported_at is None else "last", exported_at)
    use = measured(service.config.record_dir, service.config.state_dir)
    yield Standing("Disk", use.words())
    yield _silence(service)
    ahead = "the newest checkpoint lies in its future" if found.ahead else "it agrees with the newest checkpoint"
    yield Standing("Clock", f"{service.clock():%Y-%m-%d %H:%M} UTC; {ahead}")
    yield _certificate(service)


def _silence(service: Services) -> Standing:
    newest = newest_of(service.record, ("appliance_started",))
    if newest is None:
        return Standing("Silence", "no start of the appliance is in the record")
    event = load_events(service.record.database, [newest.sequence]).get(newest.sequence)
    words = event.content.text if isinstance(event, Event) and event.content is not None else "proved at the start"
    return Standing("Silence", words, as_datetime(newest.time_us))


def _certificate(service: Services) -> Standing:
    files = certificate_files(service.config, service.transport)
    if files is None:
        return Standing("Certificate", "none is needed: the site is reached over this machine alone, or without TLS")
    try:
        certificate = load_pair(files)
    except CertificateError as exc:
        return Standing("Certificate", f"it cannot be used: {exc}")
    problem = certificate.problem(service.clock())
    return Standing("Certificate", problem or f"valid until {certificate.ends:%Y-%m-%d}, made by {certificate.issuer}")
