"""The one place where untrusted text becomes HTML: Markdown, highlighted code and formulae, for chat and review alike.

Covers: the HTML returned holds only the elements, attributes and classes listed here. markdown-it escapes raw HTML, and
nh3 then parses each finished block and drops whatever is not listed; links are http, https or mailto, and absolute.
Images are shown as words. Work is bounded, whatever the text is: by sizes, and by a budget of processor time for the
message, each paragraph and each block of code (render_budget.py). What exceeds one is shown as it was written, and says
so. What has been rendered is kept for the next time.
Does not cover: what the words say, and plain text elsewhere, which enters by Jinja's escaping or `textContent`.

Formulae are TeX between ``$..$``, ``$$..$$``, ``\\(..\\)`` or ``\\[..\\]`` and become MathML. Code is highlighted with
classes; the colours are css/prose.css. Blocks are rendered one by one, so that a growing answer is sent by its tail.
"""

from __future__ import annotations

import html
import inspect
from collections.abc import Callable, Sequence
from typing import Final

import latex2mathml.converter
import latex2mathml.exceptions
import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments.token import STANDARD_TYPES

from webui.code_colours import coloured, language_of, plain
from webui.render_budget import Budget, RenderCache, TooSlowError, digest

MAX_MARKDOWN_CHARS: Final = 100_000  # longer text is shown as it is
MAX_FORMULA_CHARS: Final = 2_000
MAX_FORMULA_DEPTH: Final = 40  # of braces; latex2mathml recurses
MAX_INLINE_CHARS: Final = 20_000  # one paragraph; inline parsing is quadratic at worst
MESSAGE_S: Final = 1.0  # of the processor, for a message
PARAGRAPH_S: Final = 0.3  # of that, for one paragraph; code_colours.py has the same for a block of code
_STRUCTURE_S: Final = 2.0  # to find the blocks; if that does not last, the whole message is shown as it was written
_KEPT_CHARS: Final = 16_000_000  # of HTML, in each web worker
_OPEN_CODE_CHARS: Final = 2_000  # a longer block of code that may still grow gets its colours when it is complete
_SHORT_TAIL_CHARS: Final = 2_000  # of what may still change in a growing text: so much is rendered at every update
_UPDATES_PER_TEXT: Final = 64
_SLOW_CODE: Final = "Shown without colours: they would take too long."
_SLOW_TEXT: Final = "Some of this is shown as it was written, because formatting it would take too long."
_BUDGET, _STRUCTURE, _MAY_GROW = "budget", "structure_budget", "may_grow"  # in markdown-it's environment

_MATH_TAGS: Final = {
    "math", "mfrac", "mi", "mn", "mo", "mover", "mpadded", "mphantom", "mroot", "mrow", "mspace", "msqrt",
    "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover",
}  # fmt: skip
_PROSE_TAGS: Final = {
    "a", "blockquote", "br", "code", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p",
    "pre", "s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_MATH_ATTRIBUTES: Final = {
    "accent", "columnalign", "columnspacing", "display", "displaystyle", "fence", "form", "largeop", "linethickness",
    "lspace", "mathvariant", "maxsize", "minsize", "movablelimits", "rowspacing", "rspace", "scriptlevel", "separator",
    "stretchy", "symmetric", "width",
}  # fmt: skip
# latex2mathml has no error root, and malformed TeX also ends in errors of its own lists and strings.
_FORMULA_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(kind for kind in vars(latex2mathml.exceptions).values() if inspect.isclass(kind) and issubclass(kind, Exception)),
    AttributeError, IndexError, KeyError, RecursionError, StopIteration, TypeError, ValueError,
)  # fmt: skip

_cleaner: Final = nh3.Cleaner(
    tags=_PROSE_TAGS | _MATH_TAGS,
    attributes={"a": {"href", "title"}, "div": {"data-language"}, "ol": {"start"}}
    | {tag: _MATH_ATTRIBUTES for tag in _MATH_TAGS},
    allowed_classes={
        "div": {"code-block", "math-block", "table-scroll"},
        "span": {name for name in STANDARD_TYPES.values() if name} | {"image-absent"},
        "code": {"math-source"},
        "p": {"render-note"},
        "th": {"align-left", "align-center", "align-right"},
        "td": {"align-left", "align-center", "align-right"},
    },
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
    link_rel="noopener noreferrer nofollow",
)


def render_markdown(text: str) -> Markup:
    """The whole of `text` as safe HTML."""
    key = digest("message", text)
    html_text = _cache.get(key)
    if html_text is None:
        html_text = "".join(render_blocks(text))
        _cache.put(key, html_text)
    return Markup(html_text)  # noqa: S704 - each block left the cleaner


