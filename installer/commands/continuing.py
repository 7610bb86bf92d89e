"""How a command goes on in another Python of the host: `--interpreter`, and a release that needs another one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from installer.commands.output import say
from installer.errors import OtherPythonError
from installer.interpreters import Interpreter, command_in, find_interpreter, is_running, named_interpreter

INTERPRETER = click.option(
    "--interpreter", type=click.Path(path_type=Path),
    help="The Python of this host that runs the release.  [default: the one that runs this, else one that fits]",
)  # fmt: skip


@contextmanager
def fitting_python(chosen: Path | None, *, may_begin_again: bool = True) -> Iterator[None]:
    """Run the block in the Python that was chosen or, if the block finds that this one does not fit, in one that does.

    Then this process is replaced, and the command begins again.

    Args:
        may_begin_again: False if the block reads a pipe, of which another process would get the rest only.
    Raises:
        PlatformError: no Python of the host fits, or the chosen one does not.
    """
    if chosen is not None:
        named = named_interpreter(os.fspath(chosen), os.environ)
        if not is_running(named):
            _continue_in(named)
    try:
        yield
    except OtherPythonError as exc:
        found = None if chosen is not None or not may_begin_again else find_interpreter(exc.pythons, os.environ)
        if found is None or is_running(found):
            raise
        _continue_in(found)


def _continue_in(other: Interpreter) -> NoReturn:
    command = command_in(other, sys.argv[1:], os.environ)
    say(f"Continuing in {other.path} (Python {other.python}).", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, dict(os.environ))  # noqa: S606 - the same command
