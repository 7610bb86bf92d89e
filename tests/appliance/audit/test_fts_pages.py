"""How a search finds the words of an index: the test searches for every word and compares the result with what is
reported.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from appliance.audit.fts_pages import WayError, check_way
from appliance.database.tables import AUDIT_WORDS_SQLITE

SEGMENT, PAGE = "segid", "pgno"


@pytest.fixture
def index() -> Iterator[sqlite3.Connection]:
    """Several segments of several pages: words with long common beginnings, a word in all events, a very long word."""
    draw = random.Random(7)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(AUDIT_WORDS_SQLITE)
        connection.execute("INSERT INTO audit_words(audit_words, rank) VALUES ('pgsz', 200)")
        for number in range(1, 400):
            words = " ".join(f"common{draw.randrange(900):04d} {draw.randrange(10**6)}" for _ in range(6))
            connection.execute("INSERT INTO audit_words(rowid, words) VALUES (?, ?)", (number, f"every {words}"))
        connection.execute("INSERT INTO audit_words(rowid, words) VALUES (400, ?)", ("long" * 100,))
        yield connection


def is_found(index: sqlite3.Connection) -> bool:
    """Whether a search finds every word, in all of its events."""
    index.execute("CREATE VIRTUAL TABLE IF NOT EXISTS temp.known USING fts5vocab('main', 'audit_words', 'row')")
    found = "SELECT count(*) FROM audit_words WHERE audit_words MATCH ?"
    known = index.execute("SELECT term, doc FROM temp.known").fetchall()
    return all(index.execute(found, (f'"{word}"',)).fetchone()[0] == events for word, events in known)


def is_right(index: sqlite3.Connection) -> bool:
    try:
        check_way(index)
    except WayError:
        return False
    return True


def test_the_way_is_right_in_whatever_shape_the_appliance_leaves_an_index(index: sqlite3.Connection) -> None:
    assert index.execute("SELECT count(DISTINCT segid) FROM audit_words_idx").fetchone()[0] > 3
    assert is_right(index)
    for number in range(1, 400, 3):  # partly merged, so that a segment begins after its first page
        index.execute("INSERT INTO audit_words(audit_words, rank) VALUES ('merge', ?)", (-3 if number == 1 else 3,))
        if number % 30 == 1:
            assert is_right(index), number
    assert is_found(index)
    index.execute("INSERT INTO audit_words(audit_words) VALUES ('optimize')")
    assert is_right(index)


CHANGES = {
    "remove": "DELETE FROM audit_words_idx WHERE segid = ? AND term = ?",
    "lead to the next page": "UPDATE audit_words_idx SET pgno = pgno + 2 WHERE segid = ? AND term = ?",
    "lead to the page before": "UPDATE audit_words_idx SET pgno = pgno - 2 WHERE segid = ? AND term = ?",
    "lead to no page": "UPDATE audit_words_idx SET pgno = 2000000 WHERE segid = ? AND term = ?",
    "begin later": "UPDATE OR IGNORE audit_words_idx SET term = CAST(term || 'z' AS BLOB) WHERE segid = ? AND term = ?",
    "begin earlier": "UPDATE OR IGNORE audit_words_idx SET term = substr(term, 1, 3) WHERE segid = ? AND term = ?",
    "in another segment": "UPDATE OR IGNORE audit_words_idx SET segid = segid + 1 WHERE segid = ? AND term = ?",
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_hides_a_word_from_a_search_is_said(index: sqlite3.Connection, change: str) -> None:
    rows = index.execute("SELECT segid, term FROM audit_words_idx").fetchall()
    hidden = 0
    for segment, term in rows[:: max(1, len(rows) // 40)]:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
            index.backup(copy)
            copy.execute(CHANGES[change], (segment, term))
            if not is_found(copy):
                hidden += 1
                assert not is_right(copy), (segment, term)
    assert hidden, "no change hid a word, so that nothing was tried"


@pytest.mark.parametrize("structure", [b"", b"\x00" * 8, b"\xff" * 40, None, "text"])
def test_a_record_of_another_form_is_said(index: sqlite3.Connection, structure: object) -> None:
    index.execute("UPDATE audit_words_data SET block = ? WHERE id = 10", (structure,))
    if structure == b"\x00" * 8:
        check_way(index)  # no segments; the comparison with the contents reports the missing words
        return
    with pytest.raises(WayError):
        check_way(index)


@pytest.mark.parametrize(
    ("term", "page"), [(10**15, 0), ("text", 0), (b"word", "9e999"), (b"word", float("inf")), (b"word", None)]
)
def test_a_row_of_another_type_is_said(index: sqlite3.Connection, term: object, page: object) -> None:
    """It stands before the first page, where FTS5's own check passes over it."""
    segment = index.execute("SELECT segid FROM audit_words_idx LIMIT 1").fetchone()[0]
    index.execute("INSERT INTO audit_words_idx(segid, term, pgno) VALUES (?, ?, ?)", (segment, term, page))
    with pytest.raises(WayError):
        check_way(index)
