"""Locks on files by flock(2): waiting for one, but not for ever, and asking whether somebody holds one.

Whoever may open a file, even only to read it, can lock it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

_LOOK_AGAIN_S: Final = 0.02


def lock_within(descriptor: int, operation: int, limit_s: float) -> bool:
    """Lock an open file as flock(2) does (``LOCK_EX``, ``LOCK_SH``); False if it did not become free in time.

    The kernel cannot wait for a limited time, so this asks again and again. That suits locks that few processes want;
    locks that many want have a queue (write_queue.py).
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


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on this file; False where there is no such file.

    The kernel releases a lock when its holder dies, however it dies.

    Raises:
        OSError: what is there cannot be opened, or is a link.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        return is_locked(descriptor)
    finally:
        os.close(descriptor)


def is_locked(descriptor: int) -> bool:
    """Whether somebody else holds the lock on an open file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
