"""Threads that append at the same time share a transaction: while one commits, the others gather, and the first of them
then writes for all that have gathered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from appliance.audit.event import Header, NewEvent, SealedContent
from appliance.database.transactions import DatabaseError


@dataclass
class Waiting:
    """An event on its way. Its thread is ``woken`` when its transaction has ``ended``, or to begin one."""

    event: NewEvent
    sealed: SealedContent | None
    words: str
    header: Header | None = None
    error: Exception | None = None
    ended: bool = False
    woken: threading.Event = field(default_factory=threading.Event)


class GroupCommit:
    """Gathers what threads write; thread-safe."""

    def __init__(self, commit: Callable[[list[Waiting]], list[Header]]) -> None:
        """Args: commit: writes some events durably, in order, or raises and writes none."""
        self._commit = commit
        self._lock = threading.Lock()
        self._waiting: list[Waiting] = []  # guarded by _lock
        self._committing = False  # guarded by _lock: some thread writes, and will wake the next one

    def write(self, waiting: Waiting) -> None:
        """Return when the event is durable and has its header, or when it is not and may have its error."""
        with self._lock:
            self._waiting.append(waiting)
            follows, self._committing = self._committing, True
        if follows:
            waiting.woken.wait()
        if not waiting.ended:
            self._commit_waiting()

    def _commit_waiting(self) -> None:
        """Write all that waits; wake those it was for, and one to write what came meanwhile."""
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            for waiting, header in zip(batch, self._commit(batch), strict=True):
                waiting.header = header
        except (DatabaseError, sa.exc.IntegrityError) as exc:
            for waiting in batch:
                waiting.error = exc
        finally:
            with self._lock:
                next_one = self._waiting[:1]
                self._committing = bool(next_one)
            for waiting in batch:
                waiting.ended = True
            for waiting in next_one + batch:
                waiting.woken.set()
