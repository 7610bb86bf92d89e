"""Conversations as their table has them, without their messages. Every look-up names the person whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from appliance.database.tables import conversations
from appliance.database.transactions import DatabaseError, as_datetime, is_undecodable
from appliance.errors import ApplianceError
from appliance.people.messages import ConversationNotFoundError
from appliance.people.sampling import DEFAULT_SAMPLING, Sampling, stored_sampling


@dataclass(frozen=True)
class Conversation:
    """One entry of the list. ``folder`` is empty where it lies in none; ``marking_id`` None: not set."""

    id: str
    user_id: str
    title: str
    pinned: bool
    created_at: datetime
    updated_at: datetime
    archived: bool = False
    folder: str = ""
    marking_id: str | None = None
    sampling: Sampling = DEFAULT_SAMPLING
    without_instructions: bool = False


class ConversationDamagedError(ApplianceError):
    """What is stored of this conversation is not what was stored."""

    def __init__(self) -> None:
        super().__init__("This conversation cannot be read: somebody has changed the database.")


@contextmanager
def telling_damage() -> Iterator[None]:
    """SQLite keeps any value in any column: one that cannot be what was stored becomes `ConversationDamagedError`."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as exc:
        raise ConversationDamagedError from exc
    except DatabaseError as exc:
        if not is_undecodable(exc):
            raise
        raise ConversationDamagedError from exc


def own_row(connection: sa.Connection, user_id: str, conversation_id: str) -> sa.Row[Any]:
    """Raises: ConversationNotFoundError: it does not exist or is someone else's."""
    table = conversations.c
    query = sa.select(conversations).where(table.id == conversation_id, table.user_id == user_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise ConversationNotFoundError
    return row


def conversation_of(row: sa.Row[Any]) -> Conversation:
    """Raises: TypeError, ValueError, OverflowError: a value is not one that was stored."""
    created_at, updated_at = as_datetime(row.created_us), as_datetime(row.updated_us)
    folder = row.folder or ""
    if not (isinstance(row.title, str) and isinstance(row.id, str) and isinstance(folder, str)):
        raise TypeError("an id, a title or a folder that is no text")
    pinned, archived = bool(row.pinned), row.archived_us is not None
    return Conversation(
        row.id,
        row.user_id,
        row.title,
        pinned,
        created_at,
        updated_at,
        archived,
        folder,
        row.marking_id,
        stored_sampling(row.sampling),
        bool(row.without_instructions),
    )
