"""The earliest time that a right clock can show: this code is younger.

A host whose clock shows an earlier time has lost it (an empty battery gives 1970, or the year of the board). Expiry
dates and the times of events then prove nothing.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Final

EARLIEST: Final = datetime(2026, 11, 1, tzinfo=timezone.utc)
SET_IT: Final = 'set the clock, for example with `date -u -s "2026-12-31 12:00"`, then run this again'


def has_lost_its_time(now: datetime) -> bool:
    """Whether a clock that shows ``now`` is wrong for certain."""
    return now < EARLIEST


def signed_at(version: int) -> datetime | None:
    """When metadata of this version was signed. Bundlers number it by the second of signing: 20261130174500.

    None for a number that is no time: a version that somebody chose, or one by a bundler before 0.2.0.
    """
    try:
        return datetime.strptime(f"{version}", "%Y%m%d%H%M%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
