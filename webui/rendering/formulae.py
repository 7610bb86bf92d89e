"""Formulae in Markdown: ``$..$``, ``$$..$$``, ``\\(..\\)``, ``\\[..\\]`` and bare ``\\begin{align}`` become MathML.

A formula is shown as its source if it cannot be converted or if the budget is spent. While an answer grows, one that
has no end yet is shown as its source, too, so that nothing in it becomes emphasis for a moment.
"""

# ruff: noqa: RUF001 - letters and signs of the languages that are read here
from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from webui.rendering.budget import MESSAGE
from webui.rendering.tex.mathml import MAX_FORMULA_CHARS, mathml_of
from webui.rendering.tex.reasons import is_formula, is_inline_formula, looks_like_mathematics

GROWS: Final = "grows"  # key in markdown-it's environment: more text may come at the end
_MAX_LINES: Final = 100
_BEGIN: Final = re.compile(
    r"\\begin\{((?:align|equation|gather|multline|alignat|flalign|eqnarray|cases|[pbBvV]?matrix|array|split|aligned)\*?)\}"
)
_OPENING: Final = re.compile(r"\$\$|\\\[|\\begin\{")
_DOLLAR: Final = re.compile(r"\\.|\$", re.DOTALL)
_TEXT_WITH_FORMULA: Final = re.compile(r"\\(?:text|mbox|textbf|textit|textrm|ce)\s*\{(?:[^{}$]*\$[^{}$]*\$)+")


def add_formulae(markdown: MarkdownIt) -> None:
    """Have `markdown` recognise formulae and render them."""
    everywhere: RuleOptionsType = {"alt": ["paragraph", "blockquote", "list", "reference"]}
    markdown.inline.ruler.before("escape", "math_brackets", _inline_brackets)
    markdown.inline.ruler.before("escape", "math_dollars", _inline_dollars)
    markdown.block.ruler.before("fence", "math_block", _block, everywhere)
    markdown.add_render_rule("math_inline", _render_formula(display=False))
    markdown.add_render_rule("math_inline_double", _render_formula(display=True))
    markdown.add_render_rule("math_block", _render_formula_block)
    markdown.add_render_rule("math_open", _render_open_formula)


def formula_may_be_open(text: str, lines: int) -> bool:
    """Whether a display formula may have begun in the first `lines` lines. Its end would join all blocks since then.

    A formula has `_MAX_LINES` lines at most, so what began before them has no end.
    """
    complete = text.split("\n")[:-1]
    begin = max(0, len(complete) - _MAX_LINES)
    return any(_OPENING.match(line.lstrip(" \t>-*+0123456789.)")) for line in complete[begin:lines])


def _source(content: str) -> str:
    return f'<code class="math-source">{html.escape(content)}</code>'


def _render_formula(display: bool) -> Callable[[RendererHTML, Sequence[Token], int, OptionsDict, EnvType], str]:
    """A rule that renders formulae. Once the budget is spent it shows their source."""

    def render(_: RendererHTML, tokens: Sequence[Token], at: int, __: OptionsDict, env: EnvType) -> str:
        if env[MESSAGE].is_spent:
            env[MESSAGE].simplified = True
            return _source(tokens[at].info)
        return mathml_of(tokens[at].content, display=display) or _source(tokens[at].info)

    return render


def _render_formula_block(
    self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType
) -> str:
    return f'<div class="math-block">{_render_formula(display=True)(self, tokens, at, options, env)}</div>\n'


def _render_open_formula(
    self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType
) -> str:
    shown = _source(tokens[at].info)
    return f'<div class="math-block">{shown}</div>\n' if tokens[at].block else shown


def _push(state: StateInline, kind: str, content: str, end: int) -> None:
    """A formula of `content` that ends at `end`; `info` keeps it as it was written."""
    token = state.push(kind, "math", 0)
    token.content = content
    token.info = state.src[state.pos : end]


def _inline_brackets(state: StateInline, silent: bool) -> bool:
    """``\\( .. \\)`` and, within a line, ``\\[ .. \\]``, as models write them."""
    opening = state.src[state.pos : state.pos + 2]
    if opening not in ("\\(", "\\["):
        return False
    closing = "\\)" if opening == "\\(" else "\\]"
    end = state.src.find(closing, state.pos + 2, min(state.pos + 2 + MAX_FORMULA_CHARS, state.posMax))
    if end < 0:
        return _open(state, state.pos + 2, silent)
    if not is_formula(state.src[state.pos + 2 : end]):
        return False
    if not silent:
        kind = "math_inline" if opening == "\\(" else "math_inline_double"
        _push(state, kind, state.src[state.pos + 2 : end], end + 2)
    state.pos = end + 2
    return True