def render_blocks(text: str) -> list[str]:
    """Safe HTML, one string for each top-level block of `text`, and a note if some of it was too slow to format."""
    budget = Budget(MESSAGE_S)
    blocks = [block for block, _ in _blocks_with_lines(text, budget)]
    return [*blocks, _cleaner.clean(_note(_SLOW_TEXT))] if budget.simplified else blocks


class GrowingMarkdown:
    """Renders text that grows at its end, and says which blocks have changed.

    Only the last blocks can still change while text is appended, so each `update` parses from where the last but one
    began, or from further up while a formula may be open there. A link reference defined later than its use shows up in
    `finish`, which renders the whole text once.

    A block that never ends would make that quadratic. A long one is therefore rendered only when it `has_grown` by a
    64th: all updates together then read no more than 64 times the text, besides its first 2,000 characters.
    """

    def __init__(self) -> None:
        self._text = ""
        self._sent: list[str] = []
        self._settled = 0  # this many of `_sent` came from before `_tail_at`
        self._tail_at = 0  # offset in `_text`
        self._rendered_chars = 0  # of `_text`, in the last update

    def append(self, piece: str) -> None:
        """Add text at the end; shown by the next `update`."""
        self._text += piece.replace("\r", "")

    @property
    def has_grown(self) -> bool:
        """Whether another `update` is worth its cost."""
        tail_chars = len(self._text) - self._tail_at
        awaited = tail_chars // _UPDATES_PER_TEXT if tail_chars > _SHORT_TAIL_CHARS else 1
        return len(self._text) - self._rendered_chars >= awaited

    def update(self) -> tuple[int, list[str]]:
        """(keep, blocks): the first `keep` blocks shown so far stand; `blocks` take the place of the rest."""
        tail = self._text[self._tail_at :]
        self._rendered_chars = len(self._text)
        rendered = _blocks_with_lines(tail, Budget(MESSAGE_S), growing=True)
        change = self._change([*self._sent[: self._settled], *(block for block, _ in rendered)])
        if len(rendered) > 2 and not _formula_may_be_open(tail, rendered[-2][1]):
            self._settled += len(rendered) - 2
            for _ in range(rendered[-2][1]):
                self._tail_at = self._text.index("\n", self._tail_at) + 1
        return change

    def finish(self) -> tuple[int, list[str]]:
        """As `update`, for the whole text."""
        return self._change(render_blocks(self._text))

    def _change(self, blocks: list[str]) -> tuple[int, list[str]]:
        keep = 0
        while keep < min(len(blocks), len(self._sent)) and blocks[keep] == self._sent[keep]:
            keep += 1
        self._sent = blocks
        return keep, blocks[keep:]


def _formula_may_be_open(text: str, lines: int) -> bool:
    """Whether a display formula may have begun in the first `lines` lines: its end would make one block of all since.

    A blank line ends its chance.
    """
    complete = text.split("\n")[:-1]
    after_blank = max((at + 1 for at, line in enumerate(complete) if not line.strip()), default=0)
    return any(line.lstrip(" \t").startswith(("$$", "\\[")) for line in complete[after_blank:lines])


def _blocks_with_lines(text: str, budget: Budget, *, growing: bool = False) -> list[tuple[str, int]]:
    """(safe HTML, first line) of each top-level block. Carriage returns count for nothing.

    Args:
        growing: the last block may not be complete yet.
    """
    if len(text) > MAX_MARKDOWN_CHARS:
        return [(_cleaner.clean(_code_block(text, "text", None)), 0)]
    env: EnvType = {_BUDGET: budget, _STRUCTURE: Budget(_STRUCTURE_S)}
    try:
        tokens = _markdown.parse(text.replace("\r", ""), env)
    except TooSlowError:
        budget.simplified = True
        return [(_cleaner.clean(_code_block(text, "text", None)), 0)]
    blocks: list[tuple[str, int]] = []
    start = 0
    for at, token in enumerate(tokens):
        if token.level == 0 and token.nesting <= 0:
            env[_MAY_GROW] = growing and at == len(tokens) - 1
            block = _markdown.renderer.render(tokens[start : at + 1], _markdown.options, env)
            first_line = tokens[start].map
            blocks.append((_cleaner.clean(block), first_line[0] if first_line else 0))
            start = at + 1
    return blocks


# What markdown-it writes, before the cleaner ------------------------------------------------------------------------


def _code_block(code: str, language: str, colours: str | None, note: str = "") -> str:
    """A block of code with its language above, its colours if there are any, and a note below."""
    body = plain(code) if colours is None else colours
    below = _note(note) if note else ""
    return f'<div class="code-block" data-language="{language}"><pre><code>{body}</code></pre>{below}</div>\n'


