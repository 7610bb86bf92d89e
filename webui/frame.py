"""The frame of every page: the sections a person may see, the integrity badge, and the banner's colours."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Response, request, url_for

from appliance.audit.checkpoint import integrity
from appliance.people.accounts import Role
from webui.markings import known_markings, site_banner
from webui.review.present.integrity import PageIntegrity, page_integrity
from webui.services import services
from webui.session import current_user
from webui.static_files import IMMUTABLE

blueprint = Blueprint("frame", __name__)

_SECTIONS = (
    (Role.USER, "Chat", "chat", "chat.new"),
    (Role.REVIEWER, "Review", "review", "review.index"),
    (Role.ADMIN, "Admin", "admin", "admin.index"),
)


@dataclass(frozen=True)
class Section:
    """An entry of the bar."""

    title: str
    icon: str
    href: str
    current: bool


@blueprint.app_context_processor
def frame() -> dict[str, object]:
    user = current_user() if request.blueprint != "api" else None
    banner = site_banner(services().config, known_markings()) if request.blueprint != "api" else None
    if user is None:
        return {"user": None, "sections": [], "integrity": None, "banner": banner}
    sections = [
        Section(title, icon, url_for(endpoint), request.blueprint == endpoint.partition(".")[0])
        for role, title, icon, endpoint in _SECTIONS
        if role in user.roles
    ]
    badge = _integrity() if Role.REVIEWER in user.roles else None
    return {"user": user, "sections": sections, "integrity": badge, "banner": banner}


def _integrity() -> PageIntegrity:
    service = services()
    return page_integrity(integrity(service.record, service.config.state_dir), service.clock())


@blueprint.get("/banner.css")
def banner_stylesheet() -> Response:
    """The banner in the administrator's colour, with the words in black or white, whichever contrasts more."""
    colour = services().config.banner_colour or ""
    rule = f":root {{ --banner: {colour}; --on-banner: {words_on(colour)}; }}\n" if colour else ""
    response = Response(rule, mimetype="text/css")
    if request.args.get("colour") == colour[1:]:  # the address says what is in it
        response.headers["Cache-Control"] = IMMUTABLE
    return response


def words_on(colour: str) -> str:
    """Black or white, whichever contrasts more with `colour`, given as "#rrggbb"."""
    return "#000000" if _luminance(colour) > 0.179 else "#ffffff"  # at 0.179 both contrast alike (WCAG 2.2)


def _luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2.2)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
