"""Search over a person's own conversations: every word stands in the title or in some message.

A word is found as a word or as the beginning of one, through the index. Signs that the index does not hold, and scripts
that are written without blanks, of which it holds whole runs, are looked for in the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from appliance.database.message_words import saying
from appliance.database.tables import conversations, messages, storable
from appliance.people.snippets import Piece, snippet

MAX_WORDS: Final = 12
HITS: Final = 3  # of one conversation
_WITHOUT_BLANKS: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class Hit:
    """A message with the words: a stretch of it, in pieces, of which those with the words are marked."""

    message_id: str
    role: str
    pieces: tuple[Piece, ...]


def matching(connection: sa.Connection, query: sa.Select[Any], user_id: str, words: str) -> sa.Select[Any]:
    """`query` over conversations, restricted to those of the user that have all words."""
    table, mine = conversations.c, _of_user(user_id)
    for word in _wanted(words):
        said = mine.where(_says(connection, word))
        query = query.where(sa.or_(table.title.icontains(word, autoescape=True), table.id.in_(said)))
    return query


def find_hits(connection: sa.Connection, ids: Sequence[str], words: str) -> dict[str, tuple[Hit, ...]]:
    """For each of these conversations the messages that have the most of the words, newer ones first."""
    wanted, table = _wanted(words), messages.c
    if not wanted or not ids:
        return {}
    flags = [sa.case((_says(connection, word), 1), else_=0) for word in wanted]
    count = sum(flags[1:], flags[0])
    query = sa.select(table.number, table.conversation_id, count.label("count")).where(table.conversation_id.in_(ids))
    ranked = query.where(sa.or_(*(_says(connection, word) for word in wanted))).subquery()
    found: dict[str, list[int]] = {}
    order = sa.select(ranked).order_by(ranked.c.count.desc(), ranked.c.number.desc())
    for number, conversation_id, _ in connection.execute(order):
        numbers = found.setdefault(conversation_id, [])
        if len(numbers) < HITS:
            numbers.append(number)
    chosen = [number for numbers in found.values() for number in numbers]
    hits = _hits(connection, chosen, wanted)
    return {key: tuple(hits[n] for n in numbers if n in hits) for key, numbers in found.items()}


def _hits(connection: sa.Connection, numbers: Sequence[int], words: Sequence[str]) -> dict[int, Hit]:
    table = messages.c
    query = sa.select(table.number, table.id, table.role, table.content).where(table.number.in_(numbers))
    return {
        row.number: Hit(row.id, row.role, snippet(row.content, words))
        for row in connection.execute(query)
        if isinstance(row.content, str) and isinstance(row.id, str) and isinstance(row.role, str)
    }


def _wanted(words: str) -> list[str]:
    return storable(words).split()[:MAX_WORDS]


def _of_user(user_id: str) -> sa.Select[tuple[str]]:
    mine = messages.c.conversation_id == conversations.c.id
    return sa.select(messages.c.conversation_id).join(conversations, mine).where(conversations.c.user_id == user_id)


def _says(connection: sa.Connection, word: str) -> sa.ColumnElement[bool]:
    """Whether a message has a word."""
    if any(char.isalnum() for char in word) and not _WITHOUT_BLANKS.search(word):
        return messages.c.number.in_(saying(connection, word))
    return messages.c.content.icontains(word, autoescape=True)
