"""What a long command says of itself while it works: the stage that begins, and the bytes done in it.

The bundler and the installer report in this one way; `installer.terminal` draws it.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what a long command does."""

    def stage(self, name: str, total_bytes: int | None = None) -> None:
        """A stage begins, and the one before has ended. ``total_bytes``: how much it will do, if that is known."""

    def bytes_done(self, count: int) -> None:
        """The stage has done so many more bytes."""


class Silent:
    """Says nothing."""

    def stage(self, name: str, total_bytes: int | None = None) -> None: ...

    def bytes_done(self, count: int) -> None: ...


SILENT = Silent()
