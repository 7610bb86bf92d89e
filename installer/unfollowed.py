"""Writes files below a directory whose owner may be somebody else, and may change it at the same time.

Nothing below that directory is reached through a link: each directory and file is opened by descriptor from the one
above it. So a process of the appliance's user cannot make root write elsewhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def write_below(top: Path, name: str, data: bytes) -> None:
    """Write `top`/`name` by one rename, and make it durable. It makes directories that are missing, and replaces a link
    or a file in the place of a directory.

    Args:
        top: an existing directory; only what is below it is not trusted.
        name: a relative path.
    """
    *directories, leaf = name.split("/")
    with contextlib.ExitStack() as stack:
        above = stack.enter_context(_opened(os.open(top, os.O_RDONLY | os.O_DIRECTORY)))
        for directory in directories:
            above = stack.enter_context(_opened(_enter(above, directory)))
        _write(above, leaf, data)


@contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _enter(above: int, name: str) -> int:
    """Open a directory, which is made if it is missing or if something else is in its place."""
    for _ in range(2):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=above)
            os.fsync(above)
        try:
            return os.open(name, _DIRECTORY, dir_fd=above)
        except NotADirectoryError:  # for a link, too
            os.unlink(name, dir_fd=above)
    return os.open(name, _DIRECTORY, dir_fd=above)


def _write(directory: int, name: str, data: bytes) -> None:
    fresh = f".{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=directory)
    try:
        with open(os.open(fresh, _NEW_FILE, 0o644, dir_fd=directory), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:  # for example, the disk is full
        with contextlib.suppress(OSError):
            os.unlink(fresh, dir_fd=directory)
        raise
    os.fsync(directory)
