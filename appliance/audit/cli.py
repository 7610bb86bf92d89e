"""`appliance audit`: verify the record, sign it, export evidence and check evidence."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

from appliance.command import (
    home_option,
    json_option,
    open_for_writing,
    print_result,
    progress_bar,
    record_of,
    write_over,
)
from appliance.config import load_config
from appliance.errors import ApplianceError


@click.group()
def audit() -> None:
    """The record: verify it, sign it, export evidence and check evidence."""


@audit.command("verify")
@home_option
@json_option
def audit_verify(home: Path, as_json: bool) -> None:
    """Check every event, hash and signed checkpoint. Exit status 1 if anything is broken."""
    with record_of(home) as (config, log, actor), progress_bar("Verifying the log", hidden=as_json) as progress:
        from appliance.audit.checkpoint import keep_verdict
        from appliance.audit.log import RecordError
        from appliance.audit.verify import verified_event, verify_log

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
    with record_of(home, signs=True) as (config, log, actor):
        from appliance.audit.checkpoint import newest_note, write_checkpoint
        from appliance.audit.event import NewEvent

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
    load_config(home)  # whose faults are to leave no file
    with open_for_writing(out) as file, record_of(home, signs=True) as (config, log, actor):
        from appliance.audit.evidence import export_evidence

        wanted = range(first, (last or log.size()) + 1)
        data = export_evidence(log, config.state_dir, wanted, by=actor, with_content=not without_content)
        write_over(file, data, out)
    click.echo(f"Wrote {len(wanted)} events to {out}; check them with: appliance audit check {out} --key audit.pub")


@audit.command("check")
@click.argument("evidence", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=True,
              help="The log's public key, a copy of state/keys/audit.pub that you trust.")  # fmt: skip
@json_option
def audit_check(evidence: Path, key: Path, as_json: bool) -> None:
    """Check an EVIDENCE file against the log's public key; needs no site."""
    from appliance.isolation.administration import confine_reader

    try:
        data, public_key = evidence.read_bytes(), key.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ApplianceError(f"cannot be read: {exc}") from exc
    confine_reader()
    from appliance.audit.evidence import verify_evidence

    proven = verify_evidence(data, public_key)
    first, last = proven.checkpoint.origin, proven.checkpoint.size
    text = f"Proven: {len(proven.events)} events of the log {first}, signed when it held {last} events."
    print_result(as_json, {"events": len(proven.events), "origin": first, "signed_size": last}, text)
