"""Whether a rendered answer shows everything that was written. Pure.

Markdown has many places that a rendered answer does not show: link addresses and titles, link definitions, the rest of
a code block's first line, phantoms and tiny letters in formulae. Only the text as it was written is certain, so the
page always has it. If rendering has left letters out, the page shows it open.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from webui.review.present.unseen import visible

_LIST_NUMBER: Final = re.compile(r"^[ \t>]*\d{1,9}[.)](?=\s)", re.MULTILINE)  # the browser writes it
# What is in the HTML but invisible, or visible but never written.
_NOT_WRITTEN: Final = re.compile(
    r'<mphantom>.*?</mphantom>|<p class="render-note">.*?</p>|(?<=<span class="image-absent">)\[image: ', re.DOTALL
)
_TAG: Final = re.compile(r'<(?:[^>"]|"[^"]*")*>')


@dataclass(frozen=True)
class WrittenAnswer:
    """The text of an answer as it was written. ``is_hidden``: the rendered answer does not show all of it."""

    text: Markup
    is_hidden: bool


def written_answer(text: str, rendered: str) -> WrittenAnswer:
    """Compare `text` with the HTML that the cleaner made of it, by counting letters and digits.

    The letters of a formula are in the HTML and may still be too small to read, so a formula counts as hiding.
    """
    lacks = bool(_letters(_LIST_NUMBER.sub("", text)) - _letters(_shown(rendered)))
    return WrittenAnswer(visible(text), lacks or "<math" in rendered)


def _shown(rendered: str) -> str:
    return html.unescape(_TAG.sub("", _NOT_WRITTEN.sub("", rendered)))


def _letters(text: str) -> Counter[str]:
    return Counter(filter(str.isalnum, text))
