"""Formulae: TeX between ``$..$``, ``$$..$$``, ``\\(..\\)`` or ``\\[..\\]`` becomes MathML.

A formula is shown as its source if it cannot be converted, is too long or too deep, or if the budget is spent.
"""

from __future__ import annotations

import html
import inspect
from collections.abc import Callable, Sequence
from typing import Final

import latex2mathml.converter
import latex2mathml.exceptions
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from mdit_py_plugins.dollarmath import dollarmath_plugin

from webui.rendering.budget import MESSAGE

MAX_FORMULA_CHARS: Final = 2_000
MAX_FORMULA_DEPTH: Final = 40  # levels of braces; latex2mathml recurses

# latex2mathml has no error root, and malformed TeX also ends in errors of its own lists and strings.
_FORMULA_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(kind for kind in vars(latex2mathml.exceptions).values() if inspect.isclass(kind) and issubclass(kind, Exception)),
    AttributeError, IndexError, KeyError, RecursionError, StopIteration, TypeError, ValueError,
)  # fmt: skip


def add_formulae(markdown: MarkdownIt) -> None:
    """Have `markdown` recognise formulae and render them."""
    dollarmath_plugin(markdown, allow_space=False, allow_digits=False, allow_labels=False, double_inline=True)
    markdown.inline.ruler.before("escape", "math_brackets", _inline_brackets)
    markdown.block.ruler.before("fence", "math_brackets", _block_brackets, {"alt": ["paragraph", "blockquote", "list"]})
    markdown.add_render_rule("math_inline", _render_formula(display=False))
    markdown.add_render_rule("math_inline_double", _render_formula(display=True))
    markdown.add_render_rule("math_block", _render_formula_block)


def formula_may_be_open(text: str, lines: int) -> bool:
    """Whether a display formula may have begun in the first `lines` lines. Its end would join all blocks since then.

    A blank line rules it out.
    """
    complete = text.split("\n")[:-1]
    after_blank = max((at + 1 for at, line in enumerate(complete) if not line.strip()), default=0)
    return any(line.lstrip(" \t").startswith(("$$", "\\[")) for line in complete[after_blank:lines])


def _formula(source: str, *, display: bool) -> str:
    """MathML of the TeX `source`; the source itself if it cannot be converted."""
    if len(source) > MAX_FORMULA_CHARS or _depth(source) > MAX_FORMULA_DEPTH:
        return f'<code class="math-source">{html.escape(source)}</code>'
    try:
        return latex2mathml.converter.convert(source, display="block" if display else "inline")
    except _FORMULA_ERRORS:  # a half-written formula of a growing answer ends here, too
        return f'<code class="math-source">{html.escape(source)}</code>'


def _depth(source: str) -> int:
    """How deep braces and \\left nest."""
    deepest = depth = 0
    for at, char in enumerate(source):
        if char in "{([" or source.startswith("\\begin", at):
            depth += 1
            deepest = max(deepest, depth)
        elif char in "})]":
            depth -= 1
    return deepest


def _render_formula(display: bool) -> Callable[[RendererHTML, Sequence[Token], int, OptionsDict, EnvType], str]:
    """A rule that renders formulae. Once the budget is spent it shows their source."""

    def render(_: RendererHTML, tokens: Sequence[Token], at: int, __: OptionsDict, env: EnvType) -> str:
        if env[MESSAGE].is_spent:
            env[MESSAGE].simplified = True
            return f'<code class="math-source">{html.escape(tokens[at].content)}</code>'
        return _formula(tokens[at].content, display=display)

    return render


def _render_formula_block(
    self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType
) -> str:
    return f'<div class="math-block">{_render_formula(display=True)(self, tokens, at, options, env)}</div>\n'


def _inline_brackets(state: StateInline, silent: bool) -> bool:
    """``\\( .. \\)`` and, within a line, ``\\[ .. \\]``, as models write them."""
    opening = state.src[state.pos : state.pos + 2]
    if opening not in ("\\(", "\\["):
        return False
    closing = "\\)" if opening == "\\(" else "\\]"
    end = state.src.find(closing, state.pos + 2, state.pos + 2 + MAX_FORMULA_CHARS)
    if end < 0:
        return False
    if not silent:
        token = state.push("math_inline" if opening == "\\(" else "math_inline_double", "math", 0)
        token.content = state.src[state.pos + 2 : end]
    state.pos = end + 2
    return True


def _block_brackets(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """``\\[`` at the start of a line, up to ``\\]`` at the end of one."""
    begin = state.bMarks[first] + state.tShift[first]
    if state.is_code_block(first) or not state.src.startswith("\\[", begin):
        return False
    for line in range(first, min(last, first + 100)):
        text = state.src[begin if line == first else state.bMarks[line] : state.eMarks[line]].rstrip()
        if text.endswith("\\]"):
            break
        if not text and line > first:
            return False
    else:
        return False
    if silent:
        return True
    state.line = line + 1
    token = state.push("math_block", "math", 0)
    token.block = True
    token.content = state.getLines(first, line + 1, state.blkIndent, False).strip()[2:-2]
    token.map = [first, line + 1]
    return True
