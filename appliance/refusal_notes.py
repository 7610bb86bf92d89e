"""Repeated refusals as few events: the first of a source at once, the others of the same minute as a number.

A refusal that costs an event each lets strangers fill the record. Kept in memory: the numbers of the running minute are
lost when the process is killed.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

_MINUTE_US: Final = 60_000_000
_MOST_SOURCES: Final = 60  # that begin within a minute; the others count as one
MANY: Final = "(many addresses)"


@dataclass
class _Source:
    since_us: int
    unrecorded: int = 0


class RefusalNotes:
    """Says of each refusal whether it is to be recorded now; thread-safe."""

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}  # guarded by _lock
        self._lock = threading.Lock()

    def count(self, source: str, now_us: int) -> str | None:
        """Count a refusal; the value is the source to record it under now, or None when it is only counted."""
        with self._lock:
            if source not in self._sources and len(self._sources) >= _MOST_SOURCES:
                source = MANY
            if source in self._sources:
                self._sources[source].unrecorded += 1
                return None
            self._sources[source] = _Source(now_us)
            return source

    def ended(self, now_us: int) -> list[tuple[str, int]]:
        """Forget the sources whose minute is over, or lies ahead because the clock was set back; the value names those
        with refusals that no event tells of yet."""
        with self._lock:
            over = {name: of for name, of in self._sources.items() if not 0 <= now_us - of.since_us < _MINUTE_US}
            for name in over:
                del self._sources[name]
        return [(name, of.unrecorded) for name, of in over.items() if of.unrecorded]
