"""Colours for blocks of code, in bounded time: Pygments with a budget, and plain text once the budget is spent.

Many lexers are quadratic on some text, and cheap steps add up, so the budget is checked after each token. It cannot be
checked within a token, so code for lexers with slow single steps must be short (`_MAX_CHARS_OF`). `bench.rendering`
looks for such steps with hostile texts in every language.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterator
from typing import Final

from pygments.formatters.html import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import _TokenType

from webui.rendering.budget import Budget, TooSlowError
from webui.rendering.cache import RenderCache, digest

CODE_S: Final = 0.3  # processor time for one block
MAX_HIGHLIGHT_CHARS: Final = 20_000  # a quadratic step that takes 0.03 s of 3,000 characters takes 1.3 s of these
# One step of these lexers is quadratic in the text that follows; with so many characters it takes 0.1 s.
_MAX_CHARS_OF: Final = {"console": 2_000, "ini": 2_000, "matlab": 2_000}

# Code in other languages is shown without colours.
LANGUAGES: Final = frozenset({
    "bash", "c", "console", "cpp", "csharp", "css", "diff", "docker", "go", "haskell", "html", "ini", "java",
    "javascript", "json", "kotlin", "latex", "lua", "makefile", "markdown", "matlab", "nginx", "perl", "php",
    "powershell", "python", "r", "ruby", "rust", "scala", "sql", "swift", "toml", "typescript", "xml", "yaml",
})  # fmt: skip
_ALIASES: Final = {
    "sh": "bash", "shell": "bash", "c++": "cpp", "c#": "csharp", "dockerfile": "docker", "js": "javascript",
    "jsx": "javascript", "tex": "latex", "make": "makefile", "md": "markdown", "py": "python", "rs": "rust",
    "ts": "typescript", "yml": "yaml",
}  # fmt: skip
_formatter: Final = HtmlFormatter(nowrap=True)


def language_of(word: str) -> str:
    """The language that a fence names; "text" if there are no colours for it."""
    name = _ALIASES.get(word.lower(), word.lower())
    return name if name in LANGUAGES else "text"


def coloured(code: str, language: str, budget: Budget, cache: RenderCache) -> str | None:
    """`code` as spans of HTML; None if it is too long for this language or took too long.

    A block that took too long is not tried again.
    """
    if len(code) > _MAX_CHARS_OF.get(language, MAX_HIGHLIGHT_CHARS):
        return None
    key = digest(language, code)
    known = cache.get(key)
    if known is not None:
        return known or None
    try:
        with budget.part(CODE_S):
            made = _spans(get_lexer_by_name(language, stripnl=False), code, budget)
    except TooSlowError:
        if not budget.is_spent:  # the block's own part was spent, and would be again
            cache.put(key, "")
        return None
    cache.put(key, made)
    return made


def _spans(lexer: Lexer, code: str, budget: Budget) -> str:
    out = io.StringIO()
    _formatter.format(_watched(lexer.get_tokens(code), budget), out)
    return out.getvalue()


def _watched(tokens: Iterator[tuple[_TokenType, str]], budget: Budget) -> Iterator[tuple[_TokenType, str]]:
    budget.check()
    for token in tokens:
        yield token
        budget.check()


def plain(code: str) -> str:
    """`code` without colours."""
    return html.escape(code)
