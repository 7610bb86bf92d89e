"""Characters that a reader does not see: controls, direction marks, zero-width and blank ones, tags, private ones.

They can hide words from a reader (tags spell ASCII without showing it), turn a line around, and cut a word in two for a
search. Review marks each. So it does with long runs of blanks, which push words out of view, and of combining marks,
which cover the lines around them. The index holds words without all these, and in plain letters, too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from typing import Final

# Unicode's categories Cc (but tab and line feed), Cf, Zl, Zp, Co and Cs, its noncharacters; and what is drawn as
# nothing: joiners, fillers, the blank Braille pattern, the null notehead, variation selectors, the plane of tags.
UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff\ue000-\uf8ff\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff0-\ufffb\ufdd0-\ufdef\ufffe\uffff\U00016fe4\U0001d159\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff]+"
)
BLANKS: Final = re.compile(r"\s{100,}|(?:[^\S\n]*\n){10,}[^\S\n]*")  # so many that they hide what follows
_COMBINING: Final = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
STACKED: Final = re.compile(f"[{_COMBINING}]{{4,}}")  # no language puts four on one letter
_COMBINED: Final = re.compile(f"[{_COMBINING}]")
_WORD: Final = re.compile(r"\w+")
_TAGS: Final = range(0xE0020, 0xE007F)  # each spells the ASCII character 0xE0000 below it


def seen_only(text: str) -> str:
    """`text` without the characters that are not seen; the words that tags spell stand after it."""
    spelt = "".join(chr(ord(char) - 0xE0000) for run in UNSEEN.findall(text) for char in run if ord(char) in _TAGS)
    seen = UNSEEN.sub("", text)
    return f"{seen}\n{spelt}" if spelt else seen


def plain_words(text: str) -> list[str]:
    """Words that `text` holds only in disguise: cut by unseen characters or by marks above letters, in bold, full-width
    or other forms of letters that Unicode calls compatible. They are given as they would be typed, each once."""
    plain = _COMBINED.sub("", unicodedata.normalize("NFKC", seen_only(text)))
    if plain == text:
        return []
    typed = set(_WORD.findall(text))
    return [word for word in dict.fromkeys(_WORD.findall(plain)) if word not in typed]


def names_of(run: str) -> Iterator[str]:
    """Names for a run of such characters: the words that tags spell, else the code point and its number."""
    for is_tag, group in groupby(run, key=lambda char: ord(char) in _TAGS):
        chars = list(group)
        if is_tag:
            yield "tags spelling " + "".join(chr(ord(char) - 0xE0000) for char in chars)
            continue
        for char, same in groupby(chars):
            count = len(list(same))
            yield f"U+{ord(char):04X}" + (f" ×{count}" if count > 1 else "")  # noqa: RUF001 - a multiplication sign
