"""One writer at a time among all threads and processes, and nobody waits for ever.

A writer holds a lock on a file. The kernel serves waiting threads in their order, but the wait has no time limit, and
any process that may open the file (a backup that hangs, an intruder) can hold the lock for ever. So one thread of this
process waits in the kernel for the first writer of this process's queue, and each writer waits for that thread with a
time limit. A writer that gives up leaves the queue, and the thread serves the next one.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LONGEST_WAIT_S: Final = 10.0
_IDLE_S: Final = 5.0  # the thread ends after this time without a waiting writer


class StillLockedError(Exception):
    """Another process held the lock until the wait ended."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"another process holds {path.name} and does not give it back")


class _Waiting:
    """A writer in the queue; once it is `served`, `descriptor` holds the lock, or `error` says why none could."""

    def __init__(self) -> None:
        self.served = threading.Event()
        self.descriptor = -1
        self.error: OSError | None = None


class WriteQueue:
    """The queue of this process for the lock on one file; thread-safe. Make it after a fork."""

    def __init__(self, path: Path, *, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        self._path = path
        self._longest_wait_s = longest_wait_s
        self._changed = threading.Condition()
        self._queue: list[_Waiting] = []  # guarded by _changed, like _has_thread
        self._has_thread = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The lock, held until the block ends.

        Raises:
            StillLockedError: it was not free in time.
            OSError: the file cannot be opened.
        """
        descriptor = self._taken_at_once()
        if descriptor is None:
            descriptor = self._waited_for()
        try:
            yield
        finally:
            os.close(descriptor)

    def _taken_at_once(self) -> int | None:
        if self._queue:
            return None
        descriptor = self._opened()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(descriptor)
            if not isinstance(exc, BlockingIOError):
                raise
            return None
        return descriptor

    def _waited_for(self) -> int:
        waiting = _Waiting()
        with self._changed:
            self._queue.append(waiting)
            self._changed.notify()
            if not self._has_thread:
                self._has_thread = True
                threading.Thread(target=self._serve, name="write-queue", daemon=True).start()
        waiting.served.wait(self._longest_wait_s)
        with self._changed:
            if not waiting.served.is_set():
                self._queue.remove(waiting)
                raise StillLockedError(self._path)
        if waiting.error is not None:
            raise waiting.error
        return waiting.descriptor

    def _serve(self) -> None:
        """Wait in the kernel, and hand each lock to the first in the queue."""
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._queue, timeout=_IDLE_S):
                    self._has_thread = False
                    return
            descriptor, error = self._lock()
            with self._changed:
                if not self._queue:  # all have given up
                    if error is None:
                        os.close(descriptor)
                    continue
                first = self._queue.pop(0)
                first.descriptor, first.error = descriptor, error
                first.served.set()

    def _lock(self) -> tuple[int, OSError | None]:
        try:
            descriptor = self._opened()
        except OSError as exc:  # goes to the first in the queue, who would have met it too
            return -1, exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as exc:
            os.close(descriptor)
            return -1, exc
        return descriptor, None

    def _opened(self) -> int:
        return os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
