"""Writing that survives a power cut, and removing without following links.

write_durably(path, data)        one file, under its name only when it is on disk
sync_file_system(directory)      thousands of files that were just written, by one call
remove_tree(path)                whatever lies there, if anything
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from contextlib import suppress
from pathlib import Path


def write_durably(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Replace the contents of `path`. The data is on disk before it gets the name.

    A file that lies under the name of the fresh one, such as a link that somebody put there, is not written through.

    Args:
        mode: permissions; None: those of a new file.
    """
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        with fresh.open("xb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and links in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(directory: Path) -> None:
    """Make everything durable that was written to the file system of `directory`, by syncfs(2).

    An environment has thousands of small files. One fsync for each would cost a flush of the disk each.

    Raises:
        OSError: the kernel could not write all of it (reported since Linux 5.8).
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove what lies at `path`, if anything: a directory with all that is in it, a file, or a link itself."""
    if not os.path.lexists(path):
        return
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        remove_at(parent, path.name)
    except RecursionError as exc:
        raise OSError(errno.ENAMETOOLONG, "directories are nested too deeply to be removed", str(path)) from exc
    finally:
        os.close(parent)


def remove_at(parent: int, name: str) -> None:
    """Remove `name` from the open directory `parent`.

    Another user may own what is removed and exchange it meanwhile: no link is followed, at any depth, and what is gone
    already is no error.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            return
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            for inner in os.listdir(directory):
                remove_at(directory, inner)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=parent)
