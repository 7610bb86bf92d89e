"""The banner of a page, and what pages say of markings.

A page of one conversation has the banner of its marking. "Not set" has the colours of the highest marking and says so.
Every other page has that of the highest marking, since a list may show anything. A site without markings has the banner
of its configuration everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from flask import Response, g

from appliance.config import Config
from appliance.people.conversation_markings import marking_of
from appliance.people.markings import Marking
from webui.services import services

_HEADER: Final = "X-Marking"  # of the answer to a question, for the page that asked: style and words of the banner


@dataclass(frozen=True)
class Banner:
    """The words at top and bottom of a page. ``style`` "" has the site's own colour."""

    words: str
    style: str = ""


def known_markings() -> list[Marking]:
    """The site's markings, the lowest first; one look for each request."""
    if "markings" not in g:
        g.markings = services().markings.all()
    return list(g.markings)


def site_banner(config: Config, known: Sequence[Marking]) -> Banner | None:
    """The banner of a page that is no page of one conversation."""
    if known:
        return Banner(known[-1].name, known[-1].style)
    return Banner(config.banner_text) if config.banner_text else None


def conversation_banner(config: Config, known: Sequence[Marking], marking_id: str | None) -> Banner | None:
    """The banner of a conversation's pages and files. A site without markings has its own everywhere."""
    if not known:
        return site_banner(config, known)
    marking = marking_of(known, marking_id)
    if marking is None:
        return Banner(f"NOT SET: HANDLE AS {known[-1].name}", known[-1].style)
    return Banner(marking.name, marking.style)


def recorded_name(known: Sequence[Marking], marking: Marking | None) -> str | None:
    """What a question's event says of its conversation's marking: None if the site has no markings, "" if not set."""
    return None if not known else "" if marking is None else marking.name


def tell(response: Response, banner: Banner | None) -> None:
    """Tell the page that asked a question which banner its conversation has now."""
    if banner is not None:
        response.headers[_HEADER] = f"{banner.style} {quote(banner.words)}"
