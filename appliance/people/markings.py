"""The markings of a site: an ordered list that an administrator sets, and that conversations and files carry.

A site without markings shows none. The highest is the level of the system: what is not marked counts as that. "Not set"
is no marking of the list, and never the lowest of them. Every change is an event of the record, written in the same
transaction. What carries a marking names it by its id, so a new name or another place changes all of them at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import sqlalchemy as sa

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.database.tables import attachments, conversations, markings
from appliance.database.transactions import DatabaseError, now_us
from appliance.errors import ApplianceError
from appliance.people.account_changes import Transaction, open_admin_change

MOST_MARKINGS: Final = 20
MAX_NAME_CHARS: Final = 40
Style = Literal["grey", "green", "blue", "violet", "amber", "orange", "red"]
STYLES: Final[tuple[Style, ...]] = get_args(Style)


class MarkingError(ApplianceError):
    """A change of markings that is not possible; the message is a sentence for whoever asked for it."""


@dataclass(frozen=True)
class Marking:
    """One marking. ``level`` 0 is the lowest; ``style`` names the colours of its banner."""

    id: str
    name: str
    level: int
    style: Style


class Markings:
    """The markings of one database; without a state of its own."""

    def __init__(self, record: AuditLog, *, clock_us: Callable[[], int] = now_us) -> None:
        self._record = record
        self._clock_us = clock_us

    def all(self) -> list[Marking]:
        """Every marking, the lowest first."""
        with self._record.database.read() as connection:
            return markings_in(connection)

    def add(self, name: str, style: str, *, by: Actor) -> Marking:
        """Add one above all others.

        Raises:
            MarkingError: the name is taken or no name, there is no such style, or there are too many.
        """
        with self._change(by) as change:
            known = markings_in(change.connection)
            if len(known) >= MOST_MARKINGS:
                raise MarkingError(f"There are {MOST_MARKINGS} markings, which is as many as there can be.")
            made = Marking(secrets.token_hex(8), _free_name(known, name), len(known), _style(style))
            change.connection.execute(markings.insert().values(_row(made)))
            change.note("marking_changed", made.name, "made, above all others")
            return made

    def change(self, marking_id: str, name: str, style: str, *, by: Actor) -> None:
        """Give one another name or style; whatever carries it has these at once.

        Raises:
            MarkingError: as `add`, or there is no such marking.
        """
        with self._change(by) as change:
            known = markings_in(change.connection)
            found = one_of(known, marking_id)
            others = [one for one in known if one.id != marking_id]
            new = Marking(found.id, _free_name(others, name), found.level, _style(style))
            change.connection.execute(markings.update().where(markings.c.id == marking_id).values(_row(new)))
            renamed = f"was {found.name}" if new.name != found.name else ""
            coloured = f"{new.style}, was {found.style}" if new.style != found.style else ""
            if renamed or coloured:
                change.note("marking_changed", new.name, renamed, coloured)

    def raise_one(self, marking_id: str, *, by: Actor) -> None:
        """Let one change places with the marking above it.

        Raises:
            MarkingError: there is no such marking, or none above it.
        """
        with self._change(by) as change:
            known = markings_in(change.connection)
            found = one_of(known, marking_id)
            if found.level + 1 >= len(known):
                raise MarkingError(f"{found.name} is the highest marking already.")
            above = known[found.level + 1]
            for one, level in ((found, above.level), (above, found.level)):
                change.connection.execute(markings.update().where(markings.c.id == one.id).values(level=level))
            change.note("marking_changed", found.name, f"now above {above.name}")

    def remove(self, marking_id: str, *, by: Actor) -> None:
        """Remove one that nothing carries.

        Raises:
            MarkingError: there is no such marking, or something carries it.
        """
        with self._change(by) as change:
            connection = change.connection
            known = markings_in(connection)
            found = one_of(known, marking_id)
            carried = _uses(connection, marking_id)
            if carried:
                what = "conversation or file carries" if carried == 1 else "conversations and files carry"
                raise MarkingError(
                    f"{carried:,} {what} the marking {found.name}, so it stays. Rename it, or put another in its place."
                )
            connection.execute(markings.delete().where(markings.c.id == marking_id))
            for one in known[found.level + 1 :]:
                lower = markings.update().where(markings.c.id == one.id).values(level=one.level - 1)
                connection.execute(lower)
            change.note("marking_changed", found.name, "removed")

    def uses(self) -> dict[str, int]:
        """How many conversations and files carry each marking, by its id."""
        with self._record.database.read() as connection:
            return {one.id: _uses(connection, one.id) for one in markings_in(connection)}

    def _change(self, by: Actor) -> AbstractContextManager[Transaction]:
        return open_admin_change(self._record, by, clock_us=self._clock_us)


def markings_in(connection: sa.Connection) -> list[Marking]:
    """Every marking, the lowest first, in the caller's transaction.

    Raises:
        DatabaseError: a value is not one that was stored.
    """
    rows = connection.execute(sa.select(markings).order_by(markings.c.level, markings.c.id)).all()
    return [_marking(row, level) for level, row in enumerate(rows)]


def one_of(known: Sequence[Marking], marking_id: str) -> Marking:
    """Raises: MarkingError: there is no such marking."""
    found = next((one for one in known if one.id == marking_id), None)
    if found is None:
        raise MarkingError("There is no such marking.")
    return found


def named(known: Sequence[Marking], name: str) -> Marking | None:
    """The marking of this name, however its letters are written."""
    return next((one for one in known if one.name.casefold() == " ".join(name.split()).casefold()), None)


def _marking(row: sa.Row[Any], level: int) -> Marking:
    if not isinstance(row.name, str) or row.style not in STYLES:
        raise DatabaseError("a marking cannot be read: its name or its style is not one that was stored")
    return Marking(row.id, row.name, level, row.style)


def _row(marking: Marking) -> dict[str, Any]:
    return {"id": marking.id, "name": marking.name, "level": marking.level, "style": marking.style}


def _uses(connection: sa.Connection, marking_id: str) -> int:
    tables = (conversations, attachments)
    counts = (sa.select(sa.func.count()).select_from(one).where(one.c.marking_id == marking_id) for one in tables)
    return sum(connection.scalar(count) or 0 for count in counts)


def _free_name(others: Sequence[Marking], name: str) -> str:
    name = " ".join(name.split())
    if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise MarkingError(f"The name of a marking has 1 to {MAX_NAME_CHARS} printable characters.")
    if named(others, name) is not None:
        raise MarkingError(f"There is a marking {name} already.")
    return name


def _style(style: str) -> Style:
    found = next((one for one in STYLES if one == style), None)
    if found is None:
        raise MarkingError("Choose one of the colours of the list.")
    return found
