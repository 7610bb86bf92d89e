"""The page of markings: the site's list, from the highest to the lowest."""

from __future__ import annotations

from typing import Final

from flask import Response, make_response, redirect, render_template, request, url_for

from appliance.people.markings import STYLES, MarkingError
from webui import confirm
from webui.admin.routes import blueprint
from webui.confirm import Question
from webui.handover import answer, hand_over, take
from webui.services import services
from webui.session import current_actor

_NOTICES: Final = {
    "made": "The marking is made. It is the highest now; let others rise above it if it is not.",
    "changed": "The marking is changed. Whatever carries it has its new name and colour.",
    "raised": "The marking changed places with the one above it.",
    "removed": "The marking is removed.",
}


@blueprint.get("/markings")
def markings() -> Response:
    left, service = take(), services()
    known, uses = service.markings.all(), service.markings.uses()
    page = render_template(
        "admin_markings.html", known=known[::-1], uses=uses, styles=STYLES, name=left.get("name", ""),
        notice=_NOTICES.get(request.args.get("notice", "")), error=left.get("error"),
    )  # fmt: skip
    return answer(page, left)


@blueprint.post("/markings")
def add_marking() -> Response:
    name, style = request.form.get("name", ""), request.form.get("style", "")
    try:
        services().markings.add(name, style, by=current_actor())
    except MarkingError as exc:
        return _refused(exc, name=name)
    return _back("made")


@blueprint.post("/markings/<marking_id>")
def change_marking(marking_id: str) -> Response:
    name, style = request.form.get("name", ""), request.form.get("style", "")
    try:
        services().markings.change(marking_id, name, style, by=current_actor())
    except MarkingError as exc:
        return _refused(exc)
    return _back("changed")


@blueprint.post("/markings/<marking_id>/raise")
def raise_marking(marking_id: str) -> Response:
    try:
        services().markings.raise_one(marking_id, by=current_actor())
    except MarkingError as exc:
        return _refused(exc)
    return _back("raised")


@blueprint.post("/markings/<marking_id>/remove")
def remove_marking(marking_id: str) -> Response:
    """Remove a marking that nothing carries, after asking."""
    known = services().markings.all()
    found = next((one for one in known if one.id == marking_id), None)
    if found is not None and not confirm.is_confirmed():
        high = "" if found != known[-1] else "What is not set counts as the highest that is left."
        return confirm.ask(
            Question(
                f"Remove the marking {found.name}?",
                [said for said in ("Nobody can mark anything with it from then on.", high) if said],
                "Remove the marking",
                url_for("admin.markings"),
            )
        )
    try:
        services().markings.remove(marking_id, by=current_actor())
    except MarkingError as exc:
        return _refused(exc)
    return _back("removed")


def _refused(error: MarkingError, *, name: str = "") -> Response:
    return hand_over(url_for("admin.markings"), {"status": 400, "error": str(error), "name": name})


def _back(notice: str) -> Response:
    return make_response(redirect(url_for("admin.markings", notice=notice), 303))
