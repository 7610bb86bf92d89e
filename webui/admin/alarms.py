"""What an administrator must know now, as sentences at the top of the administration page.

A new alarm is a function in `_SOURCES`: it looks at one thing and returns what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from appliance.audit.checkpoint import integrity
from appliance.certificates import CertificateError, load_pair
from appliance.disk import measured
from appliance.release_watch import newest_finding
from appliance.site_address import is_loopback
from appliance.transport import Transport, certificate_files
from webui.services import Services

Severity = Literal["warning", "alarm"]


@dataclass(frozen=True)
class Alarm:
    """One thing that is wrong: an ``alarm`` is a broken promise, a ``warning`` is about to become one."""

    severity: Severity
    sentence: str
    what_to_do: str


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


def _release(services: Services) -> Iterable[Alarm]:
    found = newest_finding(services.record, services.config.release_dir)
    if found is not None:
        yield Alarm(
            "alarm",
            f"{found}.",
            "Stop the appliance, tell your security officer, and install the archive again, which repairs the release.",
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
        yield Alarm(
            "alarm", refusal, "Free space on that disk, or make it larger; answers come again by themselves."
        )
    elif use.level != "ok":
        severity: Severity = "warning" if use.level == "warning" else "alarm"
        what = "Free space there, or make it larger: when it is full, nothing is answered any more."
        yield Alarm(severity, f"{use.words()[:1].upper()}{use.words()[1:]}.", what)


_SOURCES: Final[tuple[Callable[[Services], Iterable[Alarm]], ...]] = (_record, _release, _disk, _address, _transport)
