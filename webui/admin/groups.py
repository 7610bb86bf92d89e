"""The page of groups: made, removed, and who is in them."""

from __future__ import annotations

from typing import Final

from flask import Response, make_response, redirect, render_template, request, url_for

from webui import confirm
from webui.admin import present
from webui.admin.routes import blueprint
from webui.services import services
from webui.session import current_actor

_NOTICES: Final = {"made": "The group is made. Put people into it on their pages.", "removed": "The group is removed."}


@blueprint.get("/groups")
def groups() -> Response:
    listed = [(group, services().groups.members(group.id)) for group in services().groups.list_groups()]
    notice = _NOTICES.get(request.args.get("notice", ""))
    return make_response(render_template("admin_groups.html", groups=listed, notice=notice))


@blueprint.post("/groups")
def add_group() -> Response:
    services().groups.create(request.form.get("name", ""), by=current_actor())
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