def _inline_dollars(state: StateInline, silent: bool) -> bool:
    """``$ .. $`` and ``$$ .. $$``. The next dollar is the end, or there is no formula."""
    begin = state.pos
    if state.src[begin] != "$":
        return False
    sign = "$$" if state.src.startswith("$$", begin) else "$"
    inside = begin + len(sign)
    end = _next_dollar(state.src, inside, state.posMax)
    if end < 0:
        return _open(state, inside, silent)
    content, after = state.src[inside:end], state.src[end + len(sign) : end + len(sign) + 6]
    if sign == "$$":
        is_one = state.src.startswith("$$", end) and is_formula(content)
    else:
        is_one = is_inline_formula(content, state.src[max(0, begin - 1) : begin], after)
    if not is_one:
        return _dollars(state, sign, silent)
    if not silent:
        content = content[1:-1] if len(content) > 2 and content[0] == content[-1] == "`" else content
        _push(state, "math_inline" if sign == "$" else "math_inline_double", content, end + len(sign))
    state.pos = end + len(sign)
    return True


def _dollars(state: StateInline, sign: str, silent: bool) -> bool:
    """The dollars themselves: both of two, so that the second does not begin a formula."""
    if sign == "$":
        return False
    if not silent:
        state.pending += sign
    state.pos += len(sign)
    return True


def _next_dollar(text: str, begin: int, end: int) -> int:
    """The next dollar that is neither escaped nor inside ``\\text{..}``; -1 if there is none."""
    end = min(end, begin + MAX_FORMULA_CHARS)
    while found := _DOLLAR.search(text, begin, end):
        if found.group() == "$":
            return found.start()
        inner = _TEXT_WITH_FORMULA.match(text, found.start(), end)
        begin = inner.end() if inner else found.end()
    return -1


def _open(state: StateInline, inside: int, silent: bool) -> bool:
    """A formula of a growing text that has no end yet."""
    if silent or not state.env.get(GROWS) or state.posMax != len(state.src):
        return False
    content = state.src[inside:]
    is_bracket = state.src[state.pos] == "\\"
    if not content or len(content) > MAX_FORMULA_CHARS or not (is_bracket or looks_like_mathematics(content)):
        return False
    _push(state, "math_open", content, len(state.src))
    state.pos = state.posMax
    return True


def _block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """A formula on lines of its own. Blank lines in it are ignored."""
    begin = state.bMarks[first] + state.tShift[first]
    if state.is_code_block(first):
        return False
    closing = _closing(state.src[begin : state.eMarks[first]])
    if closing is None:
        return False
    opening = "" if closing.startswith("\\end") else state.src[begin : begin + 2]
    line = _last_line(state, first, last, closing, begin + len(opening))
    if line is None:
        return _open_block(state, first, last, silent)
    text = state.getLines(first, line + 1, state.blkIndent, False).strip()
    content, sign = _content(text, opening, closing)
    if opening and not is_formula(content):
        return False
    if not silent:
        _push_block(state, "math_block", first, line + 1, text).content = content + sign
    return True


def _closing(line: str) -> str | None:
    """What ends the formula that `line` begins; None if it begins none."""
    if line.startswith("$$"):
        return "$$"
    if line.startswith("\\["):
        return "\\]"
    found = _BEGIN.match(line)
    return f"\\end{{{found.group(1)}}}" if found else None


def _last_line(state: StateBlock, first: int, last: int, closing: str, begin: int) -> int | None:
    """The line that `closing` ends, if nothing but a full stop or a comma follows there."""
    for line in range(first, min(last, first + _MAX_LINES)):
        if state.sCount[line] < state.blkIndent and not state.isEmpty(line):
            return None
        text = state.src[begin if line == first else state.bMarks[line] : state.eMarks[line]]
        at = text.find(closing)
        if at >= 0:
            return line if text[at + len(closing) :].strip() in ("", ".", ",", ";", ":", "。", "，") else None
    return None


def _content(text: str, opening: str, closing: str) -> tuple[str, str]:
    """The formula in `text`, and the sign behind it."""
    end = text.rindex(closing)
    sign = text[end + len(closing) :].strip()
    return (text[len(opening) : end] if opening else text[: end + len(closing)]), sign


def _open_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """A formula of a growing text that has no end yet, up to the end of the text."""
    if silent or not state.env.get(GROWS) or last != state.lineMax or last - first > _MAX_LINES:
        return False
    text = state.getLines(first, last, state.blkIndent, False).strip()
    if len(text) > MAX_FORMULA_CHARS or text.count("$$") > 1 or not (text[2:].strip() and not text.startswith("$$ ")):
        return False
    _push_block(state, "math_open", first, last, text)
    return True


def _push_block(state: StateBlock, kind: str, first: int, end: int, text: str) -> Token:
    state.line = end
    token = state.push(kind, "math", 0)
    token.block = True
    token.info = text
    token.map = [first, end]
    return token
