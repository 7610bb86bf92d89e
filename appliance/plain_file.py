"""Reads files in ``state/`` only if they are plain files.

The owner of ``state/`` may have replaced a file by a named pipe, for which a command of root would wait for ever, or by
an endless device.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_plain(path: Path) -> BinaryIO:
    """Open the file at ``path``, or the target of a link there, for reading.

    Raises:
        OSError: it cannot be opened, or is not a plain file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "is no plain file", str(path))


def read_plain(path: Path) -> bytes:
    """The contents of the plain file at ``path``.

    Raises:
        OSError: as `open_plain`.
    """
    with open_plain(path) as file:
        return file.read()
