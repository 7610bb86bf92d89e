"""What a reviewer does: find events, read one. Both are events themselves, because content is seen.

Results are newest first, a page at a time; ``Page.older`` is the cursor of the next page.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from appliance.audit.event import Action, Actor, Content, Header, NewEvent
from appliance.audit.log import AuditLog, Event, header_of
from appliance.audit.words import searching
from appliance.database import audit_contents, audit_events, storable

REVIEW_ACTIONS: tuple[Action, ...] = ("review_search", "review_read")
EXCERPT_CHARS = 160
MAX_PAGE_EVENTS = 200


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
class EventRow:
    """One line of the list; ``excerpt`` is the beginning of the content's text."""

    header: Header
    excerpt: str
    erased: bool


@dataclass(frozen=True)
class Page:
    """Rows, newest first. ``older`` is the ``before`` of the next page, None on the last."""

    rows: tuple[EventRow, ...]
    older: int | None


@dataclass(frozen=True)
class ReadEvent:
    """One event in full with its place in the tree: ``proof`` leads from it to the root of ``tree_size`` events.

    ``turn`` are the numbers of all events with the same subject (a prompt and its answer), itself included.
    """

    event: Event
    tree_size: int
    proof: tuple[bytes, ...]
    turn: tuple[int, ...]


def search(
    log: AuditLog, reviewer: Actor, wanted: Filter, *, before: int | None = None, limit: int = 50
) -> Page:
    """One page of the events that fit; the first page of a search is recorded with what was looked for.

    Raises:
        RecordError: the search could not be recorded; nothing is shown.
    """
    wanted = replace(
        wanted, text=storable(wanted.text), user=storable(wanted.user), subject=storable(wanted.subject)
    )  # fmt: skip
    if before is None:
        asked = {key: value for key, value in asdict(wanted).items() if value}
        log.append(NewEvent(reviewer, "review_search", content=Content(wanted.text, asked)))
    limit = max(1, min(limit, MAX_PAGE_EVENTS))
    query = _select_rows(log, wanted, before).limit(limit + 1)
    with log.database.read() as connection:
        found = connection.execute(query).all()
    rows = tuple(_event_row(row) for row in found[:limit])
    return Page(rows, rows[-1].header.sequence if len(found) > limit else None)


def read_event(log: AuditLog, reviewer: Actor, sequence: int) -> ReadEvent:
    """One event in full; that it was read is recorded first.

    Raises:
        EventNotFoundError: there is no such event.
        RecordError: the reading could not be recorded; nothing is shown.
    """
    event = log.get(sequence)
    log.append(NewEvent(reviewer, "review_read", subject=str(sequence)))
    size = log.size()
    proof = log.inclusion_proof(sequence, size)
    return ReadEvent(event, size, tuple(proof), _same_subject(log, event))


def actor_names(log: AuditLog) -> list[str]:
    """Everyone who occurs in the log, for a filter's choices."""
    query = sa.select(audit_events.c.actor_name).distinct().order_by(audit_events.c.actor_name)
    with log.database.read() as connection:
        return list(connection.scalars(query))


def _select_rows(log: AuditLog, wanted: Filter, before: int | None) -> sa.Select[Any]:
    columns = audit_events.c
    contents = audit_contents.c
    excerpt = sa.func.substr(contents.text, 1, EXCERPT_CHARS).label("excerpt")
    query = sa.select(audit_events, excerpt, contents.sequence.label("content_sequence"))
    query = query.select_from(audit_events.outerjoin(audit_contents, columns.sequence == contents.sequence))
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
        query = query.where(columns.action.not_in(REVIEW_ACTIONS))
    if before is not None:
        query = query.where(position < before)
    return query.order_by(position.desc())


def _event_row(row: sa.Row[Any]) -> EventRow:
    header = header_of(row)
    return EventRow(header, row.excerpt or "", row.content_sequence is None and header.commitment is not None)


def _same_subject(log: AuditLog, event: Event) -> tuple[int, ...]:
    if event.header.action not in ("prompt", "answer"):
        return (event.header.sequence,)
    columns = audit_events.c
    query = sa.select(columns.sequence).where(columns.subject == event.header.subject).order_by(columns.sequence)
    with log.database.read() as connection:
        return tuple(connection.scalars(query))
