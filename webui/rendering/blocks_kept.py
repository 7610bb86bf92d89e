"""Blocks that Markdown drops or does not know: link definitions, deep nesting, footnotes, tasks, tight headings.

A link definition is shown where it stands. What nests deeper than the parser goes is shown as it was written. A
footnote stays where it was written, too: its number is raised in both places.
"""

from __future__ import annotations

import re
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock, reference
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

_FOOTNOTES: Final = "footnotes"  # key in markdown-it's environment: labels that are defined
_DEFINITION: Final = re.compile(r"\[\^([^\]\s\[]{1,40})\]:[ \t]*")
_MARK: Final = re.compile(r"\[\^([^\]\s\[]{1,40})\](?!:)")
_TASK: Final = re.compile(r"\[([ xX])\](?=\s|$)[ \t]*")
_HEADING: Final = re.compile(r"(#{2,6})([^#\s].*?)(?:\s+#+)?\s*$")
_ALSO_BETWEEN: Final[RuleOptionsType] = {"alt": ["paragraph", "reference", "blockquote"]}


def add_kept_blocks(markdown: MarkdownIt) -> None:
    """Have `markdown` keep them."""
    markdown.block.ruler.before("table", "too_deep", _too_deep)
    markdown.block.ruler.before("reference", "footnote", _footnote, _ALSO_BETWEEN)
    markdown.block.ruler.at("reference", _definition)
    markdown.block.ruler.before("heading", "tight_heading", _tight_heading, _ALSO_BETWEEN)
    markdown.inline.ruler.before("link", "footnote_mark", _mark)
    markdown.core.ruler.push("tasks", _tasks)


def _too_deep(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """The last levels that the parser has: what follows there is taken as it is."""
    if silent or state.level < state.md.options.maxNesting - 2:
        return False
    end = next(
        (at for at in range(first + 1, last) if not state.isEmpty(at) and state.sCount[at] < state.blkIndent), last
    )
    state.line = end
    token = state.push("code_block", "code", 0)
    token.content = state.getLines(first, end, state.blkIndent, True)
    token.map = [first, end]
    return True


def _definition(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """A link definition works and is shown."""
    if not reference(state, first, last, silent):
        return False
    if not silent:
        _push_paragraph(
            state, first, state.line, "definition", state.getLines(first, state.line, state.blkIndent, False)
        )
    return True


def _push_paragraph(state: StateBlock, first: int, end: int, info: str, text: str) -> None:
    """A paragraph of text that is not read as Markdown."""
    opening = state.push("paragraph_open", "p", 1)
    opening.map, opening.info = [first, end], info
    inline = state.push("inline", "", 0)
    inline.map, inline.info, inline.content, inline.children = [first, end], info, text.strip(), []
    state.push("paragraph_close", "p", -1)


def _footnote(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """``[^1]: words``: a paragraph that begins with the raised number."""
    begin = state.bMarks[first] + state.tShift[first]
    found = None if state.is_code_block(first) else _DEFINITION.match(state.src, begin, state.eMarks[first])
    if found is None:
        return False
    if silent:
        return True
    state.env.setdefault(_FOOTNOTES, set()).add(found.group(1))
    end = _end_of_footnote(state, first, last)
    state.line = end
    opening = state.push("paragraph_open", "p", 1)
    opening.map, opening.info = [first, end], "footnote"
    inline = state.push("inline", "", 0)
    text = state.getLines(first, end, state.blkIndent, False).strip()
    inline.map, inline.children = [first, end], []
    inline.content = f"[^{found.group(1)}] " + "\n".join(map(str.strip, _DEFINITION.sub("", text, count=1).split("\n")))
    state.push("paragraph_close", "p", -1)
    return True


def _end_of_footnote(state: StateBlock, first: int, last: int) -> int:
    """A footnote ends at a blank line, at the next one, or where another block begins."""
    rules = state.md.block.ruler.getRules("paragraph")
    for line in range(first + 1, last):
        if state.isEmpty(line) or state.sCount[line] < state.blkIndent:
            return line
        if any(rule(state, line, last, True) for rule in rules):
            return line
    return last


def _mark(state: StateInline, silent: bool) -> bool:
    """``[^1]``; other labels only where they are defined, because ``[^abc]`` may be a pattern."""
    found = _MARK.match(state.src, state.pos, state.posMax)
    if found is None or not (found.group(1).isdecimal() or found.group(1) in state.env.get(_FOOTNOTES, ())):
        return False
    if not silent:
        state.push("sup_open", "sup", 1)
        state.push("text", "", 0).content = found.group(1)
        state.push("sup_close", "sup", -1)
    state.pos = found.end()
    return True


def _tight_heading(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """``##Heading``: two signs or more need no blank. One does: ``#1`` and ``#tag`` are words."""
    begin = state.bMarks[first] + state.tShift[first]
    found = None if state.is_code_block(first) else _HEADING.match(state.src[begin : state.eMarks[first]])
    if found is None:
        return False
    if silent:
        return True
    state.line = first + 1
    tag = f"h{len(found.group(1))}"
    opening = state.push("heading_open", tag, 1)
    opening.markup, opening.map = found.group(1), [first, first + 1]
    inline = state.push("inline", "", 0)
    inline.content, inline.map, inline.children = found.group(2).strip(), [first, first + 1], []
    state.push("heading_close", tag, -1).markup = found.group(1)
    return True


def _tasks(state: StateCore) -> None:
    """``- [x] words``: the item begins with a box."""
    for item, paragraph, inline in zip(state.tokens, state.tokens[1:], state.tokens[2:], strict=False):
        if (item.type, paragraph.type, inline.type) != ("list_item_open", "paragraph_open", "inline"):
            continue
        first = inline.children[0] if inline.children else None
        found = _TASK.match(inline.content)
        if found is None or first is None or first.type != "text" or not first.content.startswith("["):
            continue
        first.content = first.content[len(found.group().rstrip(" \t")) :].lstrip()
        item.attrs["class"] = "task"
        box = Token("task", "input", 0, info="done" if found.group(1) in "xX" else "open")
        inline.children = [box, *(inline.children or [])]
