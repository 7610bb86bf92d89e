"""Text for reviewers, as safe HTML in which characters that are not seen, and what hides others, are named in marks.

A mark is of a class of its own, which no text can have: nobody can write one.
"""

from __future__ import annotations

import re
from typing import Final

from markupsafe import Markup, escape

from appliance.audit.unseen import BLANKS, STACKED, UNSEEN, names_of

_MARKED: Final = re.compile(f"(?P<blanks>{BLANKS.pattern})|(?P<stacked>{STACKED.pattern})|(?:{UNSEEN.pattern})")
_TAG: Final = re.compile(r'(<(?:[^>"]|"[^"]*")*>)')  # as the cleaner writes them: values in double quotes


def visible(text: str) -> Markup:
    """`text`, escaped, with each character that a reader would not see as its name in a mark."""
    parts: list[Markup] = []
    position = 0
    for run in _MARKED.finditer(text):
        parts += [escape(text[position : run.start()]), _marks(run)]
        position = run.end()
    return Markup("").join([*parts, escape(text[position:])])


def visible_html(html: Markup | str) -> Markup:
    """The same for HTML that has left the cleaner: in its text, not within tags."""
    return Markup("").join(Markup(part) if part.startswith("<") else _marked(part) for part in _TAG.split(html))  # noqa: S704


def own_words(words: str) -> Markup:
    """Words of the page beside those of people: only the page can write them so."""
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
    """Text that is escaped already."""
    return Markup(_MARKED.sub(lambda run: str(_marks(run)), text))  # noqa: S704
