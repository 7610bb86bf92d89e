"""The page of first steps (webui/admin/steps.py)."""

from __future__ import annotations

from flask import Response, make_response, render_template

from webui.admin.alarms import current_alarms
from webui.admin.routes import blueprint
from webui.admin.steps import steps, steps_left
from webui.services import services


@blueprint.get("/first-steps")
def first_steps() -> Response:
    found = list(steps(services(), current_alarms(services())))
    return make_response(render_template("admin_first_steps.html", steps=found, left=steps_left(found)))
