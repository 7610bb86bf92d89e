"""A person's question as the page shows it: blocks of code where it has fences, everything else as it was typed."""

from __future__ import annotations

import html
from typing import Final

from markdown_it import MarkdownIt
from markupsafe import Markup

from webui.rendering.budget import MESSAGE, Budget
from webui.rendering.cleaner import clean
from webui.rendering.fences import add_fences
from webui.rendering.formulae import GROWS
from webui.rendering.markdown import MARKDOWN, MAY_GROW

MAX_QUESTION_CHARS: Final = 100_000  # a longer one is shown as it was typed
QUESTION_S: Final = 0.5  # processor time


def _make_fences() -> MarkdownIt:
    """Markdown that knows nothing but fences."""
    markdown = MarkdownIt("zero").enable(["fence"])
    markdown.disable(["inline", "text_join"], ignoreInvalid=True)
    add_fences(markdown)
    return markdown


_FENCES: Final = _make_fences()


def render_question(text: str) -> Markup | None:
    """Safe HTML of a question with blocks of code; None if it has none that end."""
    if len(text) > MAX_QUESTION_CHARS or ("```" not in text and "~~~" not in text):
        return None
    lines = text.replace("\r", "").split("\n")
    env = {MESSAGE: Budget(QUESTION_S), GROWS: False, MAY_GROW: False}
    made, shown = list[str](), 0
    for token in _FENCES.parse("\n".join(lines), env):
        if token.type != "fence" or token.map is None or not _has_end(lines, token.map, token.markup):
            continue
        made.append(_typed(lines[shown : token.map[0]]))
        made.append(clean(MARKDOWN.renderer.render([token], MARKDOWN.options, env)))
        shown = token.map[1]
    if not made:
        return None
    return Markup("".join([*made, _typed(lines[shown:])]))  # noqa: S704 - escaped here, or from the cleaner


def _has_end(lines: list[str], at: list[int], markup: str) -> bool:
    return at[1] - at[0] > 1 and lines[at[1] - 1].strip().startswith(markup)


def _typed(lines: list[str]) -> str:
    text = "\n".join(lines).strip("\n")
    return f'<div class="words-typed">{html.escape(text)}</div>' if text else ""
