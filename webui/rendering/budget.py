"""How much processor time one message may cost.

A budget counts the time of the thread that renders, not the clock on the wall: on a busy machine a message gets the
same work. It is asked between steps (a rule of the parser, a token of a lexer, a formula), because nothing can stop a
thread in the middle of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

# The keys of two budgets in markdown-it's environment.
MESSAGE: Final = "message_budget"
STRUCTURE: Final = "structure_budget"  # to find the blocks


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
