"""What a check of the record finds wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.errors import ApplianceError

MAX_FAULTS = 1000  # a report names at most this many


@dataclass(frozen=True)
class Fault:
    """What is wrong with the events ``first`` to ``last``; both are 0 for what concerns no event."""

    first: int
    last: int
    message: str

    def __str__(self) -> str:
        if self.first == self.last == 0:
            return self.message
        events = f"event {self.first}" if self.first == self.last else f"events {self.first} to {self.last}"
        return f"{events}: {self.message}"


class LogBrokenError(ApplianceError):
    """The stored log is not what was recorded."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(f"the log is broken: {faults[0]}" + (f" (and {len(faults) - 1} more)" * (len(faults) > 1)))
        self.faults = tuple(faults)
