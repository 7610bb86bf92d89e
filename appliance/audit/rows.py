"""Events as they are found in the database: whole, or damaged by somebody who wrote there without the appliance.

SQLite keeps a value of any type in any column, and nothing here trusts one: a row that cannot be an event of this
release becomes a `DamagedEvent`, which says what is wrong and shows what stands in the row. No content of a row makes
a function of this module raise; a database that cannot be read does. Only the proof of a whole event shows that it is
the one that was recorded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_args

import sqlalchemy as sa

from appliance.audit.event import ACTIONS, SALT_BYTES, Action, Actor, Header, Outcome, SealedContent, Via
from appliance.audit.log import AuditLog, Event
from appliance.audit.merkle import HASH_BYTES, completed_subtrees
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import Database, DatabaseError, as_iso, is_undecodable

T = TypeVar("T")

MAX_RAW_CHARS: Final = 400  # of one column of a damaged row
_EXCERPT_CHARS: Final = 160
_BEGINNING_CHARS: Final = 600  # of the details: holds "beside", which sorts first
_STRETCH_EVENTS: Final = 1000
_STREAMED_ROWS: Final = 8  # of up to a few MiB each
_OUTCOMES: Final = get_args(Outcome)
_VIAS: Final = get_args(Via)
_HEADER_TEXTS: Final = ("actor_id", "actor_name", "via", "address", "action", "outcome", "subject")


@dataclass(frozen=True)
class DamagedEvent:
    """A row that is no event. ``header`` holds its values unchecked, None where they do not even have their types."""

    sequence: int
    problem: str
    raw: tuple[tuple[str, str], ...]  # column, and what stands in it, cut to `MAX_RAW_CHARS`
    header: Header | None = None
    leaf: bytes | None = None  # the stored hash of the event, if there is one
    content_fits: bool = False  # its content is the one that its header commits to


@dataclass(frozen=True)
class EventRow:
    """One line of a list; ``excerpt`` is the beginning of the content's text, ``beginning`` that of its details."""

    header: Header
    excerpt: str
    beginning: str
    erased: bool
    length: int = 0  # of the whole text, in characters

    @property
    def sequence(self) -> int:
        return self.header.sequence


def load_events(database: Database, sequences: Sequence[int]) -> dict[int, Event | DamagedEvent]:
    """The events with these numbers, as far as there are rows with them.

    Raises:
        DatabaseError: the database cannot be read.
    """
    contents = [_raw(audit_contents.c[name]) for name in ("salt", "text", "details")]
    return _load(database, sequences, contents, _whole_event)


def stream_events(database: Database, first: int, last: int) -> Iterator[Event | DamagedEvent]:
    """The events with these numbers in order, a few in memory at a time; details are not looked into.

    Raises:
        DatabaseError: the database cannot be read.
    """
    query = _joined([_raw(audit_contents.c[name]) for name in ("salt", "text", "details")])
    number = audit_events.c.sequence
    for start in range(first, last + 1, _STRETCH_EVENTS):  # a reading transaction each: the log's files can be tidied
        position, end = start, min(start + _STRETCH_EVENTS - 1, last)
        try:
            with database.read() as connection:
                wanted = query.where(number.between(start, end)).order_by(number)
                for row in connection.execution_options(yield_per=_STREAMED_ROWS).execute(wanted):
                    event = _made(dict(row._mapping), _exact_event)
                    position = event.sequence + 1
                    yield event
        except DatabaseError as exc:
            if not is_undecodable(exc):
                raise
            for sequence in range(position, end + 1):
                yield from load_events(database, [sequence]).values()


def load_rows(database: Database, sequences: Sequence[int]) -> dict[int, EventRow | DamagedEvent]:
    """What a list shows of these events, without reading long contents.

    Raises:
        DatabaseError: the database cannot be read.
    """
    text, details = audit_contents.c.text, audit_contents.c.details
    contents = [
        sa.func.substr(_raw(text), 1, _EXCERPT_CHARS).label("excerpt"),
        sa.func.substr(_raw(details), 1, _BEGINNING_CHARS).label("beginning"),
        sa.func.length(_raw(text)).label("length"),
        _raw(audit_contents.c.sequence).label("content_sequence"),
    ]
    return _load(database, sequences, contents, _list_row)


