"""Adding many people from a table. The page behind the form shows their one-time links, once."""

from __future__ import annotations

from typing import Final

from flask import Response, render_template, request, url_for

from appliance.people.bulk import MOST_PEOPLE, BulkError, add_people, parse_people
from webui.admin.routes import blueprint
from webui.csv_file import csv_text
from webui.handover import answer, hand_over, take
from webui.services import services
from webui.session import current_actor

_MOST_FAULTS: Final = 50


@blueprint.get("/people/add")
def bulk() -> Response:
    """The form; after it was sent, the links or what is wrong with the table."""
    left = take()
    links = left.get("links", [])
    page = render_template(
        "admin_bulk.html", links=links, error=left.get("error"), faults=left.get("faults", []),
        text=left.get("text", ""), most=MOST_PEOPLE, file=csv_text(("name", "link"), links) if links else "",
        groups=services().groups.list_groups(), notice=None if left else request.args.get("notice"),
    )  # fmt: skip
    return answer(page, left)


@blueprint.post("/people/add")
def add_all() -> Response:
    """Add everybody in the table, or nobody."""
    text = _table()
    try:
        added = add_people(services().record, parse_people(text), by=current_actor())
    except BulkError as exc:
        faults = [str(fault) for fault in exc.faults[:_MOST_FAULTS]]
        if len(exc.faults) > _MOST_FAULTS:
            faults.append(f"And {len(exc.faults) - _MOST_FAULTS} more.")
        return hand_over(url_for("admin.bulk"), {"status": 400, "error": str(exc), "faults": faults, "text": text})
    site_url = services().site_url
    links = [(name, site_url + url_for("auth.welcome", token=token)) for name, token in added]
    return hand_over(url_for("admin.bulk", notice="shown"), {"links": links})


def _table() -> str:
    """The file of the form, or else its text."""
    file = request.files.get("file")
    data = b"" if file is None else file.read()
    return data.decode(errors="replace") if data else request.form.get("people", "")
