"""What an administrator must know now, as sentences at the top of the administration page.

A new alarm is a function in `_SOURCES`: it looks at one thing and returns what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from appliance.audit.checkpoint import integrity
from appliance.site_address import is_loopback
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


def _address(services: Services) -> Iterable[Alarm]:
    host = urlsplit(services.listener_url).hostname or ""
    if not services.config.site_addresses and not is_loopback(host):
        yield Alarm(
            "warning",
            "The site does not know its own address, so it answers under any.",
            'Set address = "https://..." in the section [site] of appliance.toml.',
        )


_SOURCES: Final[tuple[Callable[[Services], Iterable[Alarm]], ...]] = (_record, _address)
