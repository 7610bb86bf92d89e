"""The append-only log: an event is durable when `append` returns, or the caller gets an error and must not go on.

Appends of many threads share transactions (group_commit.py); appends of many processes queue in `Database.write`. Each
transaction adds rows whose hashes continue the Merkle tree, so that at every instant the rows are a complete tree.

What this covers: a crash loses no acknowledged event; numbers are dense and in order; verify.py finds a changed row.
What it does not: whoever can write the database can build another consistent log. Only a signed checkpoint that is
kept elsewhere shows that (note.py).
"""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from appliance.audit import merkle
from appliance.audit.details.indexed import indexed_text
from appliance.audit.details.kinds import check_details, parse_details
from appliance.audit.event import (
    SALT_BYTES,
    Actor,
    Content,
    Header,
    NewEvent,
    SealedContent,
    check_storable,
    encode_header,
    seal_content,
)
from appliance.audit.group_commit import GroupCommit, Waiting
from appliance.audit.stored_tree import LogDamagedError, check_inserted, log_size, stored_hashes
from appliance.audit.words import index_words
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import Database, DatabaseError, now_us, read_setting, write_setting
from appliance.errors import ApplianceError

_ORIGIN_PREFIX = "gpt-oss-appliance/audit/"


class RecordError(ApplianceError):
    """The event is not in the record: what it describes must not happen."""


class EventNotFoundError(ApplianceError):
    """The log has no event with this number."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"the log has no event {sequence}")
        self.sequence = sequence


@dataclass(frozen=True)
class Event:
    """A stored event. ``sealed`` is None when it never had content or when that was erased."""

    header: Header
    sealed: SealedContent | None

    @property
    def sequence(self) -> int:
        return self.header.sequence

    @property
    def erased(self) -> bool:
        """Its content was there and is gone."""
        return self.sealed is None and self.header.commitment is not None

    @property
    def content(self) -> Content | None:
        """What was said or done; of details that cannot be read, why."""
        if self.sealed is None:
            return None
        return Content(self.sealed.text, parse_details(self.header.action, self.sealed.details))


class AuditLog:
    """Appends to and reads the log of one database; thread-safe."""

    def __init__(
        self,
        database: Database,
        *,
        clock_us: Callable[[], int] = now_us,
        random_bytes: Callable[[int], bytes] = os.urandom,
        refusal: Callable[[], str | None] = lambda: None,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        """Open the log. A damaged log is read, verified and continued; the signer says what is wrong with it.

        Only a log whose tree cannot be continued, because a hash at its right edge is gone, refuses to append.

        Args:
            refusal: why no prompt may be recorded now, as a sentence for people; None if it may (disk.py).
            make_room: give the disk's reserve back; whether that made room.
        Raises:
            DatabaseError: the database cannot be used.
        """
        self.database = database
        self._clock_us = clock_us
        self._random_bytes = random_bytes
        self.refusal = refusal
        self._make_room = make_room
        self._group = GroupCommit(self._commit)
        self._probing = threading.Lock()
        self._written_s = -math.inf  # when the last append or probe went well; an append that fails forgets it
        self.origin = _load_origin(database)
        self.damage = self._edge_damage()

    def append(self, event: NewEvent) -> Header:
        """Record one event durably.

        Raises:
            RecordError: it is not recorded.
            ValueError: it cannot be stored exactly (NUL, a lone surrogate, a value that is not JSON).
        """
        waiting = self._prepared(event)
        self._group.write(waiting)
        if waiting.header is None:
            raise RecordError("the record could not be written") from waiting.error
        return waiting.header

    def append_the_end(self, event: NewEvent) -> Header:
        """Record the end of what has begun, on a full disk with the room of the reserve.

        Raises:
            RecordError, ValueError: as `append`.
        """
        try:
            return self.append(event)
        except RecordError:
            if not self._make_room():
                raise
        return self.append(event)

    def append_in(self, connection: sa.Connection, event: NewEvent) -> Header:
        """Record one event in the caller's own transaction, which must be ``database.write(serial=True)``.

        Raises:
            RecordError, ValueError: as `append`; let it end the transaction.
        """
        return self.append_many_in(connection, [event])[0]

    def append_many_in(self, connection: sa.Connection, events: Iterable[NewEvent]) -> list[Header]:
        """Record events in order, as `append_in`."""
        return self._insert(connection, [self._prepared(event) for event in events])

    def stored_origin(self) -> str:
        """The log's name as the database has it now; empty when it is gone."""
        with self.database.read() as connection:
            return read_setting(connection, "audit_origin") or ""

    def size(self) -> int:
        """How many events there are, which is also the number of the last."""
        with self.database.read() as connection:
            return log_size(connection)

    def check_writable(self, *, max_age_s: float = 0.0) -> None:
        """Write to the log's database, durably and without an event, unless something was written so lately.

        Raises:
            DatabaseError: it cannot be written.
        """
        with self._probing:
            if time.monotonic() - self._written_s < max_age_s:
                return
            try:
                with self.database.write(serial=True) as connection:
                    write_setting(connection, "written_us", str(self._clock_us()))
            except sa.exc.IntegrityError as exc:
                raise DatabaseError(f"the database refuses to be written: {exc.orig}") from exc
            self._written_s = time.monotonic()

    def get(self, sequence: int) -> Event:
        """One event.

        Raises:
            EventNotFoundError: there is none with this number.
        """
        query = select_events().where(audit_events.c.sequence == sequence)
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise EventNotFoundError(sequence)
        return event_of(row)

    def root(self, size: int) -> bytes:
        """Root of the tree over the first `size` events, from the stored hashes."""
        return self._range_hashes([merkle.Range(0, size)])[0]

    def subtree_hashes(self, size: int) -> list[bytes]:
        """Stored hashes of ``merkle.covering(0, size)``."""
        with self.database.read() as connection:
            return stored_hashes(connection, merkle.covering(0, size))

    def stored_hashes(self, subtrees: list[merkle.Subtree]) -> list[bytes]:
        """Stored hashes of complete subtrees.

        Raises:
            LogDamagedError: one is missing.
        """
        with self.database.read() as connection:
            return stored_hashes(connection, subtrees)

    def inclusion_proof(self, sequence: int, size: int) -> list[bytes]:
        """Proof that event `sequence` is in the tree of `size`, for `merkle.verify_inclusion` at index sequence - 1."""
        return self._range_hashes(merkle.inclusion_ranges(sequence - 1, size))

    def consistency_proof(self, old: int, new: int) -> list[bytes]:
        """Proof that the tree of `new` continues the tree of `old`."""
        return self._range_hashes(merkle.consistency_ranges(old, new))

    def _edge_damage(self) -> str | None:
        try:
            self.subtree_hashes(self.size())
        except LogDamagedError as exc:
            return str(exc)
        return None

    def _prepared(self, event: NewEvent) -> Waiting:
        """What can be done, and refused, before the transaction that others share."""
        if self.damage:
            raise RecordError(f"the log is damaged: {self.damage}")
        for text in (event.subject, event.actor.user_id, event.actor.name, event.actor.address):
            check_storable(text)
        if event.content is None:
            return Waiting(event, None, "")
        check_details(event.action, event.content.details)
        sealed = seal_content(event.content, self._random_bytes(SALT_BYTES))
        return Waiting(event, sealed, indexed_text(sealed.text, sealed.details))

    def _commit(self, batch: list[Waiting]) -> list[Header]:
        """Write what several threads append in one transaction."""
        try:
            with self.database.write(serial=True) as connection:
                headers = self._insert(connection, batch)
        except (DatabaseError, sa.exc.IntegrityError):
            self._written_s = -math.inf
            raise
        self._written_s = time.monotonic()
        return headers

    def _insert(self, connection: sa.Connection, batch: list[Waiting]) -> list[Header]:
        size = log_size(connection)
        edge = merkle.RightEdge(size, stored_hashes(connection, merkle.covering(0, size)))
        headers, rows = [], []
        for waiting in batch:
            event, sealed = waiting.event, waiting.sealed
            header = Header(
                sequence=edge.size + 1,
                time_us=self._clock_us(),
                actor=event.actor,
                action=event.action,
                outcome=event.outcome,
                subject=event.subject,
                commitment=None if sealed is None else sealed.commitment(),
            )
            completed = edge.append(merkle.leaf_hash(encode_header(header)))
            headers.append(header)
            rows.append(_row_of(header, b"".join(completed)))
        contents = [
            {"sequence": header.sequence, "salt": sealed.salt, "text": sealed.text, "details": sealed.details}
            for header, sealed in ((h, w.sealed) for h, w in zip(headers, batch, strict=True))
            if sealed is not None
        ]
        connection.execute(audit_events.insert(), rows)
        if contents:
            connection.execute(audit_contents.insert(), contents)
        check_inserted(connection, size, len(rows), len(contents))
        words = [(h.sequence, w.words) for h, w in zip(headers, batch, strict=True) if w.words]
        index_words(self.database, connection, words)
        return headers

    def _range_hashes(self, ranges: Iterable[merkle.Range]) -> list[bytes]:
        parts = [merkle.covering(*part) for part in ranges]
        with self.database.read() as connection:
            hashes = stored_hashes(connection, [subtree for part in parts for subtree in part])
        remaining = iter(hashes)
        return [merkle.fold([next(remaining) for _ in part]) for part in parts]


