"""Checks that a search reaches each word of an FTS5 index: the table of its pages, which FTS5's own check leaves out.

An index keeps its words in segments, sorted, in leaf pages, and beside them a table (``idx``) that says on which page a
word would stand. FTS5's own check reads the pages in order, so it does not notice a table that leads
past a page; a search then misses the words on that page. Here the first and the last word of each page are looked up as
FTS5 does, and everything that the table says between them.

Pure: rows in, a sentence out. To be asked after FTS5's own ``integrity-check``, which proves that the pages themselves
can be decoded. Source: SQLite, ext/fts5/fts5_index.c (format of records; fts5SegIterSeekInit).
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

_STRUCTURE: Final = 10  # row id of the record that names the segments
_SEGMENT_SHIFT: Final = 37  # of a segment's number in a row id; below it stands the number of the page
_PAGES: Final = 1 << 31  # leaf pages have smaller numbers; above are indexes of long lists


class WayError(Exception):
    """A search does not reach the words of a page, or a record has not the form that FTS5 writes."""


def check_way(index: sqlite3.Connection) -> None:
    """Compare the table with the pages of every segment.

    Raises:
        WayError: a search would miss words.
    """
    row = index.execute("SELECT block FROM audit_words_data WHERE id = ?", (_STRUCTURE,)).fetchone()
    try:
        for segment, first_page, _ in _segments(row[0]):
            _check_segment(index, segment, first_page)
    except (IndexError, TypeError, ValueError) as exc:
        raise WayError(f"a record of the search index cannot be read: {exc}") from exc


def _check_segment(index: sqlite3.Connection, segment: int, first_page: int) -> None:
    rows = index.execute("SELECT term, pgno FROM audit_words_idx WHERE segid = ? ORDER BY term", (segment,)).fetchall()
    terms, leads_to = [_blob(term) for term, _ in rows], [max(_number(page) >> 1, first_page) for _, page in rows]
    for page, first, last in _pages(index, segment, first_page):
        begin, end = bisect_right(terms, first) - 1, bisect_right(terms, last) - 1
        led = [first_page if position < 0 else leads_to[position] for position in range(begin, end + 1)]
        if any(number != page for number in led):
            raise WayError(f"a search does not reach the word {first[1:41].decode(errors='replace')!r}")


def _blob(value: object) -> bytes:
    """The bytes of a value. SQLite keeps values of any type here, and bytes(n) would be n zeros."""
    if not isinstance(value, bytes):
        raise TypeError("a word is no blob")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("a number of a page is none")
    return value


def _pages(index: sqlite3.Connection, segment: int, first_page: int) -> Iterator[tuple[int, bytes, bytes]]:
    """The pages of a segment on which words begin: number, first and last word."""
    low = segment << _SEGMENT_SHIFT
    query = "SELECT id, block FROM audit_words_data WHERE id BETWEEN ? AND ? ORDER BY id"
    for row_id, block in index.execute(query, (low + first_page, low + _PAGES - 1)):
        words_end = int.from_bytes(block[2:4], "big")
        if words_end < len(block):
            first, last = _first_and_last(block, words_end)
            yield row_id - low, first, last


def _first_and_last(block: bytes, words_end: int) -> tuple[bytes, bytes]:
    """The page's first word stands whole; each other shares a beginning with the one before it."""
    step, position = _varint(block, words_end)
    size, begin = _varint(block, step)
    first = word = block[begin : begin + size]
    at, end = step, len(block)
    while position < end:
        step = block[position]
        position += 1
        if step & 0x80:
            step, position = _varint(block, position - 1)
        at += step
        shared, size, begin = block[at], block[at + 1], at + 2
        if (shared | size) & 0x80:
            shared, begin = _varint(block, at)
            size, begin = _varint(block, begin)
        word = word[:shared] + block[begin : begin + size]
    return first, word


def _segments(structure: bytes) -> Iterator[tuple[int, int, int]]:
    """Number, first and last page of each segment."""
    levels, position = _varint(structure, 4)
    _, position = _varint(structure, position)
    _, position = _varint(structure, position)
    for _ in range(levels):
        _, position = _varint(structure, position)
        count, position = _varint(structure, position)
        for _ in range(count):
            segment, position = _varint(structure, position)
            first_page, position = _varint(structure, position)
            last_page, position = _varint(structure, position)
            yield segment, first_page, last_page


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """SQLite's number of up to nine bytes, and where it ends."""
    value = 0
    for count in range(8):
        byte = data[position + count]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + count + 1
    return value << 8 | data[position + 8], position + 9
