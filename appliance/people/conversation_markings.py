"""The marking of one conversation: chosen by its owner, raised by what is attached, and never lowered by itself.

A conversation that is not marked is "not set", which counts as the level of the system, the highest of the list. Its
owner marks it, raises it freely, and lowers it with a reason, but not below a file that is attached to one of its
questions. Every change is an event of the record, written in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import sqlalchemy as sa

from appliance.audit.details.markings import ConversationMarked
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.database.tables import attachments, conversations
from appliance.database.transactions import Database, now_us
from appliance.people.attachments import Attachment
from appliance.people.conversation_rows import own_row
from appliance.people.markings import Marking, MarkingError, markings_in, named, one_of

MAX_REASON_CHARS: Final = 500


class ReasonNeededError(MarkingError):
    """The conversation would be marked lower than it is, and nobody said why."""


class ConversationMarkings:
    """The markings of the conversations of one database; without a state of its own."""

    def __init__(self, database: Database, record: AuditLog, *, clock_us: Callable[[], int] = now_us) -> None:
        self._database, self._record, self._clock_us = database, record, clock_us

    def of(self, user_id: str, conversation_id: str) -> Marking | None:
        """The marking of a person's conversation; None: not set.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
        """
        with self._database.read() as connection:
            row = own_row(connection, user_id, conversation_id)
            return marking_of(markings_in(connection), row.marking_id)

    def choose(self, user_id: str, conversation_id: str, marking_id: str, reason: str, *, by: Actor) -> None:
        """Mark a conversation.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
            MarkingError: there is no such marking, a file forbids it, or the reason is too long.
            ReasonNeededError: it is lower than the present one, and there is no reason.
        """
        reason = " ".join(reason.split())
        if len(reason) > MAX_REASON_CHARS:
            raise MarkingError(f"A reason has at most {MAX_REASON_CHARS} characters.")
        with self._database.write(serial=True) as connection:
            row = own_row(connection, user_id, conversation_id)
            known = markings_in(connection)
            before, after = marking_of(known, row.marking_id), one_of(known, marking_id)
            if before == after:
                return
            highest = _highest_file(connection, known, conversation_id)
            if highest is not None and after.level < highest[0].level:
                raise MarkingError(
                    f"The file “{highest[1]}” in this conversation is marked {highest[0].name}, so the conversation "
                    f"cannot be marked {after.name}."
                )
            if before is not None and after.level < before.level and not reason:
                raise ReasonNeededError(f"Say why it is lowered from {before.name} to {after.name}.")
            self._mark(connection, conversation_id, before, after, reason=reason, cause="", by=by)

    def rise_with(
        self, user_id: str, conversation_id: str, files: Sequence[Attachment], *, by: Actor
    ) -> Marking | None:
        """Raise a conversation to the highest of the files that go with a question; returns its marking.

        One that is not set stays so: it counts as the highest.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
        """
        marked = [file for file in files if file.marking_id is not None]
        if not marked:
            return self.of(user_id, conversation_id)
        with self._database.write(serial=True) as connection:
            row = own_row(connection, user_id, conversation_id)
            known = markings_in(connection)
            before = marking_of(known, row.marking_id)
            if before is None:
                return None
            highest, after = None, before
            for file in marked:
                found = marking_of(known, file.marking_id)
                if found is not None and found.level > after.level:
                    highest, after = file, found
            if highest is not None:
                self._mark(connection, conversation_id, before, after, reason="", cause=highest.facts.name, by=by)
            return after

    def inherit(self, conversation_id: str, marking: Marking | None, *, cause: str, by: Actor) -> None:
        """Mark a conversation that was just made from another one, or from a file, as that one was."""
        if marking is not None:
            with self._database.write(serial=True) as connection:
                self._mark(connection, conversation_id, None, marking, reason="", cause=cause, by=by)

    def known_as(self, name: str) -> Marking | None:
        """The site's marking of this name."""
        with self._database.read() as connection:
            return named(markings_in(connection), name)

    def _mark(
        self, connection: sa.Connection, conversation_id: str, before: Marking | None, after: Marking, *,
        reason: str, cause: str, by: Actor,
    ) -> None:  # fmt: skip
        mine = conversations.c.id == conversation_id
        connection.execute(conversations.update().where(mine).values(marking_id=after.id))
        details = ConversationMarked(before=before.name if before else "", after=after.name, cause=cause)
        event = NewEvent(by, "conversation_marked", subject=conversation_id, content=Content(reason, details))
        self._record.append_in(connection, event)


def marking_of(known: Sequence[Marking], marking_id: str | None) -> Marking | None:
    """The marking with this id. An id that no marking has is not set; only a change of the database can bring one."""
    return next((one for one in known if one.id == marking_id), None)


def _highest_file(
    connection: sa.Connection, known: Sequence[Marking], conversation_id: str
) -> tuple[Marking, str] | None:
    """The highest marking of the conversation's files, and the name of one that has it."""
    table = attachments.c
    query = sa.select(table.marking_id, table.facts).where(table.conversation_id == conversation_id)
    found = [(marking_of(known, row.marking_id), str(row.facts["name"])) for row in connection.execute(query)]
    marked = [(marking, name) for marking, name in found if marking is not None]
    return max(marked, key=lambda one: one[0].level, default=None)
