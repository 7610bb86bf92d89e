"""The record's full-text index: which words lead to an event. It finds events; it proves nothing.

Every word of the query must occur, as a word or as the beginning of one, in any order. SQLite ignores case and accents,
PostgreSQL only case.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from appliance.audit.event import Content
from appliance.database import Database, audit_events, audit_words_postgresql, storable

_PART_CHARS = 100_000  # per word vector on PostgreSQL, whose limit is 1 MiB of distinct words

_words = sa.table("audit_words", sa.column("rowid"), sa.column("words"), sa.column("audit_words"))


def indexed_text(content: Content) -> str:
    """What of `content` can be found: what was said, reasoned and passed to tools.

    The earlier messages of a prompt count when a program sent them; those of a conversation have events of their own.
    A change of this function needs a rebuilt index: SQLite removes an entry by the text that made it.
    """
    details = content.details
    parts = [content.text, details.get("reasoning", "")]
    parts += [call["arguments"] for call in details.get("tool_calls", ())]
    if details.get("conversation") is None:
        parts += [message["content"] for message in details.get("request", {}).get("messages", ())]
    return "\n".join(part for part in parts if part)


def index_words(database: Database, connection: sa.Connection, rows: list[tuple[int, str]]) -> None:
    """Add events, given as (sequence, indexed text), to the index."""
    if database.is_sqlite:
        if rows:
            connection.execute(_words.insert(), [{"rowid": number, "words": text} for number, text in rows])
        return
    parts = [
        {"sequence": number, "part": part, "text": text[start : start + _PART_CHARS]}
        for number, text in rows
        for part, start in enumerate(range(0, len(text), _PART_CHARS - 1000))  # a word at a seam is whole in one part
    ]
    if parts:
        vector = sa.func.to_tsvector("simple", sa.bindparam("text"))
        connection.execute(audit_words_postgresql.insert().values(words=vector), parts)


def remove_words(database: Database, connection: sa.Connection, rows: list[tuple[int, str]]) -> None:
    """Take events out of the index, given exactly as they were put in, and their words out of the SQLite file."""
    if not database.is_sqlite:
        numbers = [number for number, _ in rows]
        connection.execute(audit_words_postgresql.delete().where(audit_words_postgresql.c.sequence.in_(numbers)))
    elif rows:
        removed = [{"audit_words": "delete", "rowid": number, "words": text} for number, text in rows]
        connection.execute(_words.insert(), removed)
        # Until the index is merged, FTS5 only marks what is deleted.
        connection.execute(_words.insert().values(audit_words="optimize"))


def searching(
    database: Database, query: sa.Select[Any], words: str
) -> tuple[sa.Select[Any], sa.ColumnElement[int]]:
    """`query` over audit_events, restricted to events in which all `words` occur, and the column to order it by.

    A text without words matches nothing.
    """
    sequence: sa.ColumnElement[int] = audit_events.c.sequence
    wanted = [word for word in storable(words).split() if any(char.isalnum() for char in word)]
    if not wanted:
        return query.where(sa.false()), sequence
    if database.is_sqlite:
        # Ordered by its own row id, the index yields the newest first without collecting all matches.
        expression = " ".join('"' + word.replace('"', '""') + '"*' for word in wanted)
        query = query.join(_words, _words.c.rowid == sequence).where(_words.c.audit_words.op("MATCH")(expression))
        return query, _words.c.rowid
    vectors = audit_words_postgresql.c
    for word in wanted:
        found = sa.select(vectors.sequence).where(vectors.words.op("@@")(_prefix_query(word)))
        query = query.where(sequence.in_(found))
    return query, sequence


def _prefix_query(word: str) -> sa.ColumnElement[object]:
    quoted = "'" + word.replace("\\", "\\\\").replace("'", "''") + "':*"
    return sa.func.to_tsquery("simple", quoted)
