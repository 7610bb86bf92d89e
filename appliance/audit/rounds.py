"""Goes through a log that grows, a stretch at a time, and begins anew after the last event.

    begin, end = rounds.next(size)      # the events begin + 1 to end are next

The position is kept in memory alone: in the database it would stand wherever somebody put it who can write there, and
what lies before it would never be looked at. So each process begins at a stretch drawn by chance: one that is started
again and again still comes to all of them.
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
