"""The programs under the supervisor: what each one is to run next, and when it may start again after it ended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from appliance.errors import PACKED_ANEW
from appliance.runtime.processes import Program

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0  # before a restart
STEADY_S: Final = 60.0  # a program that ran this long starts afresh with the shortest delay
_MOST_CHANGES: Final = 64  # taken at once, so that stopping one process again and again does not hold up the rest


@dataclass
class Child:
    """A program and its present process; ``pid`` 0 when there is none."""

    program: Program
    pid: int = 0
    started_s: float = 0.0
    failures: int = 0  # in a row
    start_at_s: float = 0.0
    preparation: Program | None = None  # has to end well before each start of the program
    is_prepared: bool = False
    killed_because: str = ""  # by the supervisor

    def next_program(self) -> Program:
        """What is to run now. A preparation looks closer once the program has failed."""
        if self.preparation is None or self.is_prepared:
            return self.program
        again = ("--thorough",) if self.failures else ()
        return replace(self.preparation, argv=(*self.preparation.argv, *again))

    @property
    def is_due(self) -> bool:
        return not self.pid and time.monotonic() >= self.start_at_s

    @property
    def runs_its_program(self) -> bool:
        """Whether the program itself runs, and not its preparation."""
        return bool(self.pid) and self.next_program() is self.program

    def ran_s(self) -> float:
        return time.monotonic() - self.started_s

    def has_prepared(self, code: int) -> bool:
        """Take note that the process has ended; whether it was the preparation, and ended well."""
        was_preparing = self.preparation is not None and not self.is_prepared
        self.pid, self.is_prepared = 0, was_preparing and code in (0, PACKED_ANEW)
        return self.is_prepared

    def put_off(self, ran_s: float) -> float:
        """Count a failure, and choose when to start again: in so many seconds."""
        self.failures = 1 if ran_s >= STEADY_S else self.failures + 1
        delay_s: float = min(FIRST_DELAY_S * 2 ** (self.failures - 1), LONGEST_DELAY_S)
        self.start_at_s = time.monotonic() + delay_s
        return delay_s


def changed_processes() -> Iterator[tuple[int, int]]:
    """Pid and status of those that ended or were stopped since the last call; of very many, the next call has the
    rest."""
    for _ in range(_MOST_CHANGES):
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
