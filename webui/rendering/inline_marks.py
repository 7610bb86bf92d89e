"""The few HTML elements that models write where Markdown has no sign: ``<br>``, ``<sub>``, ``<sup>`` and ``<kbd>``.

They are read here, and our own elements are written in their place. Any other HTML stays text, also these with
attributes or without their end.
"""

from __future__ import annotations

import re
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline

_BREAK: Final = re.compile(r"<br ?/?>[ \t]*\n?[ \t]*", re.IGNORECASE)
_PAIR: Final = re.compile(r"<(sub|sup|kbd)>", re.IGNORECASE)
_MAX_CHARS: Final = 300  # what is raised, lowered or a key is short
_MAX_DEPTH: Final = 4


def add_inline_marks(markdown: MarkdownIt) -> None:
    """Have `markdown` read these elements."""
    markdown.inline.ruler.before("autolink", "inline_break", _break)
    markdown.inline.ruler.before("autolink", "inline_pair", _pair)


def _break(state: StateInline, silent: bool) -> bool:
    found = _BREAK.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.push("hardbreak", "br", 0)
    state.pos = found.end()
    return True


def _pair(state: StateInline, silent: bool) -> bool:
    found = _PAIR.match(state.src, state.pos, state.posMax)
    depth = int(state.env.get("pair_depth", 0))
    if found is None or depth >= _MAX_DEPTH:
        return False
    tag = found.group(1).lower()
    end = state.src.lower().find(f"</{tag}>", found.end(), min(state.posMax, found.end() + _MAX_CHARS))
    if end < 0:
        return False
    if not silent:
        _push(state, tag, found.end(), end, depth)
    state.pos = end + len(tag) + 3
    return True


def _push(state: StateInline, tag: str, begin: int, end: int, depth: int) -> None:
    outer_end = state.posMax
    state.push(f"{tag}_open", tag, 1)
    state.pos, state.posMax = begin, end
    state.env["pair_depth"] = depth + 1
    state.md.inline.tokenize(state)
    state.env["pair_depth"] = depth
    state.posMax = outer_end
    state.push(f"{tag}_close", tag, -1)
