"""Whether text between dollars, or in ``\\(..\\)`` and ``\\[..\\]``, is a formula or keeps its dollars.

A formula needs a reason to be one: a TeX command, an operator, a single letter. Words of a sentence are none.
"""

# ruff: noqa: RUF001 - letters and signs of the languages that are read here
from __future__ import annotations

import re
from typing import Final

_COMMAND: Final = re.compile(r"\\[a-zA-Z]|\\[,;:!|{}%]")
_OPERATOR: Final = re.compile(r"[\^_=<>+|/*!'()\[\]≤≥≠≈∈∞±×·→−∑∫√α-ωΑ-Ω-]")
_SYMBOL: Final = re.compile(r"[A-Za-zα-ωΑ-Ω]{1,3}[0-9]?|[0-9]+(?:[.,][0-9]+)*[a-zA-Z]?|[ℝℕℤℚℂ∅∞]")
_LIST_OF_SYMBOLS: Final = re.compile(r"(?:[A-Za-z][0-9]?|[0-9.]+)(?: ?, ?(?:[A-Za-z][0-9]?|[0-9.]+))+")
_TWO_WORDS: Final = re.compile(r"(?<![A-Za-z\\{])[A-Za-z]{2,}[,.;:]? +[a-z]{2,}(?![A-Za-z])")
_WORD_OF_A_SENTENCE: Final = re.compile(
    r"(?<![A-Za-z\\{])(?:and|or|to|the|per|is|are|was|for|with|from|of|in|on|at|by|but|vs|than)(?![A-Za-z}])"
)
_MATHEMATICS: Final = re.compile(r"\\[a-zA-Z]{2,}|\^|_\{|_[a-zA-Z0-9](?![a-zA-Z0-9])|[=<>]")
_TEXT_GROUP: Final = re.compile(r"\\(?:text|mathrm|operatorname|textbf|textit|mbox)\*?\s*\{[^{}]*\}")
_AFTER_LETTERS: Final = re.compile(r"(?:th|st|nd|rd|s|D|d)(?![A-Za-z0-9_])")  # the $n$th, two $x$s, $n$D


def is_inline_formula(source: str, before: str, after: str) -> bool:
    """Whether the text between two single dollars is a formula.

    Args:
        before: the character before the first dollar, or nothing.
        after: what follows the second dollar, a few characters.
    """
    if not source or source[0].isspace() or source[-1].isspace():
        return False
    if _continues_word(before) or before in ("$", "^", "\\"):
        return False
    if after[:1] in ("(", "{", "[", "$", "@"):  # make and shell: $(A)$(B), ${A}${B}
        return False
    if _continues_word(after[:1]) and not (_is_short(source) and _AFTER_LETTERS.match(after)):
        return False
    if not _COMMAND.search(source) and _closes_first(source):
        return False
    return is_formula(source)


def is_formula(source: str) -> bool:
    """Whether `source` has a reason to be a formula, wherever it stands."""
    bare = _TEXT_GROUP.sub(" x ", source)
    if _COMMAND.search(source):
        return not (_is_prose(bare) and not _MATHEMATICS.search(source))
    if _is_prose(bare):
        return False
    stripped = source.strip()
    if _SYMBOL.fullmatch(stripped) or _LIST_OF_SYMBOLS.fullmatch(stripped):
        return True
    return bool(_OPERATOR.search(stripped)) and bool(re.search(r"[^\W_]", stripped)) and not _is_name(stripped)


def looks_like_mathematics(source: str) -> bool:
    """Whether `source` is a formula even if it has no end yet."""
    return bool(_MATHEMATICS.search(source)) and not _is_prose(_TEXT_GROUP.sub(" x ", source))


def _is_prose(source: str) -> bool:
    """Whether two words stand side by side, or one that only sentences have."""
    return bool(_TWO_WORDS.search(source) or _WORD_OF_A_SENTENCE.search(source))


def _is_name(source: str) -> bool:
    """A path, an option or a variable: ``MY_VAR``, ``a/b/file``, ``built-in``."""
    return bool(
        re.fullmatch(
            r"[./]*[A-Za-z][A-Za-z0-9]+(?:[_/.-][A-Za-z0-9]{2,})+[/.:;,]*|/+\w*|-[A-Za-z]\w+|\w{2,}[(][)]", source
        )
    )


def _is_short(source: str) -> bool:
    return len(source) == 1 or bool(re.fullmatch(r"\(?\w ?[-+] ?\w\)?|\\[a-zA-Z]+|\w_\w", source))


def _continues_word(char: str) -> bool:
    """Whether `char` belongs to a Latin word or a number. Chinese, Japanese and Korean stand beside formulae."""
    return char.isascii() and (char.isalnum() or char == "_") if char else False


def _closes_first(source: str) -> bool:
    """Whether a bracket closes that was not opened, as in ``20) or (``."""
    depth = 0
    for char in source:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return char != "["
    return False
