"""How much processor time one message may cost.

A budget counts the processor time of the rendering thread, not wall-clock time, so a busy machine does a message no
harm. It is checked between steps (a rule of the parser, a token of a lexer, a formula): nothing can interrupt a step.
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
    """The budget is spent. The rest is shown as it was written."""


class Budget:
    """A number of seconds of this thread's processor time, from now on."""

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
            TooSlowError: the budget is spent.
        """
        if self.is_spent:
            raise TooSlowError

    @contextmanager
    def part(self, limit_s: float) -> Iterator[None]:
        """Limit the work in the block to a part of the budget."""
        whole_s = self._end_s
        self._end_s = min(whole_s, self._clock_s() + limit_s)
        try:
            yield
        finally:
            self._end_s = whole_s
