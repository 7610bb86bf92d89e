"""The messages of a conversation: a tree, of which the branch that ends with the conversation's leaf is shown.

Each function works within the caller's transaction, who has made sure whose conversation it is. SQLite keeps any value
in any column: a row that is no message makes these functions raise, and `Conversations` says so in words.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, get_args

import sqlalchemy as sa

from appliance.attachments.prompt import with_files
from appliance.audit.details.codec import Details, read_first
from appliance.database.message_words import forget_messages, index_messages
from appliance.database.tables import conversations, messages
from appliance.database.transactions import as_datetime
from appliance.errors import ApplianceError
from appliance.people.attachments import AttachmentText, attach
from appliance.turns.answer import Facts
from appliance.turns.request import Message, Role, ToolCall


class ConversationNotFoundError(ApplianceError):
    """This user has no such conversation, or the conversation no such message."""

    def __init__(self) -> None:
        super().__init__("There is no such conversation.")


@dataclass(frozen=True, kw_only=True)
class ToolFacts(Details):
    """Which call the message of a tool answers, and the function's name."""

    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class QuestionFacts(Details):
    """What a conversation keeps of a question beside its words.

    ``reads_from``: the first message that the model reads for the answer to this question and to later ones; "" is the
    question itself, None changes nothing. ``sums_up``: the conversation that this question has the model sum up.
    """

    reads_from: str | None = None
    sums_up: str | None = None


_FACTS: Final[dict[Role, type[Details]]] = {"user": QuestionFacts, "assistant": Facts, "tool": ToolFacts}


@dataclass(frozen=True)
class NewMessage:
    """A message to be stored; ``facts`` are `QuestionFacts`, `Facts` for an answer or `ToolFacts` for a tool."""

    role: Role
    content: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    facts: Details = field(default_factory=Details)
    attachments: tuple[str, ...] = ()  # ids of the files that go with a question


@dataclass(frozen=True)
class StoredMessage:
    """One message on the branch that is shown.

    ``siblings`` are the ids of all messages in its place, itself included, oldest first ("branch 2/3"). ``facts`` are
    those of a `NewMessage`, or `UnreadableDetails`.
    """

    id: str
    parent_id: str | None
    role: Role
    content: str
    reasoning: str | None
    tool_calls: tuple[ToolCall, ...]
    facts: Details
    created_at: datetime
    siblings: tuple[str, ...]
    files: tuple[AttachmentText, ...] = ()  # those of a question

    @property
    def can_go_on(self) -> bool:
        """Whether it is an answer that was cut off within its text, so that a turn can continue it."""
        is_text = self.role == "assistant" and bool(self.content) and not self.tool_calls
        return is_text and isinstance(self.facts, Facts) and self.facts.is_cut_off

    def as_message(self) -> Message:
        """The message as the engine takes it."""
        tool = self.facts if isinstance(self.facts, ToolFacts) else ToolFacts()
        return Message(
            self.role, with_files(self.content, [file.as_read() for file in self.files]), self.reasoning,
            self.tool_calls, tool_call_id=tool.tool_call_id, name=tool.name,
        )  # fmt: skip


def insert_message(
    connection: sa.Connection, conversation_id: str, parent_id: str | None, message: NewMessage, now_us: int
) -> str:
    """Put a message under another, or first, and show the branch that ends with it; returns its id.

    A conversation that was archived is in the list again.
    """
    message_id = secrets.token_hex(8)
    connection.execute(
        messages.insert().values(
            id=message_id, conversation_id=conversation_id, parent_id=parent_id, role=message.role,
            content=message.content, reasoning=message.reasoning, created_us=now_us, details=message.facts.values(),
            tool_calls=[asdict(call) for call in message.tool_calls],
        )
    )  # fmt: skip
    index_messages(connection, "id", message_id)
    attach(connection, conversation_id, message_id, message.attachments)
    mine = conversations.c.id == conversation_id
    connection.execute(
        conversations.update().where(mine).values(leaf_id=message_id, updated_us=now_us, archived_us=None)
    )
    return message_id


