"""Compares the search index with the contents: an index that lacks a word hides an event from a search.

SQLite: the stored index is copied beside one that is made anew of the contents, both are merged into one segment, and
the segments are compared as bytes. Where they differ, or were only cut into pages differently, each word's place is
compared, and events are named. Both lie on disk, in a temporary directory; the database is only read.
PostgreSQL makes the word vectors anew itself, some events at a time.

What this does not cover: words of a content that was erased after somebody had changed it, which may stay (erasure.py);
PostgreSQL's own index over the vectors, for which there is its extension amcheck.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from appliance.audit.details.indexed import indexed_text
from appliance.audit.fault import MAX_FAULTS, Fault
from appliance.audit.fts_pages import WayError, check_way
from appliance.audit.words import vectors_of
from appliance.database.tables import AUDIT_WORDS_SQLITE, audit_contents, audit_events, audit_words_postgresql
from appliance.database.transactions import Database
from appliance.errors import ApplianceError

_SHADOWS = ("data", "idx", "docsize", "config")  # the tables in which FTS5 keeps an index
_STRETCH = 500  # events read at once
_PAGE_MASK = (1 << 37) - 1  # of a row id in FTS5's table of pages; above it stands the number of the segment
_FIRST_PAGE = 1 << 37  # below it stand FTS5's two records about the whole
LACKS = "the search index lacks words of it, so that a search does not find it"
EXTRA = "the search index has words for it that it does not hold"
_FILL_BYTES = 32 << 20  # of words in memory, before they become a segment
_DAMAGED = "the search index is damaged"
_MEND = "appliance audit reindex makes it anew"

_CANNOT_WRITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_TRUNCATE)  # the latter: a quota

Place = tuple[str, int, int]  # word, event, position


class NoRoomError(ApplianceError):
    """The copies of the search index find no room on the disk, so nobody knows whether it is damaged."""

    def __init__(self, directory: str) -> None:
        super().__init__(
            f"the search index could not be checked: no room in {directory} for copies of it; free space there, "
            "then verify again"
        )


def check_words(
    connection: sa.Connection, *, is_sqlite: bool, database: Database | None = None, processes: int = 1
) -> list[Fault]:
    """What the index lacks, and what it should not have; at most `MAX_FAULTS`.

    Args:
        database: for another process to read, if processes > 1.
    Raises:
        NoRoomError: the index cannot be copied.
    """
    if not is_sqlite:
        return _check_postgresql(connection)
    if database is not None and processes > 1 and not _check_sqlite(connection, helped_by=database):
        return []
    # Another process may read a moment later, and an erasure in between is no fault. So only one process names faults.
    return _check_sqlite(connection)


def words_of_contents(connection: sa.Connection, after: int, last: int) -> Iterator[tuple[int, str]]:
    """Number and indexed text of the contents after event `after`; values that are no content are passed over."""
    position = after
    while rows := _contents(connection, position, last):
        position = rows[-1][0]
        for sequence, text, details in rows:
            words = _indexed(text, details)
            if words:
                yield sequence, words


def _contents(connection: sa.Connection, after: int, last: int) -> Sequence[tuple[int, object, object]]:
    """The next rows as the driver gives them: an object for each would double the time. If the driver refuses one
    because its text is not UTF-8, they are read one by one."""
    driver = connection.dialect.loaded_dbapi
    try:
        return _raw_contents(connection, f"> {after:d} AND sequence <= {last:d}")
    except driver.Error:
        columns = audit_contents.c
        numbers = sa.select(columns.sequence).where(columns.sequence > after, columns.sequence <= last)
        rows: list[tuple[int, object, object]] = []
        for number in connection.scalars(numbers.order_by(columns.sequence).limit(_STRETCH)).all():
            try:
                rows += _raw_contents(connection, f"= {number:d}")
            except driver.Error:
                rows.append((number, None, None))
        return rows


def _raw_contents(connection: sa.Connection, which: str) -> list[tuple[int, object, object]]:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(
            f"SELECT sequence, text, details FROM audit_contents WHERE sequence {which} "  # noqa: S608 - numbers alone
            f"ORDER BY sequence LIMIT {_STRETCH:d}"
        )
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _indexed(text: object, details: object) -> str | None:
    """The indexed text; None where this is no content any more, which the check of the tree reports."""
    try:
        return indexed_text(text, details)  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _check_sqlite(connection: sa.Connection, *, helped_by: Database | None = None) -> list[Fault]:
    with _scratch_directory() as directory:
        path = Path(directory) / "fresh"
        last = connection.scalar(sa.select(sa.func.max(audit_events.c.sequence))) or 0
        helper = None if helped_by is None else _start_filling(path, helped_by, last)
        try:
            with closing(_copied(connection, Path(directory) / "stored")) as stored:
                if helper is None or not _ended_well(helper):
                    path.unlink(missing_ok=True)
                    _fill(path, connection, last)
                helper = None
                with closing(_connected(path)) as fresh:
                    fresh.execute("BEGIN")
                    return _compared(connection, stored, fresh)
        except (sqlite3.DatabaseError, WayError) as exc:
            if getattr(exc, "sqlite_errorcode", None) in _CANNOT_WRITE:  # only the copies are written
                raise NoRoomError(str(Path(directory).parent)) from exc
            return [Fault(0, 0, f"{_DAMAGED}: {exc}; {_MEND}")]
        finally:
            if helper is not None:  # a confined command may not signal it; it ends by itself
                os.waitpid(helper, 0)


def _scratch_directory() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="appliance-words-")
    except OSError as exc:
        raise NoRoomError(str(exc.filename or "the temporary directory")) from exc


def _fill(path: Path, connection: sa.Connection, last: int) -> None:
    """Make an index of the contents of the first `last` events."""
    with closing(_open_to_fill(path)) as fresh:
        fresh.executemany("INSERT INTO audit_words(rowid, words) VALUES (?, ?)", words_of_contents(connection, 0, last))
        _tell(fresh, "optimize")
        fresh.execute("COMMIT")


def _start_filling(path: Path, database: Database, last: int) -> int | None:
    """The pid of a process that does it; None if none can be started."""
    try:
        pid = os.fork()
    except OSError:
        return None
    if pid:
        return pid
    code = 1
    with suppress(BaseException):  # whatever happens, this process ends here and the caller does the work
        database.engine.dispose(close=False)  # connections are the parent's
        with database.read() as connection:
            _fill(path, connection, last)
        code = 0
    os._exit(code)


def _ended_well(pid: int) -> bool:
    return os.waitpid(pid, 0)[1] == 0


def _open(path: Path) -> sqlite3.Connection:
    """A database for this check, with an empty index."""
    connection = _connected(path)
    connection.execute(AUDIT_WORDS_SQLITE)
    connection.execute("BEGIN")
    return connection


def _open_to_fill(path: Path) -> sqlite3.Connection:
    """The same, for filling at once: with few large segments, which take half the time of many small ones."""
    connection = _open(path)
    for name, value in (("hashsize", _FILL_BYTES), ("automerge", 0), ("crisismerge", 1000)):
        connection.execute("INSERT INTO audit_words(audit_words, rank) VALUES (?, ?)", (name, value))
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
        WayError: a search does not reach some words.
    """
    copy = _open(path)
    for shadow in _SHADOWS:
        copy.execute(f"DELETE FROM audit_words_{shadow}")  # noqa: S608 - a name of ours
        with closing(connection.connection.cursor()) as rows:  # the driver's own: a million rows
            rows.execute(f"SELECT * FROM audit_words_{shadow}")  # noqa: S608
            values = ", ".join("?" * len(rows.description or ()))
            copy.executemany(f"INSERT INTO audit_words_{shadow} VALUES ({values})", iter(rows.fetchone, None))  # noqa: S608
    copy.execute("COMMIT")
    copy.close()  # the next connection reads what FTS5 keeps in memory anew
    copy = _connected(path)
    _tell(copy, "integrity-check")
    check_way(copy)
    copy.execute("BEGIN")
    return copy


def _tell(index: sqlite3.Connection, command: str) -> None:
    index.execute("INSERT INTO audit_words(audit_words) VALUES (?)", (command,))


def _compared(connection: sa.Connection, stored: sqlite3.Connection, fresh: sqlite3.Connection) -> list[Fault]:
    settings = "SELECT k, v FROM audit_words_config ORDER BY k"
    with closing(_open(Path(":memory:"))) as empty:
        expected = empty.execute(settings).fetchall()
    if stored.execute(settings).fetchall() != expected:
        return [Fault(0, 0, f"the settings of the search index are not those of this appliance; {_MEND}")]
    _tell(stored, "optimize")  # as the other is already
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
    """Whether extra words are a fault. They are none where the content is gone or damaged: its words are not known."""
    columns = audit_events.c
    row = connection.execute(sa.select(columns.commitment).where(columns.sequence == fault.first)).one_or_none()
    if row is None or row.commitment is None:
        return True
    contents = _contents(connection, fault.first - 1, fault.first)
    return any(_indexed(text, details) is not None for _, text, details in contents)


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
