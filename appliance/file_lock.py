"""Two kinds of locks on files. The kernel releases both when the holder dies, however it dies.

Ownership (`own`, `is_owned`, `is_owned_at`): a process shows that it lives and has the file. Asking takes no lock, not
even for a moment, so it never blocks a process that wants to become the owner. These are write locks of an open file
description (fcntl(2), F_OFD_SETLK): only a process that may write the file can hold one.

Mutual exclusion (`lock_within`): flock(2), for a limited time. Any process that may open the file, even only for
reading, can hold this lock.
"""

from __future__ import annotations

import errno
import fcntl
import time
from typing import Final

from installer.formats.serving import is_owned, is_owned_at, whole_file

__all__ = ["is_owned", "is_owned_at", "lock_within", "own"]  # the installer asks, too, so asking is defined with it

_LOOK_AGAIN_S: Final = 0.02
_REFUSED: Final = (errno.EAGAIN, errno.EACCES)


def own(descriptor: int, *, wait: bool = False) -> bool:
    """Own a file that is open for writing, until its open file description is closed; False if it has another owner.

    Args:
        wait: wait until the other owner has ended; the result is then True.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, whole_file(fcntl.F_WRLCK))
    except OSError as exc:
        if exc.errno not in _REFUSED:
            raise
        return False
    return True


def lock_within(descriptor: int, operation: int, limit_s: float) -> bool:
    """Lock an open file as flock(2) does (``LOCK_EX``, ``LOCK_SH``); False if it did not become free in time.

    The kernel cannot wait for a limited time, so this polls. Polling suits locks that few processes want; locks that
    many processes want have a queue (write_queue.py).
    """
    deadline_s = time.monotonic() + limit_s
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_LOOK_AGAIN_S)
        else:
            return True
