"""Draws the progress of a long command on a terminal. Only the two commands use it."""

from __future__ import annotations

from rich.console import Console
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


class StageLines:
    """One line for each stage on stderr; nothing if stderr is no terminal. Use it in a `with` statement.

    Args:
        console: where to draw; by default stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._lines = Progress(
            TextColumn("{task.description}"), BarColumn(), _Bytes(), TimeRemainingColumn(elapsed_when_finished=True),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task: TaskID | None = None

    def stage(self, name: str, total_bytes: int | None = None) -> None:
        self._finish()
        self._task = self._lines.add_task(name, total=total_bytes, is_sized=total_bytes is not None)

    def bytes_done(self, count: int) -> None:
        if self._task is not None:
            self._lines.advance(self._task, count)

    def _finish(self) -> None:
        """Fill the bar of a stage that has ended, whatever size was expected or known."""
        if self._task is not None:
            done = max(self._lines.tasks[self._task].completed, 1)
            self._lines.update(self._task, total=done, completed=done)
            self._lines.stop_task(self._task)

    def __enter__(self) -> StageLines:
        self._lines.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
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
