"""The reviewer's addresses: find events, read one with its proof, see whether the record is intact."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from appliance.audit.checkpoint import integrity as integrity_of
from appliance.audit.checkpoint import keep_verdict, mark_exported
from appliance.audit.event import Action, NewEvent
from appliance.audit.findings import AcknowledgementError, past_findings
from appliance.audit.findings import acknowledge as acknowledge_finding
from appliance.audit.ledger import read_tail
from appliance.audit.log import Event, EventNotFoundError, RecordError
from appliance.audit.note import CheckpointError, parse_checkpoint
from appliance.audit.pages import check_pages
from appliance.audit.review import Filter, Page, actor_names, read_event, search
from appliance.audit.rows import DamagedEvent
from appliance.audit.stored import newest_note
from appliance.audit.verify import verify_log
from appliance.database.transactions import as_iso
from appliance.people.accounts import Role
from appliance.people.handovers import HandoverError
from webui.errors import NotFoundError, respond
from webui.handover import answer, hand_over, take
from webui.review.present.event import PageDamagedEvent, PageEvent, page_event
from webui.review.present.proof import prove
from webui.review.present.report import page_report
from webui.review.present.rows import page_days
from webui.review.present.words import ACTION_GROUPS
from webui.services import services
from webui.session import current_actor, demand_role

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
    """An event beside the list. The page's own script gets the event's pane alone."""
    shown = _event(sequence)
    if request.headers.get("X-Pane") == "event":
        return jsonify(html=render_template("_event.html", query=_query(), **shown))
    return _page(**shown)


@blueprint.get("/<int(signed=True):sequence>/source")
def source(sequence: int) -> Response:
    """The event's content exactly as it was recorded, as a file. Fetching it is recorded as reading the event."""
    read = read_event(services().record, current_actor(), sequence)
    if isinstance(read.event, DamagedEvent) or read.event.sealed is None:
        raise NotFoundError("no_content", "This event has no content that can be read.")
    return Response(
        read.event.sealed.content_bytes(),
        mimetype="application/json",
        headers={"Content-Disposition": f'attachment; filename="event-{sequence}.json"'},
    )


@blueprint.get("/integrity")
def integrity() -> Response:
    """The page behind the badge: how the record stands, and once what a verification found."""
    left = take()
    return answer(_integrity_page(left), left)


@blueprint.post("/integrity")
def verify() -> Response:
    """Check what `appliance audit verify` checks. The result is recorded, and faults mark the record as broken."""
    log = services().record
    report, pages = verify_log(log.database, services().config.state_dir), check_pages(log.database)
    try:
        keep_verdict(log, report, by=current_actor(), other_faults=pages.faults)
    except RecordError:  # the result is shown even if a damaged log cannot take the event: it shows no content
        current_app.logger.exception("the verification of the record could not be recorded")
    left = {"report": asdict(page_report(report, pages))}
    try:
        return hand_over(url_for("review.integrity"), left)
    except HandoverError:  # the result must be seen on a full disk, too; only then a reload verifies again
        return answer(_integrity_page(left), left)


@blueprint.post("/integrity/acknowledge")
def acknowledge() -> Response:
    """Record that the reviewer acknowledges the finding. The signer starts again the next time it is due."""
    log, tail = services().record, read_tail(services().config.audit_dir)
    try:
        given = request.form.get("finding", ""), request.form.get("reason", "")
        acknowledge_finding(log, tail[1] if tail else None, *given, by=current_actor())
    except AcknowledgementError as exc:
        return hand_over(url_for("review.integrity"), {"status": 400, "error": str(exc)})
    return make_response(redirect(url_for("review.integrity"), 303))


@blueprint.post("/integrity/checkpoint")
def checkpoint() -> Response:
    """The newest checkpoint as a file. The export is recorded."""
    log = services().record
    note = newest_note(log.database)
    if note is None:
        raise NotFoundError("no_checkpoint", "No checkpoint has been signed yet.")
    mark_exported(log.database, log.append(NewEvent(current_actor(), "checkpoint_exported")))
    headers = {"Content-Disposition": f'attachment; filename="{_name_of(note)}"'}
    return Response(note, mimetype="text/plain; charset=utf-8", headers=headers)


def _event(sequence: int) -> dict[str, Any]:
    """The event and the turn that it belongs to. Reading each of them is recorded."""
    log, reviewer = services().record, current_actor()
    read = read_event(log, reviewer, sequence)
    others: dict[int, Event | DamagedEvent] = {
        number: read_event(log, reviewer, number).event for number in read.turn if number != sequence
    }
    turn = [read.event if number == sequence else others[number] for number in read.turn]
    return {"event": page_event(read, turn), "proof": prove(log, services().config.state_dir, read)}


def _page(*, event: PageEvent | PageDamagedEvent | None = None, proof: object = None) -> str:
    wanted, problem = _filter()
    found, names = Page((), None), list[str]()
    if wanted is not None:
        found = search(services().record, current_actor(), wanted, before=_before(), limit=PAGE_EVENTS)
        names = actor_names(services().record)
    return render_template(
        "review.html", days=page_days(found.rows), older=found.older, names=names,
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


def _name_of(note: str) -> str:
    """A file name from the checkpoint's own size and time, because the clock may have changed since."""
    try:
        signed = parse_checkpoint(note.partition("\n\n")[0] + "\n", note.partition("\n")[0])
    except CheckpointError:  # a damaged one is handed out as it is, for the investigation
        return "checkpoint-damaged.txt"
    moment = as_iso(signed.time_us)[:19].replace("T", "-").replace(":", "")
    return f"checkpoint-{signed.size}-{moment}.txt"


def _integrity_page(left: dict[str, Any]) -> str:
    """Args: left: what the form that led here left: ``report``, or ``error``."""
    log = services().record
    found = integrity_of(log, services().config.state_dir)
    return render_template(
        "integrity.html", report=left.get("report"), error=left.get("error"), finding=found.finding,
        past=past_findings(log),
    )  # fmt: skip
