"""Blocks of code between fences, with blocks inside that have fences of the same length.

CommonMark ends a block at the first bare fence. Models write a Markdown file with its own blocks of code inside, and
use three backticks for all. So a fence inside that names a language begins an inner block, and the next bare one ends
that. Where the outer block would then never end, CommonMark's rule holds. While a text grows the end may still come,
so the block stays open.

In a block of Markdown a bare fence may begin an inner block, too: it does if a line of text follows directly and bare
fences for its end and for the outer end follow.
"""

from __future__ import annotations

import re
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock

from webui.rendering.formulae import GROWS

_FENCE: Final = re.compile(r"(`{3,}|~{3,})[ \t]*(.*?)[ \t]*$")
_MARKDOWN: Final = {"markdown", "md", "mdx", "qmd", "rmd", "rst", "readme.md"}


def add_fences(markdown: MarkdownIt) -> None:
    """Have `markdown` read fences so."""
    markdown.block.ruler.at("fence", _fence, {"alt": ["paragraph", "reference", "blockquote", "list"]})


def _fence(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    opening = _fence_of(state, first)
    if opening is None:
        return False
    if silent:
        return True
    markup, info = opening
    end = _end_of_parent(state, first, last)
    closing = _closing_line(state, first, end, markup, info)
    state.line = end if closing is None else closing + 1
    token = state.push("fence", "code", 0)
    token.info = info
    token.content = state.getLines(first + 1, end if closing is None else closing, state.sCount[first], True)
    token.markup = markup
    token.map = [first, state.line]
    return True


def _fence_of(state: StateBlock, line: int) -> tuple[str, str] | None:
    """(signs, what stands behind them) of the fence on a line; None if there is none."""
    if state.is_code_block(line):
        return None
    text = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
    found = _FENCE.match(text)
    if found is None or (found.group(1)[0] == "`" and "`" in found.group(2)):
        return None
    return found.group(1), found.group(2).strip()


def _end_of_parent(state: StateBlock, first: int, last: int) -> int:
    """The line at which the list or quotation around the block ends."""
    for line in range(first + 1, last):
        if not state.isEmpty(line) and state.sCount[line] < state.blkIndent:
            return line
    return last


def _closing_line(state: StateBlock, first: int, end: int, markup: str, info: str) -> int | None:
    """The line of the fence that ends the block; None if there is none."""
    fences = [
        (line, found[1] if len(found[0]) == len(markup) else "")
        for line in range(first + 1, end)
        if (found := _fence_of(state, line)) is not None
        and found[0][0] == markup[0]
        and (len(found[0]) == len(markup) or (len(found[0]) > len(markup) and not found[1]))
    ]
    grows = bool(state.env.get(GROWS))
    closing = _nested(state, fences, end, is_markdown=_is_markdown(info) and not grows)
    if closing is not None or grows:
        return closing
    return next((line for line, language in fences if not language), None)


def _nested(state: StateBlock, fences: list[tuple[int, str]], end: int, *, is_markdown: bool) -> int | None:
    """The line of the bare fence that has no inner block left to end."""
    depth = 0
    for at, (line, language) in enumerate(fences):
        if language:
            depth += 1
        elif depth:
            depth -= 1
        elif is_markdown and _begins_inner(state, fences[at:], end):
            depth += 1
        else:
            return line
    return None


def _begins_inner(state: StateBlock, fences: list[tuple[int, str]], end: int) -> bool:
    """Whether a bare fence directly before text has its own end and an outer end behind it, both bare."""
    line = fences[0][0]
    has_text_below = line + 1 < end and not state.isEmpty(line + 1)
    has_text_above = not state.isEmpty(line - 1) and len(fences) > 1 and fences[1][0] > line + 1
    ends = [fence for fence, language in fences[1:3] if not language]
    return has_text_below and has_text_above and len(ends) == 2 and _is_last_text(state, ends[1], end)


def _is_last_text(state: StateBlock, line: int, end: int) -> bool:
    """Whether a fence is followed by a blank line or by nothing, as the end of a block is."""
    return line + 1 >= end or state.isEmpty(line + 1)


def _is_markdown(info: str) -> bool:
    return info.split(maxsplit=1)[0].lower() in _MARKDOWN if info else False
