"""What a reviewer does: find events, read one. Every look is an event itself, because content is seen.

Results are newest first, a page at a time; ``Page.older`` is the cursor of the next page. Turning a page is a look like
the first one. An event that somebody damaged in the database is shown as damaged (`appliance.audit.rows`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from appliance.audit.details.review import SearchDetails
from appliance.audit.event import Action, Actor, Content, NewEvent
from appliance.audit.log import AuditLog, Event, EventNotFoundError
from appliance.audit.rows import DamagedEvent, EventRow, load_events, load_rows
from appliance.audit.stored_tree import LogDamagedError
from appliance.audit.words import searching
from appliance.database.tables import audit_events, storable, users

REVIEW_ACTIONS: tuple[Action, ...] = ("review_search", "review_read")
MAX_PAGE_EVENTS = 200
MAX_NAMES = 400  # to choose from
MAX_TURN_EVENTS = 16  # shown together; a turn has two, and no row may make a page read more


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which events; an empty field leaves all. Review's own events are left out unless asked for by action."""

    user: str = ""  # name of the actor
    since_us: int | None = None
    until_us: int | None = None  # exclusive
    text: str = ""  # words that all occur, whole or as a beginning
    actions: tuple[Action, ...] = ()
    subject: str = ""  # exactly: a turn's id gives its prompt and answer


@dataclass(frozen=True)
class Page:
    """Rows, newest first. ``older`` is the ``before`` of the next page, None on the last."""

    rows: tuple[EventRow | DamagedEvent, ...]
    older: int | None


@dataclass(frozen=True)
class ReadEvent:
    """One event in full with its place in the tree: ``proof`` leads from it to the root of ``tree_size`` events.

    ``turn`` are the numbers of all events with the same subject (a prompt and its answer), itself included.
    ``unproved`` says why there is no proof: hashes that it needs are missing.
    """

    event: Event | DamagedEvent
    tree_size: int
    proof: tuple[bytes, ...]
    turn: tuple[int, ...]
    unproved: str | None = None

    @property
    def sequence(self) -> int:
        return self.event.sequence


def search(log: AuditLog, reviewer: Actor, wanted: Filter, *, before: int | None = None, limit: int = 50) -> Page:
    """One page of the events that fit. The filter and the shown events are recorded, page by page.

    Raises:
        RecordError: the look could not be recorded; nothing is shown.
    """
    wanted = replace(
        wanted, text=storable(wanted.text), user=storable(wanted.user), subject=storable(wanted.subject)
    )  # fmt: skip
    limit = max(1, min(limit, MAX_PAGE_EVENTS))
    numbers = _find(log, wanted, before, limit + 1)
    shown = numbers[:limit]
    found = load_rows(log.database, shown)
    log.append(NewEvent(reviewer, "review_search", content=Content(wanted.text, _look(wanted, before, shown))))
    rows = tuple(found[number] for number in shown if number in found)
    return Page(rows, shown[-1] if len(numbers) > limit else None)


def read_event(log: AuditLog, reviewer: Actor, sequence: int) -> ReadEvent:
    """One event in full. The reading is recorded first.

    Raises:
        EventNotFoundError: there is no such event.
        RecordError: the reading could not be recorded; nothing is shown.
    """
    event = load_events(log.database, [sequence]).get(sequence) if abs(sequence) < 1 << 63 else None
    if event is None:
        raise EventNotFoundError(sequence)
    log.append(NewEvent(reviewer, "review_read", subject=str(sequence)))
    size = log.size()
    turn = _same_subject(log, event) if isinstance(event, Event) else (sequence,)
    try:
        return ReadEvent(event, size, tuple(log.inclusion_proof(sequence, size)), turn)
    except (LogDamagedError, ValueError) as exc:
        return ReadEvent(event, size, (), turn, str(exc))


