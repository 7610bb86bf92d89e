"""Checks the stored log against itself and against every signed checkpoint, and says which events are broken.

1. Events are numbered 1 to N without a gap.
2. Each header, encoded anew, has the leaf hash stored with it.
3. Each stored hash over several events is that of the two below it.
4. Each content has the commitment in its header; content that is gone is named by a ``content_erased`` event.
5. Each checkpoint, in the database and in files, has a good signature, and the tree had its root at its size.

A fault found at one place is not reported again at every place above: the comparison goes on with the stored hash. Who
rewrites a whole log consistently is found by 5 alone, in the stretch between two checkpoints.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from appliance.audit.event import Actor, Content, Header, NewEvent, SealedContent, encode_header
from appliance.audit.log import header_of, select_events
from appliance.audit.merkle import HASH_BYTES, completed_subtrees, fold, leaf_hash, node_hash
from appliance.audit.note import Checkpoint, CheckpointError, Verifier, load_verifier, verify_checkpoint
from appliance.database import Database, as_iso, audit_checkpoints, audit_contents, audit_events
from appliance.errors import ApplianceError

MAX_FAULTS = 1000  # a report names at most this many
_CHUNK_EVENTS = 2000


@dataclass(frozen=True)
class Fault:
    """What is wrong with the events ``first`` to ``last``."""

    first: int
    last: int
    message: str

    def __str__(self) -> str:
        events = f"event {self.first}" if self.first == self.last else f"events {self.first} to {self.last}"
        return f"{events}: {self.message}"


class LogBrokenError(ApplianceError):
    """The stored log is not what was recorded."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(f"the log is broken: {faults[0]}" + (f" (and {len(faults) - 1} more)" * (len(faults) > 1)))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class VerificationReport:
    """What `verify_log` found. ``newest`` is the largest checkpoint with a good signature."""

    size: int
    root: bytes | None  # None when events are missing
    erased: int
    checkpoints: int
    newest: Checkpoint | None
    faults: tuple[Fault, ...]
    duration_s: float

    @property
    def is_intact(self) -> bool:
        return not self.faults


class TreeCheck:
    """Goes through the stored events in order and compares each with the tree they should make."""

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        """Begin after `size` events whose subtrees, covering(0, size), have `hashes`."""
        self.size = size
        self.faults: list[Fault] = []
        self.erased = 0
        self._edge: list[bytes | None] = list(hashes)  # None: a hash that cannot be known
        self._gone: list[int] = []

    def root(self) -> bytes | None:
        """Root so far, from stored hashes; None when it cannot be known."""
        known = [value for value in self._edge if value is not None]
        return fold(known) if len(known) == len(self._edge) else None

    def add_missing(self, message: str) -> None:
        """The next event is not there."""
        self._fault(self.size + 1, self.size + 1, message)
        self._grow(None, b"")

    def add(self, row: sa.Row[Any]) -> None:
        """Check the next event, a row of `select_events`."""
        sequence = self.size + 1
        header = header_of(row)
        try:
            leaf = leaf_hash(encode_header(header))
        except (ValueError, TypeError, AttributeError, OverflowError):  # SQLite keeps any type in any column
            self.add_missing("its header is unreadable")
            return
        self._check_content(header, row)
        subtrees = row.subtrees if isinstance(row.subtrees, bytes) else b""
        if len(subtrees) != HASH_BYTES * completed_subtrees(sequence):
            self._fault(sequence, sequence, "its tree hashes are incomplete")
            subtrees = b""
        self._grow(leaf, subtrees)

    def finish(self, connection: sa.Connection) -> list[Fault]:
        """All faults, including content that is gone without an erasure."""
        erased = _erased_ranges(connection) if self._gone else []
        for sequence in self._gone:
            before = erased[: bisect_right(erased, sequence, key=lambda part: part[0])]
            if not before or before[-1][1] < sequence:
                self._fault(sequence, sequence, "its content is gone, and no event says that it was erased")
        return self.faults

    def _grow(self, leaf: bytes | None, subtrees: bytes) -> None:
        """Compare the event's stored hashes with those below each, and go on with the stored ones."""
        self.size += 1
        expected, kept = leaf, None
        for level in range(completed_subtrees(self.size)):
            if level:
                left = self._edge.pop()
                expected = None if left is None or kept is None else node_hash(left, kept)
            kept = subtrees[level * HASH_BYTES : (level + 1) * HASH_BYTES] or expected
            if expected is not None and kept != expected:
                first = self.size - (1 << level) + 1
                what = "the hash over them does not fit" if level else "its header does not fit its hash"
                self._fault(first, self.size, f"{what}: something was changed")
        self._edge.append(kept)

    def _check_content(self, header: Header, row: sa.Row[Any]) -> None:
        sequence = self.size + 1
        if header.commitment is None:
            if row.salt is not None:
                self._fault(sequence, sequence, "it has content, but was recorded without")
        elif row.salt is None:
            self.erased += 1
            self._gone.append(sequence)
        else:
            try:
                fits = SealedContent(row.salt, row.text, row.details).commitment() == header.commitment
            except (ValueError, TypeError):
                fits = False
            if not fits:
                self._fault(sequence, sequence, "its content is not what was recorded")

    def _fault(self, first: int, last: int, message: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(first, last, message))


