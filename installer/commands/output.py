"""How every command of `installer` prints: one line a call, or one JSON object.

Titles, versions and the output of a self-test come from outside. In a line, control characters, line ends and
characters that turn the direction of text become escapes, so nobody can forge a second line or clear the screen. JSON
escapes everything that is not ASCII.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from installer.formats.manifest import printable


def say(line: str, *, err: bool = False) -> None:
    """Print one line, whatever the text holds."""
    click.echo(printable(line), err=err)


def say_json(body: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    click.echo(json.dumps(body))


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
