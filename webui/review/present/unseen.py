"""Text for reviewers as safe HTML. Marks name invisible characters and characters that hide others.

A mark has an HTML class that no text can have, so nobody can write one.
"""

from __future__ import annotations

import re
from typing import Final

from markupsafe import Markup, escape

from appliance.audit.unseen import BLANKS, STACKED, UNSEEN, names_of

_MARKED: Final = re.compile(f"(?P<blanks>{BLANKS.pattern})|(?P<stacked>{STACKED.pattern})|(?:{UNSEEN.pattern})")
_TAG: Final = re.compile(r'(<(?:[^>"]|"[^"]*")*>)')  # the cleaner writes values in double quotes


def visible(text: str) -> Markup:
    """`text`, escaped. A mark with its name replaces each character that a reader would not see."""
    parts: list[Markup] = []
    position = 0
    for run in _MARKED.finditer(text):
        parts += [escape(text[position : run.start()]), _marks(run)]
        position = run.end()
    return Markup("").join([*parts, escape(text[position:])])


def visible_html(html: Markup | str) -> Markup:
    """The same for HTML that has left the cleaner. Its text is changed, its tags are not."""
    return Markup("").join(Markup(part) if part.startswith("<") else _marked(part) for part in _TAG.split(html))  # noqa: S704


def own_words(words: str) -> Markup:
    """Words of the page itself, in a form that no person's text can have."""
    return Markup('<span class="review-own">{}</span>').format(words)


def _marks(run: re.Match[str]) -> Markup:
    if run["blanks"]:
        return _mark(f"{len(run[0]):,} blank characters") + ("\n" if "\n" in run[0] else "")
    if run["stacked"]:
        return _mark(f"{len(run[0]):,} combining marks")
    return Markup("").join(map(_mark, names_of(run[0])))


def _mark(name: str) -> Markup:
    return Markup('<span class="unseen">{}</span>').format(name)


def _marked(text: str) -> Markup:
    """The same for text that is escaped already."""
    return Markup(_MARKED.sub(lambda run: str(_marks(run)), text))  # noqa: S704