def check_rows(
    connection: sa.Connection, check: TreeCheck, end: int, *, after_each: Callable[[TreeCheck], None] | None = None
) -> None:
    """Feed `check` the stored events up to number `end`, missing ones as missing."""
    for sequence, row in _stored_rows(connection, check.size, end):
        while check.size + 1 < sequence:
            check.add_missing("it is missing")
            if after_each:
                after_each(check)
        if row is None:
            check.add_missing("it is missing or unreadable")
        else:
            check.add(row)
        if after_each:
            after_each(check)


def verify_log(
    database: Database, state_dir: Path, *, progress: Callable[[int, int], None] | None = None
) -> VerificationReport:
    """Check everything listed above; `progress` is told (events checked, events) now and then.

    Raises:
        DatabaseError: the database cannot be read at all.
    """
    began_s = time.perf_counter()
    with database.read() as connection:
        size = connection.scalar(sa.select(sa.func.max(audit_events.c.sequence))) or 0
        checkpoints, faults = _load_checkpoints(connection, state_dir)
        comparison = _CheckpointComparison(checkpoints)

        def after_each(check: TreeCheck) -> None:
            comparison.compare(check)
            if progress and check.size % _CHUNK_EVENTS == 0:
                progress(check.size, size)

        check = TreeCheck()
        comparison.compare(check)
        check_rows(connection, check, size, after_each=after_each)
        faults += _strays(connection) + check.finish(connection) + comparison.finish(size)
    faults.sort(key=lambda fault: (fault.first, fault.last))
    newest = checkpoints[-1] if checkpoints else None
    duration_s = time.perf_counter() - began_s
    return VerificationReport(size, check.root(), check.erased, len(checkpoints), newest, tuple(faults), duration_s)


def verified_event(by: Actor, report: VerificationReport) -> NewEvent:
    """The event that `by` had everything checked: what was found is part of it."""
    found = "intact" if report.is_intact else f"broken: {report.faults[0]}"
    signed = None if report.newest is None else report.newest.size
    details = {"events": report.size, "erased": report.erased, "signed_to": signed, "faults": len(report.faults)}
    return NewEvent(by, "record_verified", "ok" if report.is_intact else "failed", content=Content(found, details))


class _CheckpointComparison:
    """Compares checkpoints, smallest first, with the tree as it passes their sizes."""

    def __init__(self, checkpoints: list[Checkpoint]) -> None:
        self._waiting = checkpoints[::-1]
        self._good_size = 0
        self._faults: list[Fault] = []

    def compare(self, check: TreeCheck) -> None:
        while self._waiting and self._waiting[-1].size == check.size:
            checkpoint = self._waiting.pop()
            root = check.root()
            if root == checkpoint.root:
                self._good_size = checkpoint.size
            elif root is not None and not self._faults:  # every later one differs too
                message = f"not what was signed at {as_iso(checkpoint.time_us)}"
                self._faults.append(Fault(self._good_size + 1, checkpoint.size, message))

    def finish(self, size: int) -> list[Fault]:
        if self._waiting:
            largest = self._waiting[0]
            message = f"missing at the end: they were signed at {as_iso(largest.time_us)}"
            self._faults.append(Fault(size + 1, largest.size, message))
        return self._faults


