"""The stretch of a text around the words that were looked for, with the words marked. Pure.

Case and accents do not matter, as for the index on SQLite. A word is marked where a word begins like it, or anywhere in
scripts that are written without blanks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_BEFORE: Final = 50
_LENGTH: Final = 180
_MAX_CHARS: Final = 100_000  # of a text that is looked through
_TOKEN: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Piece:
    """A part of the stretch."""

    text: str
    is_marked: bool = False


def snippet(text: str, words: Sequence[str]) -> tuple[Piece, ...]:
    """At most some 180 characters of `text` on one line, from a little before the first of `words` on."""
    text = " ".join(text[:_MAX_CHARS].split())
    spans = list(_spans(text, words))
    begin = _word_before(text, max(0, spans[0][0] - _BEFORE)) if spans else 0
    end = min(len(text), begin + _LENGTH)
    pieces, at = [Piece("…")] if begin else [], begin
    for first, last in spans:
        if last <= at or first >= end:
            continue
        first, last = max(first, at), min(last, end)
        pieces += [Piece(text[at:first]), Piece(text[first:last], is_marked=True)]
        at = last
    pieces += [Piece(text[at:end]), *([Piece("…")] if end < len(text) else [])]
    return tuple(piece for piece in pieces if piece.text)


def _spans(text: str, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where words stand, in order and without overlap."""
    folded, places = _folded(text)
    tokens = {token for word in words for token in _TOKEN.findall(_folded(word)[0])}
    exact = {_folded(word)[0] for word in words if not _TOKEN.search(word)}
    begins = sorted(map(re.escape, tokens), key=len, reverse=True)
    parts = [rf"(?:(?<![^\W_])|(?<=[^\x00-\u0dff]))(?:{'|'.join(begins)})"] if begins else []
    parts += sorted(map(re.escape, exact), key=len, reverse=True)
    if not parts:
        return
    for found in re.finditer("|".join(parts), folded):
        yield places[found.start()], places[found.end() - 1] + 1


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """The text without case and accents, and for each of its characters the place in `text`."""
    if text.isascii():
        return text.lower(), range(len(text))
    chars: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        folded = _folded_char(char)
        chars.append(folded)
        places += [place] * len(folded)
    return "".join(chars), places


@lru_cache(maxsize=4096)
def _folded_char(char: str) -> str:
    plain = unicodedata.normalize("NFD", char.casefold())
    return "".join(one for one in plain if not unicodedata.combining(one))


def _word_before(text: str, place: int) -> int:
    """The beginning of the word at `place`, unless it is far away."""
    blank = text.rfind(" ", max(0, place - 20), place)
    return place if blank < 0 else blank + 1
