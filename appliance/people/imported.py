"""Conversations that come from elsewhere: a whole tree of messages, put in at once.

Nobody can tell whether an imported answer is what a model wrote. So each one is marked, in the conversation and in what
is exported of it, and the tree's text is in the record as part of the import's event.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from appliance.audit.details.codec import Details
from appliance.database.message_words import index_messages
from appliance.database.tables import conversations, messages
from appliance.turns.answer import Facts


@dataclass(frozen=True)
class ImportedMessage:
    """One message. ``parent`` is the place of the message before it in the tree's ``messages``, or None."""

    parent: int | None
    role: Literal["user", "assistant"]
    content: str
    reasoning: str = ""
    created_us: int | None = None


@dataclass(frozen=True)
class ImportedTree:
    """A conversation. Each message comes after its parent.

    ``source`` names who claims to have written the answers. ``shown`` is the place of the last message of the branch to
    show. ``left_out`` counts messages that were not taken: those of tools, instructions, and empty ones. ``marking`` is
    what the file says of it; the site may know no such marking.
    """

    title: str
    source: str
    messages: tuple[ImportedMessage, ...]
    shown: int
    left_out: int = 0
    created_us: int | None = None
    updated_us: int | None = None
    marking: str = ""

    @property
    def transcript(self) -> str:
        """Every message of every branch, for the record."""
        words = {"user": "Question", "assistant": "Answer"}
        parts = [self.title]
        for one in self.messages:
            parts += [f"{words[one.role]}:", *([one.reasoning] if one.reasoning else []), one.content]
        return "\n\n".join(parts)


def insert_tree(connection: sa.Connection, user_id: str, title: str, tree: ImportedTree, now_us: int) -> str:
    """Put a tree in as a new conversation of this user; returns its id. A time in the future becomes now."""

    def past(time_us: int | None) -> int:
        return now_us if time_us is None or not 0 <= time_us <= now_us else time_us

    conversation_id = secrets.token_hex(8)
    ids = [secrets.token_hex(8) for _ in tree.messages]
    connection.execute(
        conversations.insert().values(
            id=conversation_id, user_id=user_id, title=title, pinned=False, leaf_id=ids[tree.shown],
            created_us=past(tree.created_us), updated_us=past(tree.updated_us),
        )
    )  # fmt: skip
    rows: list[dict[str, Any]] = [
        {
            "id": ids[place], "conversation_id": conversation_id,
            "parent_id": None if one.parent is None else ids[one.parent], "role": one.role, "content": one.content,
            "reasoning": one.reasoning or None, "tool_calls": [], "created_us": past(one.created_us),
            "details": (Facts(imported=tree.source) if one.role == "assistant" else Details()).values(),
        }
        for place, one in enumerate(tree.messages)
    ]  # fmt: skip
    connection.execute(messages.insert(), rows)
    index_messages(connection, "conversation_id", conversation_id)
    return conversation_id
