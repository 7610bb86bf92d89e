"""`appliance audit`: verify the record, sign it, export evidence and check evidence."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

from appliance.command import home_option, json_option, print_result, progress_bar, record_of
from appliance.errors import ApplianceError


@click.group()
def audit() -> None:
    """The record: verify it, sign it, export evidence and check evidence."""


@audit.command("verify")
@home_option
@json_option
def audit_verify(home: Path, as_json: bool) -> None:
    """Check every event, hash and signed checkpoint. Exit status 1 if anything is broken."""
    from appliance.audit.checkpoint import keep_verdict
    from appliance.audit.log import RecordError
    from appliance.audit.verify import verified_event, verify_log

    with record_of(home) as (config, log, actor), progress_bar("Verifying the log", hidden=as_json) as progress:
        report = verify_log(log.database, config.state_dir, progress=progress)
        keep_verdict(log.database, report)
        try:
            log.append(verified_event(actor, report))
        except RecordError as exc:
            click.echo(f"That the log was verified could not be recorded: {exc}", err=True)
    newest = None if report.newest is None else report.newest.size
    if as_json:
        body = {
            "intact": report.is_intact,
            "events": report.size,
            "erased": report.erased,
            "root": None if report.root is None else report.root.hex(),
            "checkpoints": report.checkpoints,
            "signed_up_to": newest,
            "faults": [dataclasses.asdict(fault) for fault in report.faults],
        }
        click.echo(json.dumps(body, indent=2))
    else:
        for fault in report.faults:
            click.echo(f"FAULT  {fault}")
        word = "intact" if report.is_intact else "BROKEN"
        signed = "none signed" if newest is None else f"signed up to event {newest}"
        click.echo(f"The log is {word}: {report.size} events, {report.erased} erased, {signed}.")
    if not report.is_intact:
        sys.exit(1)


@audit.command("checkpoint")
@home_option
def audit_checkpoint(home: Path) -> None:
    """Sign the log as it is now and print the signed checkpoint, to be kept elsewhere."""
    from appliance.audit.checkpoint import newest_note, write_checkpoint
    from appliance.audit.event import NewEvent

    with record_of(home) as (config, log, actor):
        write_checkpoint(log, config.state_dir)
        note = newest_note(log.database)
        if note is None:
            raise ApplianceError("the log is empty; there is nothing to sign")
        log.append(NewEvent(actor, "checkpoint_exported"))
    click.echo(note, nl=False)


@audit.command("export")
@home_option
@click.option("--first", type=click.IntRange(1), default=1, show_default=True, help="Number of the first event.")
@click.option("--last", type=click.IntRange(1), help="Number of the last event.  [default: the newest]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@click.option("--without-content", is_flag=True, help="Headers and proofs only: who and when, not what.")
def audit_export(home: Path, first: int, last: int | None, out: Path, without_content: bool) -> None:
    """Write events with the proofs that they are in the log, for any other machine to check."""
    from appliance.audit.evidence import export_evidence

    with record_of(home) as (config, log, actor):
        wanted = range(first, (last or log.size()) + 1)
        data = export_evidence(log, config.state_dir, wanted, by=actor, with_content=not without_content)
    try:
        out.write_bytes(data)
    except OSError as exc:
        raise ApplianceError(f"{out}: cannot be written: {exc.strerror}") from exc
    click.echo(f"Wrote {len(wanted)} events to {out}; check them with: appliance audit check {out} --key audit.pub")


@audit.command("check")
@click.argument("evidence", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=True,
              help="The log's public key, a copy of state/keys/audit.pub that you trust.")  # fmt: skip
@json_option
def audit_check(evidence: Path, key: Path, as_json: bool) -> None:
    """Check an EVIDENCE file against the log's public key; needs no site."""
    from appliance.audit.evidence import verify_evidence

    try:
        proven = verify_evidence(evidence.read_bytes(), key.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise ApplianceError(f"cannot be read: {exc}") from exc
    first, last = proven.checkpoint.origin, proven.checkpoint.size
    text = f"Proven: {len(proven.events)} events of the log {first}, signed when it held {last} events."
    print_result(as_json, {"events": len(proven.events), "origin": first, "signed_size": last}, text)
