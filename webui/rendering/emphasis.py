"""Where ``**``, ``*``, ``_`` and ``~~`` may open and close: CommonMark's rule, made fit for text without blanks.

CommonMark looks for blanks and punctuation beside the signs, so that ``**请先备份。**然后`` keeps its asterisks. Here,
beside Chinese, Japanese and Korean, their punctuation counts as letters and they count as blanks ("CJK-friendly
emphasis", which CommonMark discusses as an amendment). Two asterisks also close between punctuation and a Latin letter
(``**Note:**read``) and open between a letter and an opening sign, which models write and nobody means otherwise.
"""

# ruff: noqa: RUF001 - letters and signs of the languages that are read here
from __future__ import annotations

import unicodedata
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.common.utils import isPunctChar
from markdown_it.rules_inline import StateInline, emphasis, strikethrough

_CJK: Final = (
    (0x1100, 0x11FF), (0x2E80, 0x303F), (0x3040, 0x33FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA960, 0xA97F),
    (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0xFE30, 0xFE4F), (0xFF01, 0xFF60), (0xFFE0, 0xFFE6), (0x1B000, 0x1B16F),
    (0x20000, 0x323AF),
)  # fmt: skip
_CLOSING: Final = ".,:;!?)]}\"'”’»%…"
_OPENING: Final = "([{\"'“‘«`$"


def add_emphasis(markdown: MarkdownIt) -> None:
    """Have `markdown` find emphasis and strikethrough by these rules."""
    markdown.inline.ruler.at("emphasis", _emphasis)
    markdown.inline.ruler.at("strikethrough", _strikethrough)


def _emphasis(state: StateInline, silent: bool) -> bool:
    return _with_flanks(state, emphasis.tokenize, silent)


def _strikethrough(state: StateInline, silent: bool) -> bool:
    return _with_flanks(state, strikethrough.tokenize, silent)


def _with_flanks(state: StateInline, tokenize: object, silent: bool) -> bool:
    """The library's rule, and then what its delimiters may do."""
    known, begin = len(state.delimiters), state.pos
    if not callable(tokenize) or not tokenize(state, silent):
        return False
    before = state.src[begin - 1] if begin else " "
    after = state.src[state.pos] if state.pos < len(state.src) else " "
    opens, closes = _flanks(before, after, state.src[begin], state.pos - begin)
    for delimiter in state.delimiters[known:]:
        delimiter.open, delimiter.close = opens, closes
    return True


def _flanks(before: str, after: str, marker: str, length: int) -> tuple[bool, bool]:
    """Whether a run of markers between two characters may open, and whether it may close."""
    left = not after.isspace() and (not _is_sign(after) or before.isspace() or _is_sign(before) or _is_cjk(before))
    right = not before.isspace() and (not _is_sign(before) or after.isspace() or _is_sign(after) or _is_cjk(after))
    if marker == "_":
        return left and (not right or _is_punctuation(before)), right and (not left or _is_punctuation(after))
    if marker == "*" and length == 2:
        right = right or (before in _CLOSING and after.isalnum())
        left = left or (before.isalnum() and after in _OPENING)
    return left, right


def _is_sign(char: str) -> bool:
    """Punctuation other than Chinese, Japanese or Korean."""
    return _is_punctuation(char) and not _is_cjk(char)


def _is_punctuation(char: str) -> bool:
    return isPunctChar(char) or unicodedata.category(char)[0] in "PS"


def _is_cjk(char: str) -> bool:
    code = ord(char)
    return code >= 0x1100 and any(first <= code <= last for first, last in _CJK)
