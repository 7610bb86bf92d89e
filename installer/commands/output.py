"""How every command of `installer` prints: one line a call, or one JSON object.

Titles, versions and the output of a self-test come from outside. In a line, control characters, line ends and
characters that turn the direction of text become escapes, so nobody can forge a second line or clear the screen; and a
line ends somewhere, so nobody can push all others away. JSON escapes everything that is not ASCII.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from installer.formats.manifest import printable

_MOST_CHARACTERS = 4000  # of a line: the longest lawful path
_LEFT_OUT = 100  # what `_shortened` adds at most


def say(line: str, *, err: bool = False) -> None:
    """Print one line, whatever the text holds."""
    click.echo(shown(line), err=err)


def shown(text: str) -> str:
    """The text as it may stand on a terminal: with escapes, and of a very long one its beginning and end."""
    line = printable(text if len(text) <= _MOST_CHARACTERS else _shortened(text))
    return line if len(line) <= _MOST_CHARACTERS + _LEFT_OUT else _shortened(line)


def _shortened(text: str) -> str:
    half = _MOST_CHARACTERS // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"


def say_json(body: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    click.echo(json.dumps(body))


def open_missing_streams() -> None:
    """Lead standard streams that are closed nowhere. A file that is opened later would get their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - as long as the process


def give_up_output() -> None:
    """Lead the standard output nowhere, after it could not be written: Python would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def counted_bytes(count: int) -> str:
    """A number of bytes for a person: at most four digits and a unit."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