def _stored_rows(connection: sa.Connection, after: int, end: int) -> Iterator[tuple[int, sa.Row[Any] | None]]:
    """(sequence, row) of the stored events after `after`; None for a row that cannot be read."""
    columns = audit_events.c
    query = select_events().order_by(columns.sequence)
    for start in range(after, end, _CHUNK_EVENTS):
        last = min(start + _CHUNK_EVENTS, end)
        try:
            rows = connection.execute(query.where(columns.sequence.between(start + 1, last))).all()
        except (sa.exc.SQLAlchemyError, ValueError, TypeError):  # one bad row spoils a chunk: find it
            for sequence in range(start + 1, last + 1):
                yield sequence, _read_one(connection, sequence)
        else:
            for row in rows:
                yield row.sequence, row


def _read_one(connection: sa.Connection, sequence: int) -> sa.Row[Any] | None:
    try:
        return connection.execute(select_events().where(audit_events.c.sequence == sequence)).one_or_none()
    except (sa.exc.SQLAlchemyError, ValueError, TypeError):
        return None


def _erased_ranges(connection: sa.Connection) -> list[tuple[int, int]]:
    """What the events say was erased, as disjoint ranges in order. An event speaks only of those before it."""
    ranges: list[tuple[int, int]] = []
    columns = audit_events.c
    query = sa.select(columns.sequence, columns.subject).where(columns.action == "content_erased")
    for first, last in sorted(_erased_by(row.sequence, row.subject) for row in connection.execute(query)):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], last))
        else:
            ranges.append((first, last))
    return ranges


def _erased_by(sequence: int, subject: object) -> tuple[int, int]:
    """The range that the event with this number excuses; an empty one where its subject is not one."""
    first, dash, last = subject.partition("-") if isinstance(subject, str) else ("", "", "")
    if not (dash and first.isascii() and first.isdecimal() and last.isascii() and last.isdecimal()):
        return (0, -1)
    return (max(1, int(first[:20])), min(int(last[:20]), sequence - 1))


def _strays(connection: sa.Connection) -> list[Fault]:
    """Rows that belong to no event: numbers below 1, contents without an event."""
    faults = []
    numbers = audit_events.c.sequence
    for sequence in connection.scalars(sa.select(numbers).where(numbers < 1).limit(MAX_FAULTS)):
        faults.append(Fault(sequence, sequence, "no event has such a number: it was put there"))
    contents = audit_contents.c.sequence
    orphans = sa.select(contents).where(~sa.exists().where(numbers == contents)).limit(MAX_FAULTS)
    for sequence in connection.scalars(orphans):
        faults.append(Fault(sequence, sequence, "it has content, but there is no such event"))
    return faults


def _load_checkpoints(connection: sa.Connection, state_dir: Path) -> tuple[list[Checkpoint], list[Fault]]:
    """Every checkpoint with a good signature, smallest first, and a fault for every other one."""
    sources = [
        (f"the checkpoint stored for {row.size} events", row.size, row.note)
        for row in connection.execute(sa.select(audit_checkpoints).order_by(audit_checkpoints.c.size))
    ]
    for path in sorted((state_dir / "audit").glob("checkpoint-*.txt")):
        sources.append((path.name, None, path.read_text(encoding="utf-8", errors="replace")))
    try:
        verifier = load_verifier(state_dir / "keys")
    except CheckpointError as exc:
        return [], [Fault(0, 0, str(exc))]
    if verifier is None and sources:
        return [], [Fault(0, 0, "there are checkpoints, but the public key state/keys/audit.pub is missing")]
    checkpoints, faults = [], []
    for where, size, note in sources:
        try:
            checkpoints.append(_verified(note, verifier, size))
        except CheckpointError as exc:
            faults.append(Fault(size or 0, size or 0, f"{where}: {exc}"))
    return sorted(checkpoints, key=lambda checkpoint: checkpoint.size), faults


def _verified(note: str, verifier: Verifier | None, size: int | None) -> Checkpoint:
    if verifier is None:
        raise RuntimeError("internal error: checkpoints were read without a key")
    checkpoint = verify_checkpoint(note, verifier)
    if size is not None and checkpoint.size != size:
        raise CheckpointError(f"it is for {checkpoint.size} events")
    return checkpoint

