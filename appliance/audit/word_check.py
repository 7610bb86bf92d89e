"""Compares the search index with the contents: an index that lacks a word hides an event from a search.

SQLite: the stored index is copied beside one that is made anew of the contents, both are merged into one segment, and
the segments are compared as bytes. Where they differ, or were only cut into pages differently, each word's place is
compared, and events are named. Both lie on disk, in a temporary directory; the database is only read.
PostgreSQL makes the word vectors anew itself, some events at a time.

What this does not cover: words of a content that was erased after somebody had changed it, which may stay (erasure.py);
PostgreSQL's own index over the vectors, for which there is its extension amcheck.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from appliance.audit.event import Content
from appliance.audit.fault import MAX_FAULTS, Fault
from appliance.audit.words import indexed_text, vectors_of
from appliance.tables import AUDIT_WORDS_SQLITE, audit_contents, audit_events, audit_words_postgresql

_SHADOWS = ("data", "idx", "docsize", "config")  # the tables in which FTS5 keeps an index
_STRETCH = 500  # events read at once
_PAGE_MASK = (1 << 37) - 1  # of a row id in FTS5's table of pages; above it stands the number of the segment
_FIRST_PAGE = 1 << 37  # below it stand FTS5's two records about the whole
LACKS = "the search index lacks words of it, so that a search does not find it"
EXTRA = "the search index has words for it that it does not hold"
_DAMAGED = "the search index is damaged"
_MEND = "appliance audit reindex makes it anew"

Place = tuple[str, int, int]  # word, event, position


def check_words(connection: sa.Connection, *, is_sqlite: bool) -> list[Fault]:
    """What the index lacks, and what it should not have; at most `MAX_FAULTS`."""
    return _check_sqlite(connection) if is_sqlite else _check_postgresql(connection)


def words_of_contents(connection: sa.Connection, after: int, last: int) -> Iterator[tuple[int, str]]:
    """Number and indexed text of the contents of the events after `after`; what is no content is passed over."""
    columns = audit_contents.c
    query = sa.select(columns.sequence, columns.text, columns.details).order_by(columns.sequence).limit(_STRETCH)
    position = after
    while rows := connection.execute(query.where(columns.sequence > position, columns.sequence <= last)).all():
        position = rows[-1].sequence
        for sequence, text, details in rows:
            words = _indexed(text, details)
            if words:
                yield sequence, words


def _indexed(text: object, details: object) -> str | None:
    """None where it is no content any more, of which the check of the tree tells."""
    try:
        return indexed_text(Content(text, json.loads(details)))  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _check_sqlite(connection: sa.Connection) -> list[Fault]:
    with tempfile.TemporaryDirectory(prefix="appliance-words-") as directory:
        fresh = _open(Path(directory) / "fresh")
        try:
            last = connection.scalar(sa.select(sa.func.max(audit_events.c.sequence))) or 0
            fresh.executemany(
                "INSERT INTO audit_words(rowid, words) VALUES (?, ?)", words_of_contents(connection, 0, last)
            )
            stored = _copied(connection, Path(directory) / "stored")
            try:
                return _compared(connection, stored, fresh)
            finally:
                stored.close()
        except sqlite3.DatabaseError as exc:
            return [Fault(0, 0, f"{_DAMAGED}: {exc}; {_MEND}")]
        finally:
            fresh.close()


def _open(path: Path) -> sqlite3.Connection:
    """A database for this check, with an empty index."""
    connection = _connected(path)
    connection.execute(AUDIT_WORDS_SQLITE)
    connection.execute("BEGIN")
    return connection


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _copied(connection: sa.Connection, path: Path) -> sqlite3.Connection:
    """A copy of the stored index that has passed FTS5's own check.

    Raises:
        sqlite3.DatabaseError: it did not.
    """
    copy = _open(path)
    for shadow in _SHADOWS:
        copy.execute(f"DELETE FROM audit_words_{shadow}")  # noqa: S608 - a name of ours
        rows = connection.execution_options(yield_per=_STRETCH).exec_driver_sql(f"SELECT * FROM audit_words_{shadow}")  # noqa: S608
        values = ", ".join("?" * len(rows.keys()))
        copy.executemany(f"INSERT INTO audit_words_{shadow} VALUES ({values})", (tuple(row) for row in rows))  # noqa: S608
    copy.execute("COMMIT")
    copy.close()  # the next connection reads what FTS5 keeps in memory anew
    copy = _connected(path)
    _tell(copy, "integrity-check")
    _look_up_every_word(copy)
    copy.execute("BEGIN")
    return copy


def _look_up_every_word(index: sqlite3.Connection) -> None:
    """Whether a search comes to each word: FTS5's own check reads the pages in order and not by the way to them.

    Raises:
        sqlite3.DatabaseError: a word leads to fewer events than there are places of it.
    """
    index.execute("CREATE VIRTUAL TABLE temp.known USING fts5vocab('main', 'audit_words', 'row')")
    found = "SELECT count(*) FROM audit_words WHERE audit_words MATCH ?"
    for word, events in index.execute("SELECT term, doc FROM temp.known"):
        quoted = '"' + word.replace('"', '""') + '"'
        if index.execute(found, (quoted,)).fetchone()[0] != events:
            raise sqlite3.DatabaseError(f"a search does not come to the word {word[:40]!r}")


def _tell(index: sqlite3.Connection, command: str) -> None:
    index.execute("INSERT INTO audit_words(audit_words) VALUES (?)", (command,))


def _compared(connection: sa.Connection, stored: sqlite3.Connection, fresh: sqlite3.Connection) -> list[Fault]:
    settings = "SELECT k, v FROM audit_words_config ORDER BY k"
    if stored.execute(settings).fetchall() != fresh.execute(settings).fetchall():
        return [Fault(0, 0, f"the settings of the search index are not those of this appliance; {_MEND}")]
    for index in (stored, fresh):
        _tell(index, "optimize")
    if _same_pages(stored, fresh):
        return []
    return [fault for fault in _differences(stored, fresh) if fault.message == LACKS or _counts(connection, fault)]


def _same_pages(stored: sqlite3.Connection, fresh: sqlite3.Connection) -> bool:
    query = f"SELECT id & {_PAGE_MASK}, block FROM audit_words_data WHERE id >= {_FIRST_PAGE} ORDER BY id"  # noqa: S608
    left, right = stored.execute(query), fresh.execute(query)
    while (some := left.fetchmany(_STRETCH)) == right.fetchmany(_STRETCH):
        if not some:
            return True
    return False


def _differences(stored: sqlite3.Connection, fresh: sqlite3.Connection) -> list[Fault]:
    """Go through both in the order of words; each event is named once for each kind."""
    found: dict[tuple[int, str], None] = {}
    left, right = _places(stored), _places(fresh)
    has, should = next(left, None), next(right, None)
    while (has or should) and len(found) < MAX_FAULTS:
        if has == should:
            has, should = next(left, None), next(right, None)
        elif should is None or (has is not None and has < should):
            found[has[1] if has else 0, EXTRA] = None
            has = next(left, None)
        else:
            found[should[1], LACKS] = None
            should = next(right, None)
    return [Fault(sequence, sequence, message) for sequence, message in sorted(found)]


def _places(index: sqlite3.Connection) -> Iterator[Place]:
    index.execute("CREATE VIRTUAL TABLE temp.places USING fts5vocab('main', 'audit_words', 'instance')")
    yield from index.execute("SELECT term, doc, offset FROM temp.places")


def _counts(connection: sa.Connection, fault: Fault) -> bool:
    """Whether words too many are a fault: not where the content is gone, or is none, because its words are unknown."""
    events, contents = audit_events.c, audit_contents.c
    joined = audit_events.outerjoin(audit_contents, events.sequence == contents.sequence)
    query = sa.select(events.commitment, contents.text, contents.details).select_from(joined)
    row = connection.execute(query.where(events.sequence == fault.first)).one_or_none()
    if row is None or row.commitment is None:
        return True
    return row.text is not None and _indexed(row.text, row.details) is not None


def _check_postgresql(connection: sa.Connection) -> list[Fault]:
    faults: list[Fault] = []
    last = connection.scalar(sa.select(sa.func.max(audit_events.c.sequence))) or 0
    for after in range(0, last, _STRETCH):
        wanted = vectors_of(list(words_of_contents(connection, after, min(after + _STRETCH, last))))
        faults += _stretch_of_postgresql(connection, wanted, after, after + _STRETCH)
        if len(faults) >= MAX_FAULTS:
            break
    columns = audit_words_postgresql.c
    outside = sa.or_(columns.sequence < 1, columns.sequence > last)
    strays = connection.scalars(sa.select(columns.sequence).where(outside).distinct().limit(MAX_FAULTS))
    return [*faults, *(Fault(sequence, sequence, EXTRA) for sequence in strays)][:MAX_FAULTS]


def _stretch_of_postgresql(
    connection: sa.Connection, wanted: list[dict[str, Any]], after: int, last: int
) -> list[Fault]:
    columns = audit_words_postgresql.c
    query = sa.select(columns.sequence, columns.part, sa.cast(columns.words, sa.Text))
    rows = connection.execute(query.where(columns.sequence > after, columns.sequence <= last))
    stored = {(sequence, part): words for sequence, part, words in rows}
    vector = sa.cast(sa.func.to_tsvector("simple", sa.bindparam("text")), sa.Text)
    fresh = {
        (part["sequence"], part["part"]): connection.scalar(sa.select(vector), {"text": part["text"]})
        for part in wanted
    }
    lacking = {sequence for (sequence, part), words in fresh.items() if stored.get((sequence, part)) != words}
    extra = {sequence for sequence, part in stored if (sequence, part) not in fresh} - lacking
    found = [Fault(sequence, sequence, LACKS) for sequence in sorted(lacking)]
    return found + [
        fault for sequence in sorted(extra) if _counts(connection, fault := Fault(sequence, sequence, EXTRA))
    ]
