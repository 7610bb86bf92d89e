"""The record's full-text index: which words lead to an event. It finds events; it proves nothing.

Every word of the query must occur, as a word or as the beginning of one, in any order. SQLite ignores case and accents,
PostgreSQL only case.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from appliance.database.tables import AUDIT_WORDS_SQLITE, audit_events, audit_words_postgresql, storable
from appliance.database.transactions import Database

_PART_CHARS = 100_000  # per word vector on PostgreSQL, whose limit is 1 MiB of distinct words

_MERGED_PAGES = 64  # of the index in one transaction: a few milliseconds

_words = sa.table("audit_words", *map(sa.column, ("rowid", "words", "audit_words", "rank")))


def index_words(database: Database, connection: sa.Connection, rows: list[tuple[int, str]]) -> None:
    """Add events, given as (sequence, indexed text), to the index."""
    if database.is_sqlite:
        if rows:
            connection.execute(_words.insert(), [{"rowid": number, "words": text} for number, text in rows])
        return
    parts = vectors_of(rows)
    if parts:
        vector = sa.func.to_tsvector("simple", sa.bindparam("text"))
        connection.execute(audit_words_postgresql.insert().values(words=vector), parts)


def vectors_of(rows: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """What PostgreSQL makes word vectors of: sequence, part and text of each."""
    return [
        {"sequence": number, "part": part, "text": text[start : start + _PART_CHARS]}
        for number, text in rows
        for part, start in enumerate(range(0, len(text), _PART_CHARS - 1000))  # a word at a seam is whole in one part
    ]


def forget_words(database: Database, connection: sa.Connection) -> None:
    """Empty the index, also a damaged one."""
    if database.is_sqlite:
        _restore_settings(connection)  # with wrong ones FTS5 refuses even to drop it
        connection.exec_driver_sql("DROP TABLE IF EXISTS audit_words")
        connection.exec_driver_sql(AUDIT_WORDS_SQLITE)
    else:
        connection.execute(audit_words_postgresql.delete())


def _restore_settings(connection: sa.Connection) -> None:
    if not sa.inspect(connection).has_table("audit_words_config"):
        return
    with closing(sqlite3.connect(":memory:")) as fresh:
        fresh.execute(AUDIT_WORDS_SQLITE)
        rows = fresh.execute("SELECT k, v FROM audit_words_config").fetchall()
    connection.exec_driver_sql("DELETE FROM audit_words_config")
    connection.exec_driver_sql("INSERT INTO audit_words_config VALUES (?, ?)", rows)


def remove_words(database: Database, connection: sa.Connection, rows: list[tuple[int, str]]) -> None:
    """Take events out of the index, given exactly as they were put in. SQLite only marks them until `merge_words`."""
    if not database.is_sqlite:
        numbers = [number for number, _ in rows]
        connection.execute(audit_words_postgresql.delete().where(audit_words_postgresql.c.sequence.in_(numbers)))
    elif rows:
        removed = [{"audit_words": "delete", "rowid": number, "words": text} for number, text in rows]
        connection.execute(_words.insert(), removed)


def merge_words(database: Database, *, pause: Callable[[float], None], clock_s: Callable[[], float]) -> None:
    """Take what `remove_words` marked out of the file, in transactions of a few pages, with a pause after each.

    Source: FTS5, "The 'merge' Command": a first call with a negative number begins a merge of everything, and it is
    done when a call changes fewer than two rows.
    """
    if not database.is_sqlite:
        return
    pages = -_MERGED_PAGES
    while True:
        began_s = clock_s()
        with database.write() as connection:
            changes = sa.text("SELECT total_changes()")
            before = connection.scalar(changes)
            connection.execute(_words.insert().values(audit_words="merge", rank=pages))
            changed = connection.scalar(changes) - before
        if changed < 2:
            return
        pages = _MERGED_PAGES
        pause(clock_s() - began_s)


def searching(database: Database, query: sa.Select[Any], words: str) -> tuple[sa.Select[Any], sa.ColumnElement[int]]:
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
