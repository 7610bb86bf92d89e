"""Text for reviewers, as safe HTML in which characters that are not seen are named."""

from __future__ import annotations

import re
from typing import Final

from markupsafe import Markup, escape

from appliance.audit.unseen import UNSEEN, names_of

_TAG: Final = re.compile(r'(<(?:[^>"]|"[^"]*")*>)')  # as the cleaner writes them: values in double quotes


def visible(text: str) -> Markup:
    """`text`, escaped, with each character that a reader would not see as its name in a mark."""
    parts: list[Markup] = []
    position = 0
    for run in UNSEEN.finditer(text):
        parts.append(escape(text[position : run.start()]))
        parts += map(_mark, names_of(run[0]))
        position = run.end()
    return Markup("").join([*parts, escape(text[position:])])


def visible_html(html: Markup | str) -> Markup:
    """The same for HTML that has left the cleaner: in its text, not within tags."""
    return Markup("").join(Markup(part) if part.startswith("<") else _marked(part) for part in _TAG.split(html))  # noqa: S704


def _mark(name: str) -> Markup:
    return Markup('<span class="unseen">{}</span>').format(name)


def _marked(text: str) -> Markup:
    """Text that is escaped already."""
    return Markup(UNSEEN.sub(lambda run: "".join(map(str, map(_mark, names_of(run[0])))), text))  # noqa: S704