def newest_of(log: AuditLog, actions: Sequence[Action] = ()) -> Header | None:
    """Header of the newest whole event with one of these actions; none given: of any.

    Raises:
        DatabaseError: the database cannot be read.
    """
    query = sa.select(audit_events.c.sequence).order_by(audit_events.c.sequence.desc()).limit(1)
    if actions:
        query = query.where(audit_events.c.action.in_(actions))
    with log.database.read() as connection:
        sequence = connection.scalar(query)
    row = None if sequence is None else load_rows(log.database, [sequence]).get(sequence)
    return row.header if isinstance(row, EventRow) else None


def _load(
    database: Database,
    sequences: Sequence[int],
    contents: list[sa.Label[Any]],
    make: Callable[[Mapping[str, Any], Header], T],
) -> dict[int, T | DamagedEvent]:
    """All rows at once; one by one where the driver cannot decode one of them."""
    query = _joined(contents)
    found: dict[int, T | DamagedEvent] = {}
    for start in range(0, len(sequences), _STRETCH_EVENTS):  # a statement takes a limited number of values
        some = sequences[start : start + _STRETCH_EVENTS]
        rows = _rows(database, query, some)
        for sequence in some if rows is None else ():
            alone = _rows(database, query, [sequence])
            if alone is None:
                found[sequence] = _undecodable(database, sequence)
            else:
                found.update((row["sequence"], _made(row, make)) for row in alone)
        found.update((row["sequence"], _made(row, make)) for row in rows or ())
    return found


def _joined(contents: list[sa.Label[Any]]) -> sa.Select[Any]:
    columns = [_raw(column) for column in audit_events.c]
    joined = audit_events.outerjoin(audit_contents, audit_events.c.sequence == audit_contents.c.sequence)
    return sa.select(*columns, *contents).select_from(joined)


def _rows(database: Database, query: sa.Select[Any], sequences: Sequence[int]) -> list[Mapping[str, Any]] | None:
    """The rows, or None if the driver refuses to decode one of them."""
    try:
        with database.read() as connection:
            chosen = query.where(audit_events.c.sequence.in_(sequences))
            return [dict(row._mapping) for row in connection.execute(chosen)]
    except DatabaseError as exc:
        if is_undecodable(exc):
            return None
        raise


def _made(row: Mapping[str, Any], make: Callable[[Mapping[str, Any], Header], T]) -> T | DamagedEvent:
    try:
        return make(row, _checked_header(row))
    except _DamageError as exc:
        return DamagedEvent(
            row["sequence"], str(exc), _shown(row), _typed_header(row), _leaf(row), content_fits=_content_fits(row)
        )


class _DamageError(Exception):
    """What is wrong with a row."""


def _checked_header(row: Mapping[str, Any]) -> Header:
    """Raises: _DamageError: the header is none of this release."""
    header = _typed_header(row)
    if header is None:
        raise _DamageError("a column of its header holds a value of another type")
    if header.sequence < 1:
        raise _DamageError("no event has such a number: the row was put there")
    for name, value, known in (
        ("action", header.action, ACTIONS),
        ("outcome", header.outcome, _OUTCOMES),
        ("way in", header.actor.via, _VIAS),
    ):
        if value not in known:
            raise _DamageError(f"this release knows no {name} {value[:40]!r}")
    try:
        as_iso(header.time_us)
    except OverflowError as exc:
        raise _DamageError("its time is outside the calendar") from exc
    if header.commitment is not None and len(header.commitment) != HASH_BYTES:
        raise _DamageError("the digest of its content has the wrong length")
    subtrees = row["subtrees"]
    if not isinstance(subtrees, bytes) or len(subtrees) != HASH_BYTES * completed_subtrees(header.sequence):
        raise _DamageError("its tree hashes have the wrong length")
    return header