def continue_message(connection: sa.Connection, begun: StoredMessage, more: NewMessage) -> NewMessage:
    """The whole of an answer and of what continues it. The part that was begun is removed: the whole takes its place.

    A part that something follows stays: what follows would lose its place.
    """
    facts = more.facts
    if isinstance(facts, Facts) and isinstance(begun.facts, Facts):
        facts = facts.after(begun.facts)
    if connection.execute(sa.select(messages.c.id).where(messages.c.parent_id == begun.id)).first() is None:
        forget_messages(connection, "id", begun.id)
        connection.execute(messages.delete().where(messages.c.id == begun.id))
    reasoning = (begun.reasoning or "") + (more.reasoning or "")
    return NewMessage("assistant", begun.content + more.content, reasoning or None, more.tool_calls, facts)


def append_interruption(
    connection: sa.Connection, conversation_id: str, question: str, facts: Facts, now_us: int
) -> None:
    """Put an empty answer under `question`, in the caller's transaction; `facts` say what happened.

    Nothing is done where the branch that is shown does not end with that question: it has an answer, or is gone.
    """
    leaf = sa.select(messages.c.id, messages.c.role, messages.c.content).join(
        conversations, conversations.c.leaf_id == messages.c.id
    )
    row = connection.execute(leaf.where(conversations.c.id == conversation_id)).one_or_none()
    if row is None or row.role != "user" or not question.endswith(row.content):
        return
    insert_message(connection, conversation_id, row.id, NewMessage("assistant", "", facts=facts), now_us)


def check_message(connection: sa.Connection, conversation_id: str, message_id: str) -> None:
    """Raises: ConversationNotFoundError: the conversation has no such message."""
    mine = sa.and_(messages.c.id == message_id, messages.c.conversation_id == conversation_id)
    if connection.execute(sa.select(messages.c.id).where(mine)).first() is None:
        raise ConversationNotFoundError


def all_messages(connection: sa.Connection, conversation_id: str) -> Sequence[sa.Row[Any]]:
    """The rows of every branch, oldest first."""
    query = sa.select(messages).where(messages.c.conversation_id == conversation_id).order_by(messages.c.number)
    return connection.execute(query).all()


def newest_leaf(rows: Sequence[sa.Row[Any]], message_id: str) -> str:
    """The newest of a message and all that follow it: the end of the branch that was used last."""
    below, leaf_id = {message_id}, message_id
    for row in rows:  # oldest first, so a message comes before those that follow it
        if row.parent_id in below:
            below.add(row.id)
            leaf_id = row.id
    return leaf_id


Files = Mapping[str, tuple[AttachmentText, ...]]  # by the message that they belong to
_NO_FILES: Final[Files] = MappingProxyType({})


def branch_of(rows: Sequence[sa.Row[Any]], leaf_id: str | None, files: Files = _NO_FILES) -> list[StoredMessage]:
    """The messages from the first to the leaf."""
    by_id, children = {row.id: row for row in rows}, _children(rows)
    branch: list[StoredMessage] = []
    while leaf_id is not None:
        row = by_id.pop(leaf_id)  # each once, or a damaged parent makes a circle
        branch.append(_stored_message(row, tuple(children[row.parent_id]), files))
        leaf_id = row.parent_id
    return branch[::-1]


def branches_of(rows: Sequence[sa.Row[Any]], files: Files = _NO_FILES) -> list[StoredMessage]:
    """The messages of every branch, oldest first."""
    children = _children(rows)
    return [_stored_message(row, tuple(children[row.parent_id]), files) for row in rows]


def _children(rows: Sequence[sa.Row[Any]]) -> dict[str | None, list[str]]:
    children: dict[str | None, list[str]] = {}
    for row in rows:
        children.setdefault(row.parent_id, []).append(row.id)
    return children


def _stored_message(row: sa.Row[Any], siblings: tuple[str, ...], files: Files) -> StoredMessage:
    if not (isinstance(row.content, str) and isinstance(row.reasoning, str | None) and isinstance(row.details, dict)):
        raise TypeError("a message whose values have other types")
    if row.role not in get_args(Role):
        raise ValueError("a message from nobody")
    calls = tuple(ToolCall(**call) for call in row.tool_calls)
    facts = read_first((_FACTS.get(row.role, Details),), row.details)
    return StoredMessage(
        row.id, row.parent_id, row.role, row.content, row.reasoning, calls, facts, as_datetime(row.created_us),
        siblings, files.get(row.id, ()),
    )  # fmt: skip
