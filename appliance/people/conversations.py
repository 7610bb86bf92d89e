"""Conversations as people see them: titles, messages, branches. Each is one user's, and every call names that user.

A conversation's messages form a tree: asking again, or editing a question, adds a sibling. One branch is shown, the one
that ends with the conversation's leaf. What is deleted here is gone here; the record keeps its events.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, get_args

import sqlalchemy as sa

from appliance.audit.event import Actor, NewEvent
from appliance.audit.log import AuditLog
from appliance.database.damaged_rows import read_rows
from appliance.database.tables import conversations, messages
from appliance.database.transactions import Database, DatabaseError, as_datetime, is_undecodable, now_us
from appliance.errors import ApplianceError
from appliance.turns.request import Message, Role, ToolCall

MAX_TITLE_CHARS = 120
_NEW_TITLE = "New conversation"


class ConversationNotFoundError(ApplianceError):
    """This user has no such conversation, or the conversation no such message."""

    def __init__(self) -> None:
        super().__init__("There is no such conversation.")


@dataclass(frozen=True)
class Conversation:
    """One entry of the list of conversations."""

    id: str
    user_id: str
    title: str
    pinned: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class StoredMessage:
    """One message on the branch that is shown.

    ``siblings`` are the ids of all messages in its place, itself included, oldest first ("branch 2/3"). ``details`` of
    an answer: model, effort, tokens, tok_s, event (its number in the record) and whatever else the page wants to show.
    """

    id: str
    parent_id: str | None
    role: Role
    content: str
    reasoning: str | None
    tool_calls: tuple[ToolCall, ...]
    details: dict[str, Any]
    created_at: datetime
    siblings: tuple[str, ...]

    def as_message(self) -> Message:
        """The message as the engine takes it."""
        return Message(
            self.role, self.content, self.reasoning, self.tool_calls,
            tool_call_id=self.details.get("tool_call_id"), name=self.details.get("name"),
        )  # fmt: skip


@dataclass(frozen=True)
class NewMessage:
    """A message to be stored."""

    role: Role
    content: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


class ConversationDamagedError(ApplianceError):
    """What is stored of this conversation is not what was stored."""

    def __init__(self) -> None:
        super().__init__("This conversation cannot be read: somebody has changed the database.")


class Conversations:
    """The conversations of one database; thread-safe."""

    def __init__(self, database: Database, record: AuditLog, *, clock_us: Callable[[], int] = now_us) -> None:
        self._database = database
        self._record = record
        self._clock_us = clock_us

    def list_conversations(self, user_id: str, *, search: str = "", limit: int = 200) -> list[Conversation]:
        """A user's conversations, pinned ones first, then the latest; `search` looks in titles and messages."""
        table = conversations.c
        query = sa.select(conversations).where(table.user_id == user_id)
        for word in search.split():
            said = sa.exists().where(messages.c.conversation_id == table.id, _contains(messages.c.content, word))
            query = query.where(sa.or_(_contains(table.title, word), said))
        query = query.order_by(table.pinned.desc(), table.updated_us.desc(), table.id).limit(limit)
        with self._database.read() as connection:
            found = read_rows(connection, query, table.id, _listed)
        return [*found, *(_damaged(row.name, user_id) for row in found.damaged)]

    def get(self, user_id: str, conversation_id: str) -> Conversation:
        """One conversation.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
        """
        with _telling_damage(), self._database.read() as connection:
            return _conversation(_own(connection, user_id, conversation_id))

    def create(self, user_id: str, *, title: str = "") -> Conversation:
        """Begin a conversation."""
        now = self._clock_us()
        values = {
            "id": secrets.token_hex(8), "user_id": user_id, "title": _clean_title(title), "pinned": False,
            "created_us": now, "updated_us": now,
        }  # fmt: skip
        with self._database.write() as connection:
            connection.execute(conversations.insert().values(values))
        return self.get(user_id, str(values["id"]))

    def rename(self, user_id: str, conversation_id: str, title: str) -> None:
        """Give it another title."""
        self._update(user_id, conversation_id, title=_clean_title(title))

    def pin(self, user_id: str, conversation_id: str, *, pinned: bool) -> None:
        """Keep it on top of the list, or no longer."""
        self._update(user_id, conversation_id, pinned=pinned)

    def delete(self, user_id: str, conversation_id: str, *, by: Actor) -> None:
        """Delete it with its messages; that it was deleted is recorded.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
        """
        with self._database.write(serial=True) as connection:
            _own(connection, user_id, conversation_id)
            connection.execute(conversations.delete().where(conversations.c.id == conversation_id))
            self._record.append_in(connection, NewEvent(by, "conversation_deleted", subject=conversation_id))

    def messages(self, user_id: str, conversation_id: str) -> list[StoredMessage]:
        """The branch that is shown, from the first message to the last.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
            ConversationDamagedError: a stored value is not one that was stored.
        """
        with _telling_damage(), self._database.read() as connection:
            conversation = _own(connection, user_id, conversation_id)
            return _branch(_all_messages(connection, conversation_id), conversation.leaf_id)

    def append(
        self, user_id: str, conversation_id: str, message: NewMessage, *, parent_id: str | None = "leaf"
    ) -> StoredMessage:
        """Add a message and show the branch that ends with it.

        Args:
            parent_id: the message it follows; "leaf" is the last one shown, None makes it a first message.
        Raises:
            ConversationNotFoundError: the conversation or the parent does not exist or is someone else's.
        """
        now = self._clock_us()
        message_id = secrets.token_hex(8)
        with self._database.write() as connection:
            conversation = _own(connection, user_id, conversation_id)
            parent_id = conversation.leaf_id if parent_id == "leaf" else parent_id
            if parent_id is not None:
                _check_message(connection, conversation_id, parent_id)
            connection.execute(
                messages.insert().values(
                    id=message_id, conversation_id=conversation_id, parent_id=parent_id, role=message.role,
                    content=message.content, created_us=now, details=message.details,
                    reasoning=message.reasoning,
                    tool_calls=[asdict(call) for call in message.tool_calls],
                )
            )  # fmt: skip
            mine = conversations.c.id == conversation_id
            connection.execute(conversations.update().where(mine).values(leaf_id=message_id, updated_us=now))
            rows = _all_messages(connection, conversation_id)
        return _branch(rows, message_id)[-1]

    def show_branch(self, user_id: str, conversation_id: str, message_id: str) -> list[StoredMessage]:
        """Show the newest branch through `message_id`; returns it.

        Raises:
            ConversationNotFoundError: as `append`.
        """
        with self._database.write() as connection:
            _own(connection, user_id, conversation_id)
            _check_message(connection, conversation_id, message_id)
            rows = _all_messages(connection, conversation_id)
            leaf_id = message_id
            for row in rows:  # oldest first, so the last child seen is the newest
                if row.parent_id == leaf_id:
                    leaf_id = row.id
            mine = conversations.c.id == conversation_id
            connection.execute(conversations.update().where(mine).values(leaf_id=leaf_id))
        return _branch(rows, leaf_id)

    def _update(self, user_id: str, conversation_id: str, **values: object) -> None:
        with self._database.write() as connection:
            _own(connection, user_id, conversation_id)
            connection.execute(conversations.update().where(conversations.c.id == conversation_id).values(values))


