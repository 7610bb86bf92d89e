"""Markdown as models write it: how it is parsed, and the HTML of each block before the cleaner.

markdown-it escapes raw HTML. An image becomes its description. A paragraph that is too long or too slow stays text.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from webui.rendering.blocks_kept import add_kept_blocks
from webui.rendering.budget import MESSAGE, STRUCTURE, Budget, TooSlowError
from webui.rendering.cache import KEPT
from webui.rendering.code_colours import coloured, language_of, plain
from webui.rendering.emphasis import add_emphasis
from webui.rendering.fences import add_fences
from webui.rendering.formulae import add_formulae
from webui.rendering.inline_marks import add_inline_marks
from webui.rendering.links import add_links
from webui.rendering.tables import add_tables

MAX_INLINE_CHARS: Final = 20_000  # the longest paragraph that is parsed; inline parsing is quadratic at worst
PARAGRAPH_S: Final = 0.3  # processor time for one paragraph, as CODE_S for one block of code
MAY_GROW: Final = "may_grow"  # key in markdown-it's environment: more text may come for this block
_OPEN_CODE_CHARS: Final = 2_000  # a longer block of code that may still grow gets its colours when it is complete
_SLOW_CODE: Final = "Shown without colours: they would take too long."


def code_block(code: str, language: str, colours: str | None, *, title: str = "", note: str = "") -> str:
    """A block of code with its title above, its colours if there are any, and a note below.

    Args:
        title: what stands behind the fence, as it was written.
    """
    body = plain(code) if colours is None else colours
    above = f'<p class="code-title">{html.escape(title)}</p>' if title else ""
    below = note_html(note) if note else ""
    return f'<div class="code-block" data-language="{language}">{above}<pre><code>{body}</code></pre>{below}</div>\n'


def note_html(text: str) -> str:
    return f'<p class="render-note">{text}</p>\n'


def _render_fence(self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType) -> str:
    code, title = tokens[at].content, tokens[at].info.strip()
    language = language_of(title.split(maxsplit=1)[0] if title else "")
    if language == "text" or (env[MAY_GROW] and len(code) > _OPEN_CODE_CHARS):
        return code_block(code, language, None, title=title)
    colours = coloured(code, language, env[MESSAGE], KEPT)
    return code_block(code, language, colours, title=title, note="" if colours is not None else _SLOW_CODE)


def _render_image(self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType) -> str:
    alt, address = html.escape(tokens[at].content), html.escape(str(tokens[at].attrs.get("src", "")))
    title = html.escape(str(tokens[at].attrs.get("title", "")))
    link = f' <a href="{address}" title="{title}">{address}</a>' if address else ""
    return f'<span class="image-absent">[image: {alt}]</span>{link}'


def _render_task(self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType) -> str:
    """The box of a task. Nobody can tick it: the answer stays as it was written."""
    if tokens[at].info == "done":
        return '<input type="checkbox" disabled checked aria-label="Done"> '
    return '<input type="checkbox" disabled aria-label="Not done"> '


def _render_paragraph(self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType) -> str:
    """A paragraph, with a class if it is a footnote or a link definition; nothing inside a tight list."""
    if tokens[at].hidden:
        return self.renderToken(tokens, at, options, env)
    return f'<p class="{tokens[at].info}">' if tokens[at].info else "<p>"


def _render_cell(self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType) -> str:
    """A cell with its alignment as a class, because the page's policy forbids style attributes."""
    token = tokens[at]
    style = str(token.attrs.get("style", ""))
    side = style.removeprefix("text-align:")
    return f'<{token.tag} class="align-{side}">' if style else f"<{token.tag}>"


def _long_paragraph(state: StateInline, silent: bool) -> bool:
    """Leave a paragraph beyond `MAX_INLINE_CHARS` as text."""
    if state.pos != 0 or len(state.src) <= MAX_INLINE_CHARS:
        return False
    if not silent:
        state.pending += state.src
    state.pos = state.posMax
    return True


def _watch_inline(state: StateInline, silent: bool) -> bool:
    """No rule: markdown-it calls it before each rule, and it ends a paragraph whose time is spent."""
    state.env[MESSAGE].check()
    return False


def _watch_blocks(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    state.env[STRUCTURE].check()
    return False


def _parse_paragraphs(state: StateCore) -> None:
    """markdown-it's own rule "inline", except that a paragraph that takes too long stays text."""
    budget: Budget = state.env[MESSAGE]
    for token in state.tokens:
        if token.type == "inline":
            token.children = []
            if token.info == "definition":
                token.children = [Token("text", "", 0, content=token.content)]
                continue
            try:
                with budget.part(PARAGRAPH_S):
                    state.md.inline.parse(token.content, state.md, state.env, token.children)
            except TooSlowError:
                budget.simplified = True
                token.children = [Token("text", "", 0, content=token.content)]


def _make_markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    markdown.inline.ruler.before("text", "long_paragraph", _long_paragraph)
    markdown.inline.ruler.before("long_paragraph", "budget", _watch_inline)
    markdown.core.ruler.at("inline", _parse_paragraphs)
    everywhere = ["paragraph", "reference", "blockquote", "list", "table"]
    markdown.block.ruler.before("table", "budget", _watch_blocks, {"alt": everywhere})
    for name, rule in {
        "fence": _render_fence,
        "code_block": _render_fence,
        "image": _render_image,
        "task": _render_task,
        "paragraph_open": _render_paragraph,
        "th_open": _render_cell,
        "td_open": _render_cell,
        "table_open": lambda *_: '<div class="table-scroll"><table>\n',
        "table_close": lambda *_: "</table></div>\n",
    }.items():
        markdown.add_render_rule(name, rule)
    add_emphasis(markdown)
    add_tables(markdown)
    add_formulae(markdown)
    add_fences(markdown)
    add_inline_marks(markdown)
    add_kept_blocks(markdown)
    add_links(markdown)
    return markdown


MARKDOWN: Final = _make_markdown()  # parsing keeps its state in each call: shared by all threads
