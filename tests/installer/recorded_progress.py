"""What a long command said of itself, kept to be compared."""

from __future__ import annotations


class RecordedProgress:
    """Keeps each stage: its name, the bytes expected, the bytes done."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None, int]] = []

    def stage(self, name: str, total_bytes: int | None = None) -> None:
        self.stages.append((name, total_bytes, 0))

    def bytes_done(self, count: int) -> None:
        name, total, done = self.stages[-1]
        self.stages[-1] = (name, total, done + count)
