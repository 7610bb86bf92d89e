"""The programs under the supervisor: what each is to run next, and when it may start again after it has ended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from appliance.errors import PACKED_ANEW
from appliance.runtime.processes import Program

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0  # before a restart
STEADY_S: Final = 60.0  # after a run this long, the delays begin again with the shortest
_MOST_CHANGES: Final = 64  # for each call: stopping one process again and again must not hold up the supervisor


@dataclass
class Child:
    """A program and its current process; ``pid`` is 0 when there is none."""

    program: Program
    pid: int = 0
    started_s: float = 0.0
    failures: int = 0  # in a row
    start_at_s: float = 0.0
    preparation: Program | None = None  # must succeed before each start of the program
    is_prepared: bool = False
    killed_because: str = ""  # by the supervisor

    def next_program(self) -> Program:
        """What is to run now. A preparation checks more thoroughly once the program has failed."""
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
        """Note that the process has ended; return whether it was the preparation and succeeded."""
        was_preparing = self.preparation is not None and not self.is_prepared
        self.pid, self.is_prepared = 0, was_preparing and code in (0, PACKED_ANEW)
        return self.is_prepared

    def put_off(self, ran_s: float) -> float:
        """Count a failure and return after how many seconds to start again."""
        self.failures = 1 if ran_s >= STEADY_S else self.failures + 1
        delay_s: float = min(FIRST_DELAY_S * 2 ** (self.failures - 1), LONGEST_DELAY_S)
        self.start_at_s = time.monotonic() + delay_s
        return delay_s


def changed_processes() -> Iterator[tuple[int, int]]:
    """Pid and status of each process that ended or was stopped since the last call. If there are very many, the next
    call yields the rest."""
    for _ in range(_MOST_CHANGES):
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
