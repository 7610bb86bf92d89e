"""Writes large files by a thread beside the one that reads and hashes, past the page cache where that is possible.

A copy into the page cache takes longer than the disk's own work, and pushes out what others have there: the weights of
the appliance that serves while a release is installed. So full pieces are written with O_DIRECT (open(2)). The last
piece of a file, and every piece on a file system without O_DIRECT, takes the usual way.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Optional

PIECE_BYTES = 8 << 20  # a multiple of every block size, so that its offsets suit O_DIRECT
_PIECES = 6  # in memory: one is filled, one is written, the others wait
_Piece = mmap.mmap  # O_DIRECT needs memory that begins at a page
_Freed = Optional[_Piece]


class DiskWriter:
    """Writes one file after the other. An error of the disk reaches the caller in a later call, at latest in `wait`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[Future[_Freed]] = deque()
        self._free = [mmap.mmap(-1, PIECE_BYTES) for _ in range(_PIECES)]
        self._piece, self._filled = self._free.pop(), 0
        self._file: _File | None = None

    @property
    def is_open(self) -> bool:
        """Whether a file was begun and is not complete."""
        return self._file is not None

    def open(self, path: Path) -> None:
        """Begin a file, which nobody else can read until it is closed."""
        self._file, self._filled = _File(path), 0

    def write(self, chunk: bytes) -> None:
        """Add bytes to the open file. Waits while too many pieces wait already."""
        view = memoryview(chunk)
        while view:
            part = view[: PIECE_BYTES - self._filled]
            self._piece[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == PIECE_BYTES:
                self._hand_over()

    def close(self, mode: int) -> None:
        """The open file is complete, and gets this mode. It is on the disk after `wait`."""
        if self._filled:
            self._hand_over()
        self._waiting.append(self._thread.submit(self._opened.close, mode))
        self._file = None

    def wait(self) -> None:
        """Return when everything is on the disk.

        Raises:
            OSError: the disk could not keep it.
        """
        while self._waiting:
            self._waiting.popleft().result()

    def stop(self) -> None:
        """End the thread when it has written what it was given. A file that is not complete is given up."""
        self._thread.shutdown()
        if self._file is not None:
            self._file.give_up()
            self._file = None

    @property
    def _opened(self) -> _File:
        if self._file is None:
            raise ValueError("no file is open")
        return self._file

    def _hand_over(self) -> None:
        """Let the thread write the piece, and go on with a free one."""
        self._waiting.append(self._thread.submit(self._opened.write, self._piece, self._filled))
        while not self._free:
            freed = self._waiting.popleft().result()
            if freed is not None:
                self._free.append(freed)
        self._piece, self._filled = self._free.pop(), 0


class _File:
    """One file, from its first byte to its last."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self._is_direct = False
        self._can_be_direct = True

    def write(self, piece: _Piece, count: int) -> _Piece:
        """Write the first bytes of a piece, and return it."""
        self._set_direct(count == PIECE_BYTES)
        with memoryview(piece) as view:
            written = 0
            while written < count:
                written += self._write_some(view[written:count])
        return piece

    def close(self, mode: int) -> None:
        """Put the whole file on the disk."""
        try:
            os.fchmod(self._descriptor, mode)
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def give_up(self) -> None:
        os.close(self._descriptor)

    def _write_some(self, view: memoryview) -> int:
        try:
            return os.write(self._descriptor, view)
        except OSError as exc:
            if exc.errno != errno.EINVAL or not self._is_direct:
                raise
        # The file system takes O_DIRECT but not this piece: a full disk has cut the one before, or its blocks are odd.
        self._can_be_direct = False
        self._set_direct(False)
        return os.write(self._descriptor, view)

    def _set_direct(self, wanted: bool) -> None:
        wanted = wanted and self._can_be_direct
        if wanted == self._is_direct:
            return
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
        except OSError as exc:
            if exc.errno != errno.EINVAL or not wanted:
                raise
            self._can_be_direct = False
        else:
            self._is_direct = wanted