def _typed_header(row: Mapping[str, Any]) -> Header | None:
    if type(row["time_us"]) is not int or not all(isinstance(row[name], str) for name in _HEADER_TEXTS):
        return None
    if not isinstance(row["commitment"], bytes | None):
        return None
    actor = Actor(row["actor_id"], row["actor_name"], row["via"], row["address"])
    return Header(
        row["sequence"], row["time_us"], actor, row["action"], row["outcome"], row["subject"], row["commitment"]
    )


def _leaf(row: Mapping[str, Any]) -> bytes | None:
    subtrees = row["subtrees"]
    return subtrees[:HASH_BYTES] if isinstance(subtrees, bytes) and len(subtrees) >= HASH_BYTES else None


def _content_fits(row: Mapping[str, Any]) -> bool:
    salt, text, details = row.get("salt"), row.get("text"), row.get("details")
    if salt is None and text is None and details is None:
        return True
    if not (isinstance(salt, bytes) and isinstance(text, str) and isinstance(details, str)):
        return False
    try:
        return bool(SealedContent(salt, text, details).commitment() == row["commitment"])
    except ValueError:  # half of a surrogate pair
        return False


def _whole_event(row: Mapping[str, Any], header: Header) -> Event:
    event = _exact_event(row, header)
    if event.sealed is None:
        return event
    try:
        is_object = isinstance(json.loads(event.sealed.details), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise _DamageError("the details of its content are not a JSON object")
    return event


def _exact_event(row: Mapping[str, Any], header: Header) -> Event:
    salt, text, details = row["salt"], row["text"], row["details"]
    if salt is None and text is None and details is None:
        return Event(header, None)
    if not (isinstance(salt, bytes) and isinstance(text, str) and isinstance(details, str)):
        raise _DamageError("a column of its content holds a value of another type")
    if len(salt) != SALT_BYTES:
        raise _DamageError("the salt of its content has the wrong length")
    return Event(header, SealedContent(salt, text, details))


def _list_row(row: Mapping[str, Any], header: Header) -> EventRow:
    excerpt, beginning = row["excerpt"], row["beginning"]
    if not (isinstance(excerpt, str | None) and isinstance(beginning, str | None)):
        raise _DamageError("a column of its content holds a value of another type")
    erased = row["content_sequence"] is None and header.commitment is not None
    return EventRow(header, excerpt or "", beginning or "", erased, row["length"] or 0)


def _undecodable(database: Database, sequence: int) -> DamagedEvent:
    """A row with text that is not UTF-8: SQLite alone keeps such."""
    names = [column.name for column in audit_events.c]
    kinds = [sa.func.typeof(column) for column in audit_events.c]
    values = [sa.func.substr(sa.cast(column, sa.LargeBinary), 1, MAX_RAW_CHARS) for column in audit_events.c]
    with database.read() as connection:
        row = connection.execute(sa.select(*kinds, *values).where(audit_events.c.sequence == sequence)).one()
    kinds_found, values_found = row[: len(names)], row[len(names) :]
    shown = [
        (name, "nothing (NULL)" if value is None else f"{kind}: {value.decode(errors='backslashreplace')}")
        for name, kind, value in zip(names, kinds_found, values_found, strict=True)
        if kind != "blob"
    ]
    leaf = values_found[names.index("subtrees")] or b""
    return DamagedEvent(sequence, "its text is not UTF-8", tuple(shown), leaf=leaf[:HASH_BYTES] or None)


def _shown(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, _in_words(value)) for name, value in row.items() if name != "content_sequence")


def _in_words(value: object) -> str:
    match value:
        case None:
            return "nothing (NULL)"
        case bytes():
            return f"{len(value):,} bytes: {value[: MAX_RAW_CHARS // 8].hex()}"
        case str():
            return value[:MAX_RAW_CHARS] + ("…" if len(value) > MAX_RAW_CHARS else "")
    return str(value)[:MAX_RAW_CHARS]


def _raw(column: sa.ColumnElement[Any]) -> sa.Label[Any]:
    """The column as the driver gives it: SQLAlchemy would make bytes(n), n zeros, of an integer n among blobs."""
    name = column.name if isinstance(column, sa.Column) else "value"
    return sa.type_coerce(column, sa.types.NullType()).label(name)
