"""The page behind the badge: how the record stands, verifying it, acknowledging a finding, taking a checkpoint away."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from appliance.audit.checkpoint import integrity as look
from appliance.audit.checkpoint import keep_verdict, mark_exported
from appliance.audit.event import NewEvent
from appliance.audit.findings import AcknowledgementError, acknowledge, past_findings
from appliance.audit.ledger import read_tail
from appliance.audit.log import RecordError
from appliance.audit.note import CheckpointError, parse_checkpoint
from appliance.audit.pages import PagesReport, check_pages
from appliance.audit.stored import newest_note
from appliance.audit.verify import VerificationReport, verify_log
from appliance.database.transactions import as_iso
from webui.auth.session import current_actor
from webui.errors import NotFoundError
from webui.services import services


def add_integrity_pages(blueprint: Blueprint) -> None:
    """Add the pages to the reviewer's blueprint, which lets only reviewers in."""
    blueprint.add_url_rule("/integrity", "integrity", _show)
    blueprint.add_url_rule("/integrity", "verify", _verify, methods=["POST"])
    blueprint.add_url_rule("/integrity/acknowledge", "acknowledge", _acknowledge, methods=["POST"])
    blueprint.add_url_rule("/integrity/checkpoint", "checkpoint", _checkpoint, methods=["POST"])


def _show() -> str:
    return _page()


def _verify() -> str:
    """Check what `appliance audit verify` checks; what is found is recorded and marks the record."""
    log = services().record
    report, pages = verify_log(log.database, services().config.state_dir), check_pages(log.database)
    try:
        keep_verdict(log, report, by=current_actor(), other_faults=pages.faults)
    except RecordError:  # a log too damaged to take the event is shown all the same: no content is seen here
        current_app.logger.exception("that the record was verified could not be recorded")
    return _page(report=report, pages=pages)


def _acknowledge() -> ResponseReturnValue:
    """Record that the reviewer has seen the finding; the signer begins anew at its next turn."""
    log, tail = services().record, read_tail(services().config.audit_dir)
    try:
        given = request.form.get("finding", ""), request.form.get("reason", "")
        acknowledge(log, tail[1] if tail else None, *given, by=current_actor())
    except AcknowledgementError as exc:
        return _page(error=str(exc)), 400
    return redirect(url_for("review.integrity"), 303)


def _checkpoint() -> Response:
    """The newest checkpoint as a file; that it left the machine is recorded."""
    log = services().record
    note = newest_note(log.database)
    if note is None:
        raise NotFoundError("no_checkpoint", "No checkpoint has been signed yet.")
    mark_exported(log.database, log.append(NewEvent(current_actor(), "checkpoint_exported")))
    headers = {"Content-Disposition": f'attachment; filename="{_name_of(note)}"'}
    return Response(note, mimetype="text/plain; charset=utf-8", headers=headers)


def _name_of(note: str) -> str:
    """A file's name from the checkpoint's own size and time: the clock may have changed since."""
    try:
        checkpoint = parse_checkpoint(note.partition("\n\n")[0] + "\n", note.partition("\n")[0])
    except CheckpointError:  # damaged: it is handed out as it is, for whoever investigates
        return "checkpoint-damaged.txt"
    moment = as_iso(checkpoint.time_us)[:19].replace("T", "-").replace(":", "")
    return f"checkpoint-{checkpoint.size}-{moment}.txt"


def _page(
    *, report: VerificationReport | None = None, pages: PagesReport | None = None, error: str | None = None
) -> str:
    log = services().record
    found = look(log, services().config.state_dir)
    return render_template(
        "integrity.html", report=report, pages=pages, error=error, finding=found.finding, past=past_findings(log)
    )  # fmt: skip
