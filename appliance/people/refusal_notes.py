"""Repeated refusals as few events: the first of a source at once, the others of the same minute as numbers.

One event for each refusal would let strangers fill the record. So the number is recorded when a source has been refused
ten times within its minute, a hundred times, a thousand times and so on, and the rest when the minute is over. Memory
holds only what came since: a process that is killed loses less than nine tenths of a source's refusals of the running
minute, and never the first.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

_MINUTE_US: Final = 60_000_000
_MOST_SOURCES: Final = 60  # that begin within a minute; the others count as one
MANY: Final = "(many addresses)"


@dataclass(frozen=True)
class Due:
    """What to record now: the first refusal of a source, or the number of further ones."""

    source: str
    more: int = 0


@dataclass
class _Source:
    since_us: int
    counted: int = 1
    unrecorded: int = 0


class RefusalNotes:
    """Decides for each refusal whether to record it now; thread-safe."""

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}  # guarded by _lock
        self._lock = threading.Lock()

    def count(self, source: str, now_us: int) -> Due | None:
        """Count a refusal; the value is what to record now, or None when it is only counted."""
        with self._lock:
            if source not in self._sources and len(self._sources) >= _MOST_SOURCES:
                source = MANY
            known = self._sources.get(source)
            if known is None:
                self._sources[source] = _Source(now_us)
                return Due(source)
            known.counted, known.unrecorded = known.counted + 1, known.unrecorded + 1
            if not _is_power_of_ten(known.counted):
                return None
            more, known.unrecorded = known.unrecorded, 0
            return Due(source, more)

    def ended(self, now_us: int) -> list[tuple[str, int]]:
        """Forget the sources whose minute is over, or lies ahead because the clock was set back; the value names those
        with refusals that no event tells of yet."""
        with self._lock:
            over = {name: of for name, of in self._sources.items() if not 0 <= now_us - of.since_us < _MINUTE_US}
            for name in over:
                del self._sources[name]
        return [(name, of.unrecorded) for name, of in over.items() if of.unrecorded]


def _is_power_of_ten(number: int) -> bool:
    return str(number).strip("0") == "1"
