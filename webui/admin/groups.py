"""The page of groups: made, removed, and who is in them."""

from __future__ import annotations

from typing import Final

from flask import Response, make_response, redirect, render_template, request, url_for

from appliance.people.users import AccountError
from webui import confirm
from webui.admin import present
from webui.admin.routes import blueprint
from webui.handover import answer, hand_over, take
from webui.services import services
from webui.session import current_actor

_NOTICES: Final = {"made": "The group is made. Put people into it on their pages.", "removed": "The group is removed."}


@blueprint.get("/groups")
def groups() -> Response:
    left = take()
    listed = [(group, services().groups.members(group.id)) for group in services().groups.list_groups()]
    notice = _NOTICES.get(request.args.get("notice", ""))
    error, name = left.get("error"), left.get("name", "")
    page = render_template("admin_groups.html", groups=listed, notice=notice, error=error, name=name)
    return answer(page, left)


@blueprint.post("/groups")
def add_group() -> Response:
    name = request.form.get("name", "")
    try:
        services().groups.create(name, by=current_actor())
    except AccountError as exc:
        return hand_over(url_for("admin.groups"), {"status": 400, "error": str(exc), "name": name})
    return _back("made")


@blueprint.post("/groups/<group_id>/remove")
def remove_group(group_id: str) -> Response:
    """Remove a group, after asking."""
    group = services().groups.get(group_id)
    if not confirm.is_confirmed():
        return confirm.ask(present.question_of_removing(group, url_for("admin.groups")))
    services().groups.remove(group_id, by=current_actor())
    return _back("removed")


def _back(notice: str) -> Response:
    return make_response(redirect(url_for("admin.groups", notice=notice), 303))
