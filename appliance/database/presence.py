"""Which processes that run turns are alive. A process's lock says so, and ends with it, however the process ends.

A prompt is recorded with the id of the process that runs its turn. Once no process holds the lock of that id, none is
left that could record the answer. An id is never used twice.

    presence.own_id()        the id of this process, made for its first turn
    presence.is_alive(id)    whether that process still holds its lock
    presence.forget_dead()   removes what processes that have ended left
    presence.disappear()     this process records nothing more

SQLite: a lock on a file of its own, which the kernel releases (`FilePresence`). PostgreSQL: an advisory lock of a
session of its own, which the server releases (`SessionPresence`).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

import sqlalchemy as sa

from appliance.errors import ApplianceError
from appliance.file_lock import is_owned_at, own

_MOST_TRIES = 100  # at making a file and locking it before any other process does
_ID_BYTES: Final = 8
_ID: Final = re.compile(r"[0-9a-f]{16}")


class PresenceError(ApplianceError):
    """The lock of this process cannot be made."""


class Presence(Protocol):
    """The processes that share one database; thread-safe. Make it after a fork, like its database."""

    def own_id(self) -> str:
        """The id of this process.

        Raises:
            PresenceError: its lock cannot be made.
        """

    def is_alive(self, process_id: str) -> bool:
        """Whether the process with this id still runs.

        Raises:
            DatabaseError: the database cannot be asked.
        """

    def forget_dead(self) -> None:
        """Remove what processes that have ended left; what else somebody has put there stays."""

    def disappear(self) -> None:
        """Release the lock: this process will record nothing more."""


class FilePresence:
    """Locks on files in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._own_id = ""  # guarded by _lock, as is _descriptor
        self._descriptor = -1

    def own_id(self) -> str:
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
        if not process_id.isalnum():  # not an id of ours, and it must not become a path
            return False
        try:
            return is_owned_at(self._directory / process_id)
        except OSError:  # not a file that a process of ours made
            return False

    def forget_dead(self) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in self._directory.iterdir():
                if not self.is_alive(path.name):
                    with contextlib.suppress(OSError):
                        path.unlink()

    def disappear(self) -> None:
        with self._lock:
            if self._own_id:
                (self._directory / self._own_id).unlink(missing_ok=True)
                os.close(self._descriptor)
            self._own_id = ""

    def _try_to_appear(self) -> str:
        """A new id with its locked file; "" if another process was quicker to lock the file or to remove it as dead."""
        process_id = secrets.token_hex(_ID_BYTES)
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


class SessionPresence:
    """Advisory locks of one PostgreSQL database: the id is the lock's key.

    A server that is restarted drops every lock. The next turn of this process takes its lock again; until then, turns
    that it runs count as lost.
    """

    def __init__(self, engine: sa.Engine, read: Callable[[], AbstractContextManager[sa.Connection]]) -> None:
        """Args: read: as `Database.read`."""
        self._engine = engine
        self._read = read
        self._lock = threading.Lock()
        self._own_id = ""  # guarded by _lock, as is _session
        self._session: sa.Connection | None = None

    def own_id(self) -> str:
        with self._lock:
            try:
                if self._session is None or not _is_open(self._session):
                    self._appear()
            except sa.exc.SQLAlchemyError as exc:
                raise PresenceError(f"no lock can be had from the database: {type(exc).__name__}") from exc
            return self._own_id

    def is_alive(self, process_id: str) -> bool:
        if not _ID.fullmatch(process_id):
            return False
        high, low = divmod(int(process_id, 16), 1 << 32)
        with self._read() as connection:
            return bool(connection.scalar(_HOLDERS, {"high": high, "low": low}))

    def forget_dead(self) -> None:
        """The server has forgotten them already."""

    def disappear(self) -> None:
        with self._lock:
            self._leave()
            self._own_id = ""

    def _appear(self) -> None:
        """Hold the lock in a session that is not used for anything else.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the server gives none.
            PresenceError: another session holds it.
        """
        self._leave()
        own_id = self._own_id or secrets.token_hex(_ID_BYTES)
        key = int.from_bytes(bytes.fromhex(own_id), signed=True)
        session = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        session.detach()  # else its lock would outlive it in the pool
        self._session = session
        session.execute(_STAY_OPEN)
        if not session.scalar(sa.select(sa.func.pg_try_advisory_lock(key))):
            self._leave()
            raise PresenceError("another session of the database holds the lock of this process")
        self._own_id = own_id

    def _leave(self) -> None:
        if self._session is not None:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self._session.close()
            self._session = None


# The two halves of a key of 64 bits, as the view of locks has them.
_HOLDERS: Final = sa.text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
    "AND classid = CAST(:high AS bigint)::oid AND objid = CAST(:low AS bigint)::oid "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_STAY_OPEN: Final = sa.text("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'")


def _is_open(session: sa.Connection) -> bool:
    try:
        session.execute(sa.text("SELECT 1"))
    except sa.exc.SQLAlchemyError:
        return False
    return True
