"""A text as safe HTML. Each of its top-level blocks is rendered and then cleaned.

Sizes and a budget of processor time bound the work. Text that exceeds one is shown as it was written.
"""

from __future__ import annotations

from typing import Final

from markdown_it.utils import EnvType
from markupsafe import Markup

from webui.rendering.budget import MESSAGE, STRUCTURE, Budget, TooSlowError
from webui.rendering.cache import KEPT, digest
from webui.rendering.cleaner import clean
from webui.rendering.formulae import GROWS
from webui.rendering.markdown import MARKDOWN, MAY_GROW, code_block, note_html

MAX_MARKDOWN_CHARS: Final = 100_000  # longer text is shown as it was written
MESSAGE_S: Final = 1.0  # processor time for a message
STRUCTURE_S: Final = 2.0  # to find the blocks; if it runs out, the whole message is shown as it was written
_SLOW_TEXT: Final = "Some of this is shown as it was written, because formatting it would take too long."


def render_markdown(text: str) -> Markup:
    """The whole of `text` as safe HTML."""
    key = digest("message", text)
    html_text = KEPT.get(key)
    if html_text is None:
        html_text = "".join(render_blocks(text))
        KEPT.put(key, html_text)
    return Markup(html_text)  # noqa: S704 - each block left the cleaner


def render_blocks(text: str) -> list[str]:
    """Safe HTML, one string for each top-level block of `text`, and a note if some of it took too long to format."""
    budget = Budget(MESSAGE_S)
    blocks = [block for block, _ in blocks_with_lines(text, budget)]
    return [*blocks, clean(note_html(_SLOW_TEXT))] if budget.simplified else blocks


def blocks_with_lines(text: str, budget: Budget, *, growing: bool = False) -> list[tuple[str, int]]:
    """(safe HTML, first line) of each top-level block. Carriage returns are ignored.

    Args:
        growing: the last block may not be complete yet.
    """
    if len(text) > MAX_MARKDOWN_CHARS:
        return [(clean(code_block(text, "text", None)), 0)]
    env: EnvType = {MESSAGE: budget, STRUCTURE: Budget(STRUCTURE_S), GROWS: growing}
    try:
        tokens = MARKDOWN.parse(text.replace("\r", ""), env)
    except TooSlowError:
        budget.simplified = True
        return [(clean(code_block(text, "text", None)), 0)]
    blocks: list[tuple[str, int]] = []
    start = 0
    for at, token in enumerate(tokens):
        if token.level == 0 and token.nesting <= 0:
            env[MAY_GROW] = growing and at == len(tokens) - 1
            block = MARKDOWN.renderer.render(tokens[start : at + 1], MARKDOWN.options, env)
            first_line = tokens[start].map
            blocks.append((clean(block), first_line[0] if first_line else 0))
            start = at + 1
    return blocks
