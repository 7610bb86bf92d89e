"""Characters that a reader does not see: controls, direction marks, zero-width and blank ones, tags, private ones.

They can hide words from a reader (tags spell ASCII without showing it), turn a line around, and cut a word in two for a
search. Review marks each, and the index holds the text without them, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Final

# Unicode's categories Cc (but tab and line feed), Cf, Zl, Zp, Co and Cs; and what is drawn as nothing: joiners,
# fillers, the blank Braille pattern, variation selectors, the plane of tags.
UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff\ue000-\uf8ff\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff]+"
)
_TAGS: Final = range(0xE0020, 0xE007F)  # each spells the ASCII character 0xE0000 below it


def seen_only(text: str) -> str:
    """`text` without what is not seen; what tags spell stands after it."""
    spelt = "".join(chr(ord(char) - 0xE0000) for run in UNSEEN.findall(text) for char in run if ord(char) in _TAGS)
    seen = UNSEEN.sub("", text)
    return f"{seen}\n{spelt}" if spelt else seen


def names_of(run: str) -> Iterator[str]:
    """Names for a run of such characters: what tags spell, else the code point and how often it stands there."""
    for is_tag, group in groupby(run, key=lambda char: ord(char) in _TAGS):
        chars = list(group)
        if is_tag:
            yield "tags spelling " + "".join(chr(ord(char) - 0xE0000) for char in chars)
            continue
        for char, same in groupby(chars):
            count = len(list(same))
            yield f"U+{ord(char):04X}" + (f" ×{count}" if count > 1 else "")  # noqa: RUF001 - a multiplication sign
