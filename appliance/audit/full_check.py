"""Notes in the database that the badge tells of: the last verification of every event, and the last export."""

from __future__ import annotations

import json
from dataclasses import dataclass

from appliance.database import as_number

EXPORTED, CHECKED = "audit_exported_us", "audit_checked"


@dataclass(frozen=True)
class FullCheck:
    """A verification of every event: ``size`` of them at ``time_us``, and whether all was right."""

    time_us: int
    size: int
    intact: bool


def full_check(stored: str | None) -> FullCheck | None:
    """The last verification of every event; None when there was none, or its note is damaged."""
    try:
        body = json.loads(stored or "null")
        time_us, size = as_number(body["time_us"]), as_number(body["size"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return None if time_us is None or size is None else FullCheck(time_us, size, body.get("intact") is True)
