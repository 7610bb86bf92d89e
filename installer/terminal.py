"""Shows the progress of a long command on stderr: bars on a terminal, plain lines elsewhere. Only the commands use it.

A log or a serial console gets one line for each stage, and within a stage at most one in ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

INTERVAL_S = 10.0


class StageLines:
    """One line for each stage on stderr. Use it in a `with` statement.

    Args:
        console: where to draw; by default stderr.
        now: seconds of a clock that only goes forward.
    """

    def __init__(self, console: Console | None = None, now: Callable[[], float] = time.monotonic) -> None:
        console = console or Console(stderr=True)
        self._shown = _Bars(console) if console.is_terminal else _PlainLines(console, now)

    def stage(self, name: str, total_bytes: int | None = None) -> None:
        self._shown.stage(name, total_bytes)

    def bytes_done(self, count: int) -> None:
        self._shown.bytes_done(count)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Draw nothing while somebody is asked something."""
        with self._shown.paused():
            yield

    def __enter__(self) -> StageLines:
        self._shown.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._shown.end(failed=kind is not None)


class _PlainLines:
    """Lines for a log: nothing is drawn over."""

    def __init__(self, console: Console, now: Callable[[], float]) -> None:
        self._file, self._now = console.file, now
        self._name = ""
        self._total_bytes: int | None = None
        self._done_bytes = 0
        self._said_at = 0.0

    def start(self) -> None: ...

    def stage(self, name: str, total_bytes: int | None = None) -> None:
        self._name, self._total_bytes, self._done_bytes = name, total_bytes, 0
        self._say(name if total_bytes is None else f"{name} ({decimal(total_bytes)})")

    def bytes_done(self, count: int) -> None:
        self._done_bytes += count
        if self._name and self._now() - self._said_at >= INTERVAL_S:
            of = "" if self._total_bytes is None else f" of {decimal(self._total_bytes)}"
            self._say(f"{self._name}: {decimal(self._done_bytes)}{of}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        yield

    def end(self, *, failed: bool) -> None: ...

    def _say(self, line: str) -> None:
        self._said_at = self._now()
        with suppress(OSError):  # nobody listens any more: no reason to stop an installation
            self._file.write(f"{line}\n")
            self._file.flush()


class _Bars:
    """A bar for each stage, drawn over while it lasts."""

    def __init__(self, console: Console) -> None:
        self._lines = Progress(
            TextColumn("{task.description}"), BarColumn(), _Bytes(), TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )  # fmt: skip
        self._task: TaskID | None = None

    def start(self) -> None:
        self._lines.start()

    def stage(self, name: str, total_bytes: int | None = None) -> None:
        self._finish()
        self._task = self._lines.add_task(name, total=total_bytes, is_sized=total_bytes is not None)

    def bytes_done(self, count: int) -> None:
        if self._task is not None:
            self._lines.advance(self._task, count)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._lines.stop()
        yield
        self._lines.start()

    def _finish(self) -> None:
        """Fill the bar of a stage that has ended, whatever size was expected or known."""
        if self._task is not None:
            done = max(self._lines.tasks[self._task].completed, 1)
            self._lines.update(self._task, total=done, completed=done)
            self._lines.stop_task(self._task)

    def end(self, *, failed: bool) -> None:
        if not failed:
            self._finish()
        self._lines.stop()


class _Bytes(ProgressColumn):
    """Bytes done, all bytes and speed; empty for a stage whose size is not known."""

    def __init__(self) -> None:
        super().__init__()
        self._download, self._speed = DownloadColumn(), TransferSpeedColumn()

    def render(self, task: Task) -> Text:
        if not task.fields["is_sized"]:
            return Text("")
        return Text.assemble(self._download.render(task), "  ", self._speed.render(task))
