"""A directory that one command works in, and no other command of this host at the same time. A killed one leaves it to
the next.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bundler.errors import BuildError


@contextmanager
def working_directory(directory: Path) -> Iterator[None]:
    """Make the directory, empty, and remove it at the end.

    Raises:
        BuildError: another command works in it.
        OSError: it cannot be made.
    """
    lock = _locked(directory)
    try:
        for path in directory.iterdir():  # of a killed run
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        yield
    finally:
        shutil.rmtree(directory)
        os.close(lock)


def _locked(directory: Path) -> int:
    """The directory, opened and locked. The command that had it before may remove it in between."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(descriptor)
            raise BuildError(f"another command is at work in {directory}: wait until it has ended") from exc
        except OSError:  # NFS locks no directory: there the command goes on without a lock
            return descriptor
        if is_still(directory, descriptor):
            return descriptor
        os.close(descriptor)


def is_still(path: Path, descriptor: int) -> bool:
    """Whether the path leads to what was opened."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