@contextmanager
def _telling_damage() -> Iterator[None]:
    """SQLite keeps any value in any column: one that cannot be what was stored becomes `ConversationDamagedError`."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as exc:
        raise ConversationDamagedError from exc
    except DatabaseError as exc:
        if not is_undecodable(exc):
            raise
        raise ConversationDamagedError from exc


def _listed(row: sa.Row[Any]) -> Conversation:
    """A line of the list.

    Raises:
        DatabaseError: it is damaged.
    """
    try:
        return _conversation(row)
    except (TypeError, OverflowError) as exc:
        raise DatabaseError(f"a conversation cannot be read: {exc}") from exc


def _damaged(conversation_id: str, user_id: str) -> Conversation:
    epoch = as_datetime(0)
    return Conversation(conversation_id, user_id, "Damaged conversation", False, epoch, epoch)


def append_interruption(
    connection: sa.Connection, conversation_id: str, question: str, details: dict[str, Any], now: int
) -> None:
    """Put an empty answer under `question`, in the caller's transaction; `details` say what happened.

    Nothing is done where the branch that is shown does not end with that question: it has an answer, or is gone.
    """
    leaf = sa.select(messages.c.id, messages.c.role, messages.c.content).join(
        conversations, conversations.c.leaf_id == messages.c.id
    )
    row = connection.execute(leaf.where(conversations.c.id == conversation_id)).one_or_none()
    if row is None or row.role != "user" or not question.endswith(row.content):
        return
    values = {
        "id": secrets.token_hex(8), "conversation_id": conversation_id, "parent_id": row.id, "role": "assistant",
        "content": "", "reasoning": None, "tool_calls": [], "details": details, "created_us": now,
    }  # fmt: skip
    connection.execute(messages.insert().values(values))
    mine = conversations.c.id == conversation_id
    connection.execute(conversations.update().where(mine).values(leaf_id=values["id"], updated_us=now))


def _own(connection: sa.Connection, user_id: str, conversation_id: str) -> sa.Row[Any]:
    table = conversations.c
    query = sa.select(conversations).where(table.id == conversation_id, table.user_id == user_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise ConversationNotFoundError
    return row


def _check_message(connection: sa.Connection, conversation_id: str, message_id: str) -> None:
    mine = sa.and_(messages.c.id == message_id, messages.c.conversation_id == conversation_id)
    if connection.execute(sa.select(messages.c.id).where(mine)).first() is None:
        raise ConversationNotFoundError


def _all_messages(connection: sa.Connection, conversation_id: str) -> Sequence[sa.Row[Any]]:
    query = sa.select(messages).where(messages.c.conversation_id == conversation_id).order_by(messages.c.number)
    return connection.execute(query).all()


def _branch(rows: Sequence[sa.Row[Any]], leaf_id: str | None) -> list[StoredMessage]:
    by_id = {row.id: row for row in rows}
    children: dict[str | None, list[str]] = {}
    for row in rows:
        children.setdefault(row.parent_id, []).append(row.id)
    branch: list[StoredMessage] = []
    while leaf_id is not None:
        row = by_id.pop(leaf_id)  # each once, or a damaged parent makes a circle
        branch.append(_stored_message(row, tuple(children[row.parent_id])))
        leaf_id = row.parent_id
    return branch[::-1]


def _stored_message(row: sa.Row[Any], siblings: tuple[str, ...]) -> StoredMessage:
    if not (isinstance(row.content, str) and isinstance(row.reasoning, str | None) and isinstance(row.details, dict)):
        raise TypeError("a message whose values have other types")
    if row.role not in get_args(Role):
        raise ValueError("a message from nobody")
    calls = tuple(ToolCall(**call) for call in row.tool_calls)
    return StoredMessage(
        row.id, row.parent_id, row.role, row.content, row.reasoning, calls, row.details, as_datetime(row.created_us),
        siblings,
    )  # fmt: skip


def _conversation(row: sa.Row[Any]) -> Conversation:
    created_at, updated_at = as_datetime(row.created_us), as_datetime(row.updated_us)
    if not (isinstance(row.title, str) and isinstance(row.id, str)):
        raise TypeError("an id or a title that is no text")
    return Conversation(row.id, row.user_id, row.title, bool(row.pinned), created_at, updated_at)


def _contains(column: sa.ColumnElement[str], word: str) -> sa.ColumnElement[bool]:
    return column.icontains(word, autoescape=True)


def _clean_title(title: str) -> str:
    return " ".join(title.split())[:MAX_TITLE_CHARS] or _NEW_TITLE
