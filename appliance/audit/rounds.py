"""Goes through a log that grows, a stretch at a time, and begins anew after the last event.

    begin, end = rounds.next(size)      # the events begin + 1 to end are next

The position is kept only in memory: somebody who can write the database could move it there, and the events before it
would never be looked at. So each process begins at a random stretch: even one that is restarted again and again reaches
all of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable


class Rounds:
    """One walk through one log."""

    def __init__(self, stretch: int, *, draw: Callable[[int], int] = secrets.randbelow) -> None:
        """Args: draw: a number below the given one, by chance."""
        self._stretch = stretch
        self._draw = draw
        self._position: int | None = None

    def next(self, size: int) -> tuple[int, int]:
        """The next stretch of the first `size` events: those after the first number, up to the second."""
        if self._position is None:
            self._position = self._draw(max(1, -(-size // self._stretch))) * self._stretch
        begin = self._position if self._position < size else 0
        self._position = min(begin + self._stretch, size)
        return begin, self._position
