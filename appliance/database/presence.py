"""Which processes that run turns are alive, as the kernel knows it: each holds a lock on a file of its own.

A prompt is recorded with the id of the process that runs its turn. However that process dies, the kernel releases its
lock, and then no process is left that could record the answer. An id is never used twice.

    presence.own_id()        the id of this process, made for its first turn
    presence.is_alive(id)    whether that process still holds its lock
    presence.forget_dead()   removes the files of processes that have ended
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from pathlib import Path

from appliance.errors import ApplianceError
from appliance.file_lock import is_owned_at, own

_MOST_TRIES = 100  # at making a file and locking it before any other process does


class PresenceError(ApplianceError):
    """The lock of this process cannot be made."""


class Presence:
    """The processes that share one directory; thread-safe. Make it after a fork, like its database."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._own_id = ""  # guarded by _lock, as is _descriptor
        self._descriptor = -1

    def own_id(self) -> str:
        """The id of this process.

        Raises:
            PresenceError: its lock cannot be made.
        """
        with self._lock:
            if not self._own_id:
                try:
                    self._directory.mkdir(mode=0o700, exist_ok=True)
                    for _ in range(_MOST_TRIES):
                        self._own_id = self._own_id or self._try_to_appear()
                except OSError as exc:
                    raise PresenceError(f"{self._directory}: cannot be written: {exc.strerror}") from exc
            if not self._own_id:
                raise PresenceError(f"{self._directory}: another process locks every file that is made here")
            return self._own_id

    def is_alive(self, process_id: str) -> bool:
        """Whether the process with this id still runs."""
        if not process_id.isalnum():  # not an id of ours, and it must not become a path
            return False
        try:
            return is_owned_at(self._directory / process_id)
        except OSError:  # not a file that a process of ours made
            return False

    def forget_dead(self) -> None:
        """Remove every file that no living process has locked; directories stay."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in self._directory.iterdir():
                if not self.is_alive(path.name):
                    with contextlib.suppress(OSError):
                        path.unlink()

    def disappear(self) -> None:
        """Release the lock: this process will record nothing more."""
        with self._lock:
            if self._own_id:
                (self._directory / self._own_id).unlink(missing_ok=True)
                os.close(self._descriptor)
            self._own_id = ""

    def _try_to_appear(self) -> str:
        """A new id with its locked file; "" if another process was quicker to lock the file or to remove it as dead."""
        process_id = secrets.token_hex(8)
        path = self._directory / process_id
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            is_ours = own(descriptor)  # another process may hold it for ever
            if is_ours and path.stat().st_ino == os.fstat(descriptor).st_ino:
                self._descriptor = descriptor
                return process_id
        except FileNotFoundError:
            pass
        os.close(descriptor)
        return ""
