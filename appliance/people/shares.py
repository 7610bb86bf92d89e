"""Conversations that their owner lets named colleagues read.

A colleague reads the branch that the owner sees, as it is when they look, and changes nothing. It ends when the owner
withdraws it, deletes the conversation, or has no access any more; a reader who loses the role that chats reads nothing
either. Sharing, reading and withdrawing are events of the record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from appliance.audit.event import Action, Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.database.tables import conversations, shares, users
from appliance.database.transactions import now_us
from appliance.errors import ApplianceError
from appliance.people.conversation_rows import Conversation, conversation_of, own_row, telling_damage
from appliance.people.messages import ConversationNotFoundError
from appliance.people.users import Role, parse_roles

MOST_READERS: Final = 50  # of one conversation


class ShareError(ApplianceError):
    """A conversation that cannot be shared so; the message is a sentence for its owner."""


@dataclass(frozen=True)
class Reader:
    """Somebody who may read a conversation."""

    user_id: str
    name: str


@dataclass(frozen=True)
class Shared:
    """A conversation that somebody else lets a person read."""

    conversation: Conversation
    owner: str


class Shares:
    """The shares of one database; without a state of its own."""

    def __init__(self, record: AuditLog, *, clock_us: Callable[[], int] = now_us) -> None:
        self._record, self._database = record, record.database
        self._clock_us = clock_us

    def readers(self, owner_id: str, conversation_id: str) -> list[Reader]:
        """Whom the owner lets read a conversation, by name.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
        """
        query = sa.select(users.c.id, users.c.name).join(shares, shares.c.user_id == users.c.id)
        with self._database.read() as connection:
            own_row(connection, owner_id, conversation_id)
            rows = connection.execute(query.where(shares.c.conversation_id == conversation_id).order_by(users.c.name))
            return [Reader(row.id, row.name) for row in rows]

    def share(self, owner_id: str, conversation_id: str, name: str, *, by: Actor) -> None:
        """Let somebody read a conversation. Nothing happens if they may already.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
            ShareError: nobody of this name chats here, it is the owner, or there are too many readers.
        """
        with self._database.write(serial=True) as connection:
            own_row(connection, owner_id, conversation_id)
            row = connection.execute(sa.select(users).where(users.c.name == name.strip())).one_or_none()
            if row is None or row.disabled or Role.USER not in parse_roles(row.roles):
                raise ShareError("Nobody of this name chats here. Ask your colleague for the name they sign in with.")
            if row.id == owner_id:
                raise ShareError("This conversation is yours; you read it already.")
            mine = shares.c.conversation_id == conversation_id
            known = list(connection.scalars(sa.select(shares.c.user_id).where(mine)))
            if row.id in known:
                return
            if len(known) >= MOST_READERS:
                raise ShareError(f"{MOST_READERS} people read this conversation, which is as many as may.")
            values = {"conversation_id": conversation_id, "user_id": row.id, "created_us": self._clock_us()}
            connection.execute(shares.insert().values(values))
            self._note(connection, "conversation_shared", conversation_id, row.name, by)

    def withdraw(self, owner_id: str, conversation_id: str, user_id: str, *, by: Actor) -> None:
        """Let somebody read a conversation no longer. Nothing happens if they might not.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
        """
        with self._database.write(serial=True) as connection:
            own_row(connection, owner_id, conversation_id)
            one = sa.and_(shares.c.conversation_id == conversation_id, shares.c.user_id == user_id)
            name = connection.scalar(sa.select(users.c.name).join(shares, shares.c.user_id == users.c.id).where(one))
            if name is not None:
                connection.execute(shares.delete().where(one))
                self._note(connection, "conversation_unshared", conversation_id, str(name), by)

    def with_person(self, user_id: str) -> list[Shared]:
        """What others let a person read, the latest first.

        Raises:
            ConversationDamagedError: a stored value is not one that was stored.
        """
        query = _readable(user_id).order_by(conversations.c.updated_us.desc(), conversations.c.id)
        with telling_damage(), self._database.read() as connection:
            return [Shared(conversation_of(row), row.owner) for row in connection.execute(query)]

    def open(self, user_id: str, conversation_id: str, *, by: Actor) -> Shared:
        """A conversation that this person may read now; that they read it is recorded before it is returned.

        Raises:
            ConversationNotFoundError: there is none, or it is not shared with this person now.
            ConversationDamagedError: a stored value is not one that was stored.
        """
        query = _readable(user_id).where(conversations.c.id == conversation_id)
        with telling_damage(), self._database.write(serial=True) as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                raise ConversationNotFoundError
            found = Shared(conversation_of(row), row.owner)
            self._note(connection, "shared_conversation_read", conversation_id, f"of {row.owner}", by)
            return found

    def _note(self, connection: sa.Connection, action: Action, conversation_id: str, words: str, by: Actor) -> None:
        event = NewEvent(by, action, subject=conversation_id, content=Content(words))
        self._record.append_in(connection, event)


def _readable(user_id: str) -> sa.Select[tuple[object, ...]]:
    """Conversations that their owners, who have access themselves, let this person read."""
    owner = users.alias("owner")
    return (
        sa.select(conversations, owner.c.name.label("owner"))
        .join(shares, shares.c.conversation_id == conversations.c.id)
        .join(owner, owner.c.id == conversations.c.user_id)
        .where(shares.c.user_id == user_id, owner.c.disabled.is_(False))
    )
