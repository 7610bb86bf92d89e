"""The reviewer's pages: find events, read one with its proof, see whether the record holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, jsonify, render_template, request
from flask.typing import ResponseReturnValue

from appliance.audit.event import Action
from appliance.audit.log import Event, EventNotFoundError
from appliance.audit.review import Filter, Page, actor_names, read_event, search
from appliance.audit.rows import DamagedEvent
from appliance.people.accounts import Role
from webui.auth.session import current_actor, demand_role
from webui.errors import NotFoundError, respond
from webui.review.integrity_pages import add_integrity_pages
from webui.review.proof import prove
from webui.review.view import DamagedView, EventView, day_views, event_view
from webui.review.words import ACTION_GROUPS
from webui.services import services

PAGE_EVENTS = 100
_FILTERS = ("text", "user", "action", "since", "until")

blueprint = Blueprint("review", __name__, url_prefix="/review")


@blueprint.before_request
def only_reviewers() -> None:
    demand_role(Role.REVIEWER)


@blueprint.errorhandler(EventNotFoundError)
def event_not_found(_: EventNotFoundError) -> Response:
    return respond(NotFoundError("no_such_event", "The record has no event with this number."))


@blueprint.get("")
def index() -> str:
    return _page()


@blueprint.get("/<int(signed=True):sequence>")
def event(sequence: int) -> ResponseReturnValue:
    """An event beside the list, or, for the page's own script, what stands in the event's pane."""
    shown = _event(sequence)
    if request.headers.get("X-Pane") == "event":
        return jsonify(html=render_template("_event.html", query=_query(), **shown))
    return _page(**shown)


@blueprint.get("/<int(signed=True):sequence>/source")
def source(sequence: int) -> Response:
    """The event's content exactly as it was recorded, as a file. It is a look like any other."""
    read = read_event(services().record, current_actor(), sequence)
    if isinstance(read.event, DamagedEvent) or read.event.sealed is None:
        raise NotFoundError("no_content", "This event has no content that can be read.")
    return Response(
        read.event.sealed.content_bytes(),
        mimetype="application/json",
        headers={"Content-Disposition": f'attachment; filename="event-{sequence}.json"'},
    )


add_integrity_pages(blueprint)


def _event(sequence: int) -> dict[str, Any]:
    """The event and the turn it belongs to; that each of them is read is recorded."""
    log, reviewer = services().record, current_actor()
    read = read_event(log, reviewer, sequence)
    others: dict[int, Event | DamagedEvent] = {
        number: read_event(log, reviewer, number).event for number in read.turn if number != sequence
    }
    turn = [read.event if number == sequence else others[number] for number in read.turn]
    return {"event": event_view(read, turn), "proof": prove(log, services().config.state_dir, read)}


def _page(*, event: EventView | DamagedView | None = None, proof: object = None) -> str:
    wanted, problem = _filter()
    found, names = Page((), None), list[str]()
    if wanted is not None:
        found = search(services().record, current_actor(), wanted, before=_before(), limit=PAGE_EVENTS)
        names = actor_names(services().record)
    return render_template(
        "review.html", days=day_views(found.rows), older=found.older, names=names,
        action_groups=ACTION_GROUPS, query=_query(), event=event, proof=proof, problem=problem,
    )  # fmt: skip


def _before() -> int | None:
    """The cursor in the address, kept within what a database can compare."""
    before = request.args.get("before", type=int)
    return None if before is None else max(-(2**63), min(before, 2**63 - 1))


def _query() -> dict[str, str]:
    """The filter as it stands in the address, without empty fields."""
    return {name: value for name in _FILTERS if (value := request.args.get(name, "").strip())}


def _filter() -> tuple[Filter | None, str | None]:
    """The filter of the address, or what is wrong with it."""
    query = _query()
    try:
        since_us = _microseconds(query["since"]) if "since" in query else None
        until_us = _microseconds(query["until"], days_later=1) if "until" in query else None
    except (ValueError, OverflowError):
        return None, "A date must look like 2026-11-23. Nothing was looked up; correct it and apply the filter again."
    return Filter(
        user=query.get("user", ""),
        since_us=since_us,
        until_us=until_us,
        text=query.get("text", ""),
        actions=_actions(query.get("action", "")),
    ), None


def _actions(group: str) -> tuple[Action, ...]:
    return next((actions for value, _, actions in ACTION_GROUPS if value == group), ())


def _microseconds(day: str, *, days_later: int = 0) -> int:
    moment = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=days_later)
    return int(moment.timestamp()) * 1_000_000
