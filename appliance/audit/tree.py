"""Recomputes the tree of the stored events, row by row, and says which events do not fit.

1. Events are numbered 1 to N without a gap.
2. Each header, encoded anew, has the leaf hash stored with it.
3. Each stored hash over several events is that of the two below it.
4. Each content has the commitment in its header; content that is gone is named by a ``content_erased`` event.
Besides, times that run backwards or leap are remarks: a wrong clock is no damage, but a reviewer must know of it.

A fault found at one place is not reported again at every place above: the comparison goes on with the stored hash.
`TreeCheck.add_rows` is the one loop that is written for speed: a million events take seconds, in memory of a few rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from appliance.audit.event import encode_actor, encode_content, encode_header_parts
from appliance.audit.fault import MAX_FAULTS, Fault
from appliance.audit.merkle import HASH_BYTES, completed_subtrees, fold, node_hash
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import as_iso

CHUNK_EVENTS = 2000
# Times are taken one after the other by processes of one machine. A clock that is being corrected may step back by
# milliseconds; a second is more than any correction that a time service makes without being told to.
BACKWARDS_US = 1_000_000
# An appliance may stand still over a holiday. A longer silence, or a clock that was set ahead, is worth a question.
LEAP_US = 14 * 86_400 * 1_000_000
MAX_REMARKS = 100
_MAX_KNOWN_ACTORS = 5000
_LONGEST_GAP = 100_000  # missing events that are counted one by one

Row = tuple[Any, ...]
_COLUMNS = (
    "e.sequence, e.time_us, e.actor_id, e.actor_name, e.via, e.address, e.action, e.outcome, e.subject, e.commitment, "
    "e.subtrees, c.salt, c.text, c.details"
)
_JOINED = "audit_events e LEFT JOIN audit_contents c ON c.sequence = e.sequence"


@dataclass
class Marks:
    """Sizes at which `reached` is told the root so far, None when it cannot be known; in ascending order."""

    sizes: Iterator[int]
    reached: Callable[[int, bytes | None], None]
    next_size: int = field(init=False)

    def __post_init__(self) -> None:
        self.advance()

    def advance(self) -> None:
        self.next_size = next(self.sizes, -1)


class TreeCheck:
    """Goes through the stored events in order and compares each with the tree they should make."""

    def __init__(
        self, size: int = 0, hashes: Sequence[bytes] = (), *, erased: Callable[[], list[tuple[int, int]]],
        marks: Marks | None = None, last_us: int | None = None,
    ) -> None:  # fmt: skip
        """Begin after `size` events whose subtrees, covering(0, size), have `hashes`.

        Args:
            last_us: time of the event before, if there is one.
            erased: says which contents the log says were erased; asked once, when the first one is gone.
        """
        self.size = size
        self.faults: list[Fault] = []
        self.remarks: list[Fault] = []
        self.erased = 0
        self._edge: list[bytes | None] = list(hashes)  # None: a hash that cannot be known
        self._load_erased = erased
        self._erased_ranges: list[tuple[int, int]] | None = None
        self._marks = marks or Marks(iter(()), lambda _size, _root: None)
        self._last_us = last_us
        self._second, self._second_text = -1, ""
        self._actors: dict[Row, str] = {}
        self._tell_root(size)

    def forget_edge(self) -> None:
        """Nothing is known of the subtrees so far."""
        self._edge = [None] * self.size.bit_count()

    def root(self) -> bytes | None:
        """Root so far, from stored hashes; None when it cannot be known."""
        known = [value for value in self._edge if value is not None]
        return fold(known) if len(known) == len(self._edge) else None

    def add_missing(self, last: int, message: str) -> None:
        """The events up to number `last` are not there."""
        first, count = self.size + 1, last - self.size
        self._fault(first, last, message)
        if count > _LONGEST_GAP:
            self.size = last
            self._edge = [None] * last.bit_count()
            while -1 < self._marks.next_size <= last:
                self._tell_root(self._marks.next_size)
            return
        for _ in range(count):
            self._grow(None, b"")

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Check the next events, rows of `_COLUMNS`; gaps before and between them are missing events."""
        marks, edge = self._marks, self._edge
        for row in rows:
            sequence, time_us = row[0], row[1]
            if sequence != self.size + 1:
                self._add_gap(sequence - 1)
                edge = self._edge
            try:
                leaf = sha256(b"\x00" + self._header(row)).digest()
            except (ValueError, TypeError, AttributeError, OverflowError):  # SQLite keeps any type in any column
                self.add_missing(sequence, "its header is unreadable")
                continue
            if row[9] is None or row[11] is None or sha256(row[11] + _content(row)).digest() != row[9]:
                self._check_content(sequence, row)
            if self._last_us is not None and not -BACKWARDS_US <= time_us - self._last_us <= LEAP_US:
                self._remark_time(sequence, time_us)
            self._last_us = time_us
            subtrees = row[10]
            if sequence & 1:
                if subtrees == leaf:
                    edge.append(leaf)
                    self.size = sequence
                    if sequence == marks.next_size:
                        self._tell_root(sequence)
                    continue
            elif self._fits(sequence, leaf, subtrees):
                continue
            self._grow_checked(sequence, leaf, subtrees)

    def _fits(self, sequence: int, leaf: bytes, subtrees: object) -> bool:
        """Take in an event that completes subtrees, if everything stored with it is right."""
        edge = self._edge
        top, kept, rest, used = leaf, leaf, sequence, 0
        while not rest & 1:
            used += 1
            left = edge[-used]
            if left is None:
                return False
            top = sha256(b"\x01" + left + top).digest()
            kept += top
            rest >>= 1
        if subtrees != kept:
            return False
        del edge[-used:]
        edge.append(top)
        self.size = sequence
        if sequence == self._marks.next_size:
            self._tell_root(sequence)
        return True

    def _header(self, row: Row) -> bytes:
        sequence, time_us, user_id, name, via, address, action, outcome, subject, commitment = row[:10]
        who = self._actors.get(row[2:7])
        if who is None:
            if len(self._actors) >= _MAX_KNOWN_ACTORS:
                self._actors.clear()
            who = self._actors[row[2:7]] = encode_actor(action, address, user_id, name, via)
        if type(time_us) is not int:
            raise TypeError("the time is not a number")
        second, part_us = divmod(time_us, 1_000_000)
        if second != self._second:
            self._second, self._second_text = second, as_iso(second * 1_000_000)[:20]
        return encode_header_parts(
            who, commitment, outcome, sequence, subject, f"{self._second_text}{part_us:06d}Z"
        ).encode()

    def _add_gap(self, last: int) -> None:
        many = last > self.size + 1
        self.add_missing(last, "they are missing" if many else "it is missing")

    def _grow_checked(self, sequence: int, leaf: bytes, subtrees: object) -> None:
        stored = subtrees if isinstance(subtrees, bytes) else b""
        if len(stored) != HASH_BYTES * completed_subtrees(sequence):
            self._fault(sequence, sequence, "its tree hashes are incomplete")
            stored = b""
        self._grow(leaf, stored)

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
        if self.size == self._marks.next_size:
            self._tell_root(self.size)

    def _tell_root(self, size: int) -> None:
        while self._marks.next_size == size:
            self._marks.reached(size, self.root())
            self._marks.advance()

    def _check_content(self, sequence: int, row: Row) -> None:
        commitment, salt = row[9], row[11]
        if commitment is None:
            if salt is not None:
                self._fault(sequence, sequence, "it has content, but was recorded without")
        elif salt is None:
            self.erased += 1
            if not self._was_erased(sequence):
                self._fault(sequence, sequence, "its content is gone, and no event says that it was erased")
        else:
            self._fault(sequence, sequence, "its content is not what was recorded")

    def _was_erased(self, sequence: int) -> bool:
        if self._erased_ranges is None:
            self._erased_ranges = self._load_erased()
        before = bisect_right(self._erased_ranges, sequence, key=lambda part: part[0])
        return before > 0 and self._erased_ranges[before - 1][1] >= sequence

    def _remark_time(self, sequence: int, time_us: int) -> None:
        if self._last_us is None or len(self.remarks) >= MAX_REMARKS:
            return
        way = "before" if time_us < self._last_us else "long after"
        message = f"its time, {as_iso(time_us)}, is {way} that of the event before it, {as_iso(self._last_us)}"
        self.remarks.append(Fault(sequence, sequence, message))

    def _fault(self, first: int, last: int, message: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(first, last, message))


