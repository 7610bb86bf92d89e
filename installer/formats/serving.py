"""The lock that a running appliance holds on its site, for those who must not remove what is served.

`state/supervisor.lock` is a plain file. The supervisor owns it by a write lock of an open file description (fcntl(2),
F_OFD_SETLK), which the kernel releases when the supervisor dies, however it dies. Its first line is the name of the
release's directory that is served; it stays when the lock is released. An empty file: an older appliance.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

LOCK = "supervisor.lock"
_FLOCK = struct.Struct("@hhqqi0q")  # struct flock of 64-bit Linux: type, whence, start, length, pid
_LONGEST_NAME = 256


def is_served(state: Path) -> bool:
    """Whether a supervisor serves the site with this `state/` now. Asking takes no lock.

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        return is_owned_at(state / LOCK)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENXIO):  # a link or a socket, which no supervisor uses as its lock
            return False
        raise


def served_release(state: Path) -> str | None:
    """The release that the supervisor named when it took the lock; None if it named none."""
    try:
        descriptor = _opened(state / LOCK)
    except OSError:
        return None
    try:
        line = os.read(descriptor, _LONGEST_NAME).split(b"\n")[0]
    finally:
        os.close(descriptor)
    return os.fsdecode(line) or None


def is_owned(descriptor: int) -> bool:
    """Whether another open file description owns this file."""
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, whole_file(fcntl.F_RDLCK))
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def is_owned_at(path: Path) -> bool:
    """Whether the file has an owner; False where there is no such file.

    Raises:
        OSError: the file cannot be opened, or is a link.
    """
    try:
        descriptor = _opened(path)
    except FileNotFoundError:
        return False
    try:
        return is_owned(descriptor)
    finally:
        os.close(descriptor)


def whole_file(kind: int) -> bytes:
    """The argument of fcntl(2) for a lock of this kind on the whole file."""
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
