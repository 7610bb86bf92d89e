"""How much processor time one message may cost, and what has been rendered already.

A budget counts the time of the thread that renders, not the clock on the wall: on a busy machine a message gets the
same work. It is asked between steps (a rule of the parser, a token of a lexer, a formula), because nothing can stop a
thread in the middle of one.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TooSlowError(Exception):
    """The budget is spent; what is left is shown as it was written."""


class Budget:
    """So many seconds of this thread's processor time, from now on."""

    def __init__(self, limit_s: float, clock_s: Callable[[], float] = time.thread_time) -> None:
        self._clock_s = clock_s
        self._end_s = clock_s() + limit_s
        self.simplified = False  # something was shown as it was written

    @property
    def is_spent(self) -> bool:
        return self._clock_s() >= self._end_s

    def check(self) -> None:
        """
        Raises:
            TooSlowError: it is spent.
        """
        if self.is_spent:
            raise TooSlowError

    @contextmanager
    def part(self, limit_s: float) -> Iterator[None]:
        """Work that may take so much of it and no more."""
        whole_s = self._end_s
        self._end_s = min(whole_s, self._clock_s() + limit_s)
        try:
            yield
        finally:
            self._end_s = whole_s


class RenderCache:
    """Texts that were made of other texts, by their digest; the least recently used go first. Thread-safe."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._chars = 0
        self._made: OrderedDict[bytes, str] = OrderedDict()  # guarded by _lock, as is _chars
        self._lock = threading.Lock()

    def get(self, key: bytes) -> str | None:
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
            return self._made.get(key)

    def put(self, key: bytes, made: str) -> None:
        """Keep it; what is larger than a quarter of the cache is not kept."""
        if len(made) > self._max_chars // 4:
            return
        with self._lock:
            self._chars += len(made) - len(self._made.pop(key, ""))
            self._made[key] = made
            while self._chars > self._max_chars:
                self._chars -= len(self._made.popitem(last=False)[1])


def digest(*parts: str) -> bytes:
    """A key for what is made of these texts."""
    state = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        state.update(len(encoded).to_bytes(8, "big") + encoded)
    return state.digest()
