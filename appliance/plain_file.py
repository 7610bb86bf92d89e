"""Reads files in ``state/`` only if they are plain files. The owner of ``state/`` may have replaced one by a named
pipe, on which root's command would wait for ever, or by an endless device.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_plain(path: Path) -> BinaryIO:
    """The file at ``path``, or at what it links to, open for reading.

    Raises:
        OSError: it cannot be opened, or is no plain file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "is no plain file", str(path))


def read_plain(path: Path) -> bytes:
    """All of it.

    Raises:
        OSError: as `open_plain`.
    """
    with open_plain(path) as file:
        return file.read()
