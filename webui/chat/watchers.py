"""Limits how many answers one person watches at once: each watching page takes a thread and renders for itself."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Final, cast

from flask import Flask, current_app

MOST_WATCHED: Final = 12  # for each person and worker; counts open pages, and connections whose end is not noticed yet
_KEY: Final = "gpt_oss_appliance.watchers"


class Watchers:
    """Belongs to one process; thread-safe."""

    def __init__(self, most: int = MOST_WATCHED) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()  # guarded by _lock

    def enter(self, user_id: str) -> Callable[[], None] | None:
        """Count one more page. Call the value once when the page has left. None: there are too many."""
        with self._lock:
            if self._counts[user_id] >= self._most:
                return None
            self._counts[user_id] += 1
        return lambda: self._leave(user_id)

    def _leave(self, user_id: str) -> None:
        with self._lock:
            self._counts[user_id] -= 1
            if self._counts[user_id] <= 0:
                del self._counts[user_id]


def install(app: Flask) -> None:
    """Make what `watchers()` returns inside `app`."""
    app.extensions[_KEY] = Watchers()


def watchers() -> Watchers:
    """The running application's watchers; needs an application context."""
    return cast(Watchers, current_app.extensions[_KEY])