def _note(text: str) -> str:
    return f'<p class="render-note">{text}</p>\n'


def _formula(source: str, *, display: bool) -> str:
    """MathML of the TeX `source`; the source itself where it cannot be converted."""
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


def _render_fence(self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType) -> str:
    code, words = tokens[at].content, tokens[at].info.split(maxsplit=1)
    language = language_of(words[0] if words else "")
    if language == "text" or (env[_MAY_GROW] and len(code) > _OPEN_CODE_CHARS):
        return _code_block(code, language, None)
    colours = coloured(code, language, env[_BUDGET], _cache)
    return _code_block(code, language, colours, "" if colours is not None else _SLOW_CODE)


def _render_formula(display: bool) -> Callable[[RendererHTML, Sequence[Token], int, OptionsDict, EnvType], str]:
    """A rule for formulae; once the budget is spent they are shown as written."""

    def render(_: RendererHTML, tokens: Sequence[Token], at: int, __: OptionsDict, env: EnvType) -> str:
        if env[_BUDGET].is_spent:
            env[_BUDGET].simplified = True
            return f'<code class="math-source">{html.escape(tokens[at].content)}</code>'
        return _formula(tokens[at].content, display=display)

    return render


def _render_image(self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType) -> str:
    alt = html.escape(tokens[at].content)
    return f'<span class="image-absent">[image: {alt}]</span>'


def _render_cell(self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType) -> str:
    """A cell's alignment as a class: the page's policy forbids style attributes."""
    token = tokens[at]
    style = str(token.attrs.get("style", ""))
    side = style.removeprefix("text-align:")
    return f'<{token.tag} class="align-{side}">' if style else f"<{token.tag}>"


def _render_formula_block(
    self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType
) -> str:
    return f'<div class="math-block">{_render_formula(display=True)(self, tokens, at, options, env)}</div>\n'


def _inline_brackets(state: StateInline, silent: bool) -> bool:
    """``\\( .. \\)`` and, within a line, ``\\[ .. \\]``: as models write formulae."""
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


def _long_paragraph(state: StateInline, silent: bool) -> bool:
    """A paragraph beyond `MAX_INLINE_CHARS` is text, unparsed."""
    if state.pos != 0 or len(state.src) <= MAX_INLINE_CHARS:
        return False
    if not silent:
        state.pending += state.src
    state.pos = state.posMax
    return True


def _watch_inline(state: StateInline, silent: bool) -> bool:
    """Not a rule, but asked before each of them: whether the paragraph may go on."""
    state.env[_BUDGET].check()
    return False


def _watch_blocks(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    state.env[_STRUCTURE].check()
    return False


def _parse_paragraphs(state: StateCore) -> None:
    """markdown-it's own rule "inline", but a paragraph that takes too long is text, unparsed."""
    budget: Budget = state.env[_BUDGET]
    for token in state.tokens:
        if token.type == "inline":
            token.children = []
            try:
                with budget.part(PARAGRAPH_S):
                    state.md.inline.parse(token.content, state.md, state.env, token.children)
            except TooSlowError:
                budget.simplified = True
                token.children = [Token("text", "", 0, content=token.content)]


def _make_markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    dollarmath_plugin(markdown, allow_space=False, allow_digits=False, allow_labels=False, double_inline=True)
    markdown.inline.ruler.before("escape", "math_brackets", _inline_brackets)
    markdown.inline.ruler.before("text", "long_paragraph", _long_paragraph)
    markdown.inline.ruler.before("long_paragraph", "budget", _watch_inline)
    markdown.core.ruler.at("inline", _parse_paragraphs)
    everywhere = ["paragraph", "reference", "blockquote", "list", "table"]
    markdown.block.ruler.before("table", "budget", _watch_blocks, {"alt": everywhere})
    markdown.block.ruler.before("fence", "math_brackets", _block_brackets, {"alt": ["paragraph", "blockquote", "list"]})
    for name, rule in {
        "fence": _render_fence,
        "code_block": _render_fence,
        "image": _render_image,
        "th_open": _render_cell,
        "td_open": _render_cell,
        "table_open": lambda *_: '<div class="table-scroll"><table>\n',
        "table_close": lambda *_: "</table></div>\n",
        "math_inline": _render_formula(display=False),
        "math_inline_double": _render_formula(display=True),
        "math_block": _render_formula_block,
    }.items():
        markdown.add_render_rule(name, rule)
    return markdown


_cache: Final = RenderCache(_KEPT_CHARS)
_markdown: Final = _make_markdown()  # parsing keeps its state in each call: shared by all threads