def select_events() -> sa.Select[Any]:
    """Events with their content, for `event_of`."""
    contents = audit_contents.c
    joined = audit_events.outerjoin(audit_contents, audit_events.c.sequence == contents.sequence)
    return sa.select(audit_events, contents.salt, contents.text, contents.details).select_from(joined)


def event_of(row: sa.Row[Any]) -> Event:
    """The event of a row of `select_events`."""
    sealed = None if row.salt is None else SealedContent(row.salt, row.text, row.details)
    return Event(header_of(row), sealed)


def header_of(row: sa.Row[Any]) -> Header:
    """The header in a row of audit_events."""
    actor = Actor(row.actor_id, row.actor_name, row.via, row.address)
    return Header(row.sequence, row.time_us, actor, row.action, row.outcome, row.subject, row.commitment)


def _row_of(header: Header, subtrees: bytes) -> dict[str, object]:
    return {
        "sequence": header.sequence,
        "time_us": header.time_us,
        "actor_id": header.actor.user_id,
        "actor_name": header.actor.name,
        "via": header.actor.via,
        "address": header.actor.address,
        "action": header.action,
        "outcome": header.outcome,
        "subject": header.subject,
        "commitment": header.commitment,
        "subtrees": subtrees,
    }


def _load_origin(database: Database) -> str:
    """The log's name in checkpoints, drawn when the log is first opened."""
    with database.read() as connection:
        origin = read_setting(connection, "audit_origin")
    if origin is None:
        with database.write(serial=True) as connection:
            origin = read_setting(connection, "audit_origin") or _ORIGIN_PREFIX + secrets.token_hex(8)
            write_setting(connection, "audit_origin", origin)
    return origin
