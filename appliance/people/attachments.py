"""Files that people attach to questions: bytes, text and facts, in the database beside the messages (decision 23).

A file waits for its question first: it belongs to a person and to no conversation. With its question it is put into the
conversation, whose end is its end, too. Several messages can have one file: a question that is asked anew keeps those
of the old one. Files that waited for a day are removed. Every call names the person, and somebody else's file is none.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import sqlalchemy as sa

from appliance.attachments.prompt import AttachedText
from appliance.attachments.wire import ReadFile
from appliance.audit.details.turns import FileFacts
from appliance.database.tables import attachments, message_attachments
from appliance.database.transactions import Database, now_us
from appliance.errors import ApplianceError
from appliance.turns.typed import checked

MOST_WAITING: Final = 20  # of one person
MOST_WITH_ONE_QUESTION: Final = 10
WAITS_US: Final = 24 * 3600 * 1_000_000


class AttachmentNotFoundError(ApplianceError):
    """This person has no such file, or it belongs to another conversation."""

    def __init__(self) -> None:
        super().__init__("A file that belongs to this question is not here any more.")


class TooManyWaitingError(ApplianceError):
    """The person has many files that were attached and not sent."""

    def __init__(self) -> None:
        super().__init__(f"{MOST_WAITING} files wait for a question already.")


@dataclass(frozen=True)
class Attachment:
    """A file as a list shows it. ``tokens`` is how many the model reads of it; None where nobody could count."""

    id: str
    facts: FileFacts
    tokens: int | None
    conversation_id: str | None
    marking_id: str | None = field(default=None, kw_only=True)  # None: it has that of its conversation


@dataclass(frozen=True)
class AttachmentText(Attachment):
    """A file with what the model reads of it."""

    text: str

    def as_read(self) -> AttachedText:
        return AttachedText(self.facts, self.text)


class Attachments:
    """The files of one database; thread-safe."""

    def __init__(self, database: Database, *, clock_us: Callable[[], int] = now_us) -> None:
        self._database, self._clock_us = database, clock_us

    def add(
        self, user_id: str, facts: FileFacts, data: bytes, text: str, *, tokens: int | None,
        marking_id: str | None = None,
    ) -> Attachment:  # fmt: skip
        """Keep a file that waits for its question, with what was read of it.

        Args:
            marking_id: one of the site's markings; None leaves the file with that of its conversation.
        Raises:
            TooManyWaitingError: too many wait already.
        """
        row = {
            "id": secrets.token_hex(8), "user_id": user_id, "conversation_id": None, "tokens": tokens,
            "created_us": self._clock_us(), "facts": asdict(facts), "text": text, "data": data,
            "marking_id": marking_id,
        }  # fmt: skip
        with self._database.write() as connection:
            self._remove_old(connection)
            waiting = sa.select(sa.func.count()).select_from(attachments).where(*_waiting(user_id))
            if (connection.scalar(waiting) or 0) >= MOST_WAITING:
                raise TooManyWaitingError
            connection.execute(attachments.insert().values(row))
        return Attachment(str(row["id"]), facts, tokens, None, marking_id=marking_id)

    def waiting(self, user_id: str) -> list[Attachment]:
        """The files that wait for their question, oldest first."""
        with self._database.read() as connection:
            query = _LISTED.where(*_waiting(user_id)).order_by(attachments.c.created_us, attachments.c.id)
            return [_attachment(row) for row in connection.execute(query)]

    def get(self, user_id: str, attachment_id: str) -> AttachmentText:
        """Raises: AttachmentNotFoundError."""
        with self._database.read() as connection:
            return _with_text(_one(connection, user_id, attachment_id, attachments.c.text))

    def original(self, user_id: str, attachment_id: str) -> bytes:
        """The file as it came.

        Raises:
            AttachmentNotFoundError
        """
        with self._database.read() as connection:
            return bytes(_one(connection, user_id, attachment_id, attachments.c.data).data)

    def remove(self, user_id: str, attachment_id: str) -> None:
        """Remove a file that waits.

        Raises:
            AttachmentNotFoundError: no such file waits.
        """
        with self._database.write() as connection:
            gone = attachments.delete().where(attachments.c.id == attachment_id, *_waiting(user_id))
            if connection.execute(gone).rowcount == 0:
                raise AttachmentNotFoundError

    def take(self, user_id: str, conversation_id: str, ids: Sequence[str]) -> tuple[AttachmentText, ...]:
        """The files for a question of this conversation, in this order: those that wait, or that it has already.

        Raises:
            AttachmentNotFoundError: one of them is neither.
        """
        with self._database.read() as connection:
            found = [_with_text(_one(connection, user_id, one, attachments.c.text)) for one in dict.fromkeys(ids)]
        if any(file.conversation_id not in (None, conversation_id) for file in found):
            raise AttachmentNotFoundError
        return tuple(found)

    def _remove_old(self, connection: sa.Connection) -> None:
        columns = attachments.c
        old = columns.created_us < self._clock_us() - WAITS_US
        connection.execute(attachments.delete().where(columns.conversation_id.is_(None), old))


def files_in(connection: sa.Connection, conversation_id: str) -> dict[str, tuple[AttachmentText, ...]]:
    """The files of each message of a conversation that has some, within the caller's transaction, who has made sure
    whose conversation it is."""
    links = message_attachments.c
    query = (
        _LISTED.add_columns(attachments.c.text, links.message_id)
        .join(message_attachments, links.attachment_id == attachments.c.id)
        .where(attachments.c.conversation_id == conversation_id)
        .order_by(links.message_id, links.place)
    )
    found: dict[str, tuple[AttachmentText, ...]] = {}
    for row in connection.execute(query):
        found[row.message_id] = (*found.get(row.message_id, ()), _with_text(row))
    return found


def attach(connection: sa.Connection, conversation_id: str, message_id: str, ids: Iterable[str]) -> None:
    """Put files into the conversation with a message, in the caller's transaction, who has asked `Attachments.take`.

    Raises:
        AttachmentNotFoundError: one is gone meanwhile, or went with another conversation's question.
    """
    columns = attachments.c
    for place, one in enumerate(ids):
        free = sa.or_(columns.conversation_id.is_(None), columns.conversation_id == conversation_id)
        taken = attachments.update().where(columns.id == one, free).values(conversation_id=conversation_id)
        if connection.execute(taken).rowcount == 0:
            raise AttachmentNotFoundError
        link = {"message_id": message_id, "attachment_id": one, "place": place}
        connection.execute(message_attachments.insert().values(link))


def facts_of(name: str, data: bytes, read: ReadFile) -> FileFacts:
    """What is recorded of a file. Args: name: `clean_name`."""
    return FileFacts(
        name=name, form=read.form, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(),
        characters=len(read.text), text_sha256=hashlib.sha256(read.text.encode()).hexdigest(), parts=read.parts,
        encoding=read.encoding, left_out=read.left_out,
    )  # fmt: skip


_LISTED: Final = sa.select(
    attachments.c.id, attachments.c.facts, attachments.c.tokens, attachments.c.conversation_id, attachments.c.marking_id
)


def _waiting(user_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return attachments.c.user_id == user_id, attachments.c.conversation_id.is_(None)


def _one(connection: sa.Connection, user_id: str, attachment_id: str, *more: sa.ColumnElement[Any]) -> sa.Row[Any]:
    mine = sa.and_(attachments.c.id == attachment_id, attachments.c.user_id == user_id)
    row = connection.execute(_LISTED.add_columns(*more).where(mine)).one_or_none()
    if row is None:
        raise AttachmentNotFoundError
    return row


def _attachment(row: Any) -> Attachment:
    return Attachment(row.id, _facts(row.facts), row.tokens, row.conversation_id, marking_id=row.marking_id)


def _with_text(row: sa.Row[Any]) -> AttachmentText:
    facts = _facts(row.facts)
    return AttachmentText(row.id, facts, row.tokens, row.conversation_id, row.text, marking_id=row.marking_id)


def _facts(stored: Any) -> FileFacts:
    found: FileFacts = checked(FileFacts, stored)
    return replace(found, left_out=tuple(found.left_out))