def check_rows(
    connection: sa.Connection, check: TreeCheck, end: int, *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Feed `check` the stored events up to number `end`."""
    while check.size < end:
        try:
            rows = _read_rows(connection, check.size, end, CHUNK_EVENTS)
        except _unreadable(connection):
            _check_one_by_one(connection, check, end)
        else:
            if not rows:
                break
            check.add_rows(rows)
        if progress:
            progress(check.size, end)
    if check.size < end:
        check.add_missing(end, "they are missing" if end > check.size + 1 else "it is missing")


def accepted_ranges(faults: Sequence[Fault], size: int) -> list[tuple[int, int]]:
    """The events that `faults` are about, as few ranges; numbers after `size` are left out."""
    ranges: list[tuple[int, int]] = []
    for first, last in sorted((fault.first, fault.last) for fault in faults if fault.last <= size):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], last))
        else:
            ranges.append((first, last))
    return ranges


def is_accepted(fault: Fault, accepted: Sequence[tuple[int, int]]) -> bool:
    """Whether a reviewer has acknowledged that these events are damaged."""
    return any(first <= fault.first and fault.last <= last for first, last in accepted)


def erased_ranges(connection: sa.Connection) -> list[tuple[int, int]]:
    """The erased events as disjoint ranges in order. An event excuses only events before itself."""
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


def _content(row: Row) -> bytes:
    """The bytes that the header commits to. A value that cannot be a content has no right digest."""
    try:
        return encode_content(row[12], row[13])
    except (TypeError, ValueError):
        return b"\x00"


def _unreadable(connection: sa.Connection) -> tuple[type[Exception], ...]:
    """What reading a damaged row raises; rows come from the driver itself, whichever it is."""
    driver = connection.dialect.loaded_dbapi
    return (driver.Error, sa.exc.SQLAlchemyError, ValueError, TypeError)


def _read_rows(connection: sa.Connection, after: int, end: int, limit: int) -> list[Row]:
    """The next rows after number `after`, as the driver gives them: an object for each would double the time."""
    where = f"e.sequence > {after:d} AND e.sequence <= {end:d} ORDER BY e.sequence LIMIT {limit:d}"
    cursor = connection.connection.cursor()
    try:
        cursor.execute(f"SELECT {_COLUMNS} FROM {_JOINED} WHERE {where}")  # noqa: S608 - numbers alone
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _check_one_by_one(connection: sa.Connection, check: TreeCheck, end: int) -> None:
    """Check a chunk row by row, because one bad row keeps the driver from reading the whole."""
    columns = audit_events.c
    query = sa.select(columns.sequence).where(columns.sequence > check.size, columns.sequence <= end)
    numbers = connection.scalars(query.order_by(columns.sequence).limit(CHUNK_EVENTS)).all()
    for number in numbers:
        try:
            check.add_rows(_read_rows(connection, number - 1, number, 1))
        except _unreadable(connection):
            check.add_missing(number, "it is missing or unreadable")
    if not numbers:
        check.add_missing(end, "they are missing or unreadable")


def strays(connection: sa.Connection) -> list[Fault]:
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
