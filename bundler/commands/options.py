"""Options that several commands of `bundler` share."""

from __future__ import annotations

import functools
import os
import stat
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click

from bundler.errors import KeysError
from bundler.private_keys import Secret
from installer.media.source import PIPE, Media, open_media

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of sentences.")
PATH = click.Path(path_type=Path)
PYTHONS = ("3.11", "3.12", "3.13")  # of Debian 12 and 13, Ubuntu 24.04, RHEL 10; RHEL 9 and Ubuntu 22.04 offer one
_TARGET_OPTIONS = (
    click.option("--platform", default="manylinux_2_28_x86_64", show_default=True, help="Platform tag of the hosts."),
    click.option(
        "--accelerator", type=click.Choice(["cpu", "cuda", "both"]), default="cpu", show_default=True,
        help="Graphs and runtime of the release; `both` has the CUDA runtime, which also runs on CPUs.",
    ),
)  # fmt: skip


PASSPHRASE_FILE = click.option(
    "--passphrase-file", type=PATH, help="File whose first line is the passphrase or PIN of the keys."
)


def default_wheel_cache() -> Path:
    """The user's cache directory for wheels."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpt-oss-appliance" / "wheels"


def secret_of(file: Path | None) -> Secret | None:
    """How to learn the passphrase of a keys directory: from the file, else once from the terminal, else not at all."""
    if file is not None:
        return functools.cache(lambda: first_line(file))
    if sys.stdin.isatty():
        return functools.cache(lambda: str(click.prompt("Passphrase (or PIN) of the keys", hide_input=True, err=True)))
    return None


def first_line(file: Path) -> str:
    """The passphrase in a file or a pipe.

    Raises:
        KeysError: there is none, or other users can read it.
    """
    try:
        status = file.stat()
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
            raise KeysError(f"the passphrase file {file} can be read by others; set its mode to 0600")
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise KeysError(f"cannot read the passphrase file {file}") from exc
    if not lines or not lines[0]:
        raise KeysError(f"the passphrase file {file} is empty")
    return lines[0]


def opened(file: Path) -> AbstractContextManager[Media]:
    """An archive, or the archive whose volume this is. It can be opened more than once, so it is no pipe."""
    if file == PIPE:
        raise click.UsageError("- cannot be read twice; give a file")
    return open_media([file], [], pipe=sys.stdin.buffer, ask=None)


def target_options(command: Any) -> Any:
    for option in reversed(_TARGET_OPTIONS):
        command = option(command)
    return command