def actor_names(log: AuditLog) -> list[str]:
    """Names to choose from in a filter: those of accounts, and the first few of the log; never more than `MAX_NAMES`.

    Strangers type names at the sign-in page, and each is the actor of a refusal. A filter takes every name, also one
    that is not offered. Names that are not text are left out.
    """
    with log.database.read() as connection:
        found = connection.scalars(sa.text(_NAMES_IN_LOG[log.database.is_sqlite]), {"limit": MAX_NAMES // 4}).all()
        accounts = sa.select(_as_bytes(users.c.name) if log.database.is_sqlite else users.c.name)
        found = [*found, *connection.scalars(accounts.order_by(users.c.name).limit(MAX_NAMES // 4 * 3))]
    return sorted({bytes(name).decode(errors="replace") if isinstance(name, bytes) else str(name) for name in found})


def _as_bytes(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """As bytes, because text in SQLite need not be UTF-8; NULL, a number and a blob become what cannot be a name."""
    return sa.type_coerce(sa.cast(column, sa.LargeBinary), sa.types.NullType())


# One step down the index for each name: all names of a log cost a look at every event. In SQLite's order numbers come
# before text, and blobs after it.
_NAMES_IN_LOG: Final = {
    is_sqlite: f"""
        WITH RECURSIVE names (name, position) AS (
            SELECT min(actor_name), 1 FROM audit_events WHERE actor_name >= ''{is_text}
            UNION ALL
            SELECT (SELECT min(actor_name) FROM audit_events WHERE actor_name > names.name{is_text}), position + 1
            FROM names WHERE name IS NOT NULL AND position < :limit
        )
        SELECT {shown} FROM names WHERE name IS NOT NULL"""  # noqa: S608 - of constants
    for is_sqlite, is_text, shown in ((True, " AND actor_name < x''", "CAST(name AS BLOB)"), (False, "", "name"))
}


def _look(wanted: Filter, before: int | None, shown: list[int]) -> SearchDetails:
    """What is recorded of a look at the list: the filter, the page, and which events it showed."""
    newest, oldest = (shown[0], shown[-1]) if shown else (None, None)
    since_us, until_us = wanted.since_us or None, wanted.until_us or None
    return SearchDetails(
        user=wanted.user, since_us=since_us, until_us=until_us, text=wanted.text, actions=wanted.actions,
        subject=wanted.subject, before=before, shown=len(shown), newest=newest, oldest=oldest,
    )  # fmt: skip


def _find(log: AuditLog, wanted: Filter, before: int | None, limit: int) -> list[int]:
    """Numbers of the events that fit, newest first: numbers alone, because any other column may be damaged."""
    columns = audit_events.c
    query = sa.select(columns.sequence)
    position: sa.ColumnElement[int] = columns.sequence
    if wanted.text.strip():
        query, position = searching(log.database, query, wanted.text)
    if wanted.user:
        query = query.where(columns.actor_name == wanted.user)
    if wanted.since_us is not None:
        query = query.where(columns.time_us >= wanted.since_us)
    if wanted.until_us is not None:
        query = query.where(columns.time_us < wanted.until_us)
    if wanted.subject:
        query = query.where(columns.subject == wanted.subject)
    if wanted.actions:
        query = query.where(columns.action.in_(wanted.actions))
    else:
        # coalesce: a NULL, which only damage puts there, is in no list and would be in no page.
        query = query.where(sa.func.coalesce(columns.action, "").not_in(REVIEW_ACTIONS))
    if before is not None:
        query = query.where(position < before)
    with log.database.read() as connection:
        return list(connection.scalars(query.order_by(position.desc()).limit(limit)))


def _same_subject(log: AuditLog, event: Event) -> tuple[int, ...]:
    if event.header.action not in ("prompt", "answer"):
        return (event.header.sequence,)
    columns = audit_events.c
    query = sa.select(columns.sequence).where(columns.subject == event.header.subject).order_by(columns.sequence)
    with log.database.read() as connection:
        found = tuple(connection.scalars(query.limit(MAX_TURN_EVENTS)))
    return found if event.header.sequence in found else (event.header.sequence,)
