"""Limits how many files are read at once: each takes a thread of the worker for as long as the reader has it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MOST_OF_ONE: Final = 2
MOST: Final = 8  # in one web worker; the reader has two at once, so further files would wait too long


class Places:
    """Belongs to one process; thread-safe."""

    def __init__(self, most_of_one: int = MOST_OF_ONE, most: int = MOST) -> None:
        self._most_of_one, self._most = most_of_one, most
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()  # guarded by _lock

    @contextmanager
    def one_of(self, user_id: str) -> Iterator[bool]:
        """Hold a place for a file of this person; False if there is none."""
        with self._lock:
            is_free = self._held[user_id] < self._most_of_one and self._held.total() < self._most
            self._held[user_id] += is_free
        try:
            yield is_free
        finally:
            with self._lock:
                self._held[user_id] -= is_free
                self._held += Counter()  # drops those that hold none
