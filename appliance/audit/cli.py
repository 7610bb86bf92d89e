"""`appliance audit`: verify the record, sign it, export evidence and check evidence."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.command import home_option, json_option, print_result, progress_bar, record_of, say, whole_file
from appliance.config import load_config
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.audit.evidence import ProvenEvents
    from appliance.audit.pages import PagesReport
    from appliance.audit.verify import VerificationReport
    from appliance.database.transactions import Database


@click.group()
def audit() -> None:
    """The record: verify it, sign it, export evidence and check evidence."""


_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@audit.command("verify")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False, exists=True), envvar="APPLIANCE_HOME",
              help="The site directory (the installer's prefix).")  # fmt: skip
@click.option("--against", type=_FILE, multiple=True,
              help="A signed checkpoint exported earlier, which the log must continue; may be repeated.")  # fmt: skip
@click.option("--database", "copy", type=_FILE,
              help="Check a copy of an SQLite database instead of a site, without writing; needs --key.")  # fmt: skip
@click.option("--key", type=_FILE, help="Trust this public key, a copy of audit.pub, instead of the site's own.")
@json_option
def audit_verify(
    home: Path | None, against: tuple[Path, ...], copy: Path | None, key: Path | None, as_json: bool
) -> None:
    """Check every event, hash, signed checkpoint, index and account. Exit status 1 if anything is broken."""
    if (home is None) == (copy is None) or (copy is not None and key is None):
        raise click.UsageError("give either --home, or --database with --key")
    texts, key_text = [(str(path), _text(path)) for path in against], _text(key) if key else None
    if home is not None:
        with record_of(home) as (config, log, actor):  # confines this process: what is heavy is imported after it
            from appliance.audit.checkpoint import keep_verdict
            from appliance.audit.log import RecordError

            report, pages = _verified(log.database, config.state_dir, texts, key_text, hide_progress=as_json)
            try:
                keep_verdict(log, report, by=actor, other_faults=pages.faults)
            except RecordError as exc:
                say(f"That the log was verified could not be recorded: {exc}", err=True)
    elif copy is not None:
        from appliance.database.transactions import open_copy

        with open_copy(copy) as database:
            report, pages = _verified(database, None, texts, key_text, hide_progress=as_json)
    _print_report(report, pages, as_json=as_json, is_copy=copy is not None)
    if not report.is_intact or pages.faults:
        sys.exit(1)


def _verified(
    database: Database, state_dir: Path | None, against: list[tuple[str, str]], key: str | None, *, hide_progress: bool
) -> tuple[VerificationReport, PagesReport]:
    from appliance.audit.note import parse_verifier
    from appliance.audit.pages import check_pages
    from appliance.audit.verify import Against, verify_log
    from appliance.cpus import logical_cpus

    brought = [Against(name, note) for name, note in against]
    trusted = parse_verifier(key) if key else None
    with progress_bar("Verifying the log", hidden=hide_progress) as progress:
        report = verify_log(
            database, state_dir, key=trusted, against=brought, processes=logical_cpus(), progress=progress
        )  # fmt: skip
        return report, check_pages(database, processes=logical_cpus())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ApplianceError(f"{path}: cannot be read: {exc}") from exc


def _print_report(report: VerificationReport, pages: PagesReport, *, as_json: bool, is_copy: bool) -> None:
    newest = None if report.newest is None else report.newest.size
    faults, remarks = [*report.faults, *pages.faults], [*report.remarks, *pages.remarks]
    unchecked = [*pages.unchecked, *(_NOT_IN_A_COPY if is_copy else ())]
    if as_json:
        body = {
            "intact": not faults,
            "events": report.size,
            "erased": report.erased,
            "root": None if report.root is None else report.root.hex(),
            "checkpoints": report.checkpoints,
            "signed_up_to": newest,
            "faults": [dataclasses.asdict(fault) for fault in faults],
            "remarks": [dataclasses.asdict(remark) for remark in remarks],
            "findings": [str(finding) for finding in report.findings],
            "known_damage": [dataclasses.asdict(fault) for fault in report.known_damage],
            "not_checked": unchecked,
            "seconds": {"events": round(report.duration_s, 2), **pages.seconds},
        }
        say(json.dumps(body, indent=2))
        return
    for word, items in (
        ("FAULT ", faults), ("KNOWN ", report.known_damage), ("FOUND ", report.findings), ("REMARK", remarks),
    ):  # fmt: skip
        for item in items:
            say(f"{word} {item}")
    for what in unchecked:
        say(f"Not checked: {what}.")
    word = "BROKEN" if faults else "intact"
    signed = "none signed" if newest is None else f"signed up to event {newest}"
    past = f", {len(report.findings)} acknowledged findings" if report.findings else ""
    say(f"The log is {word}: {report.size} events, {report.erased} erased, {signed}{past}.")
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in pages.seconds.items())
    say(f"Events {report.duration_s:.1f} s" + (f", {times}" if times else "") + ".")


_NOT_IN_A_COPY = (
    "the signer's own file, which a database does not hold: findings, and what was cut off since the newest checkpoint "
    "in the copy; compare with --against",
)


@audit.command("acknowledge")
@click.argument("finding")
@home_option
@click.option("--reason", required=True, help="Why signing may go on; it stays in the record for ever.")
def audit_acknowledge(finding: str, home: Path, reason: str) -> None:
    """Say that you have looked into FINDING, by its name. Signing begins anew; the finding stays visible."""
    with record_of(home) as (config, log, actor):
        from appliance.audit.findings import acknowledge
        from appliance.audit.ledger import read_tail

        tail = read_tail(config.audit_dir)
        header = acknowledge(log, tail[1] if tail else None, finding, reason, by=actor)
    say(f"Acknowledged in event {header.sequence}. The appliance begins to sign anew within a minute.")


@audit.command("rotate-key")
@home_option
def audit_rotate_key(home: Path) -> None:
    """Replace the signing key; the old key signs the new one. Hand the new public key to whoever verifies."""
    with record_of(home, signs=True) as (config, log, actor):
        from appliance.audit.signer import LogSigner

        key = LogSigner(log, config.state_dir).rotate_key(by=actor)
    say(f"The record is signed with a new key, which the old one signed. The new public key is:\n{key}")


@audit.command("checkpoint")
@home_option
def audit_checkpoint(home: Path) -> None:
    """Sign the log as it is now and print the signed checkpoint, to be kept elsewhere."""
    with record_of(home, signs=True) as (config, log, actor):
        from appliance.audit.checkpoint import mark_exported, write_checkpoint
        from appliance.audit.event import NewEvent
        from appliance.audit.stored import newest_note

        write_checkpoint(log, config.state_dir)
        note = newest_note(log.database)
        if note is None:
            raise ApplianceError("the log is empty; there is nothing to sign")
        mark_exported(log.database, log.append(NewEvent(actor, "checkpoint_exported")))
    click.echo(note, nl=False)


@audit.command("export")
@home_option
@click.option("--first", type=click.IntRange(1), default=1, show_default=True, help="Number of the first event.")
@click.option("--last", type=click.IntRange(1), help="Number of the last event.  [default: the newest]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@click.option("--without-content", is_flag=True, help="Headers and proofs only: who and when, not what.")
@click.option("--jsonl", is_flag=True, help="An event a line, for any number of events: no gap can be in the range.")
def audit_export(home: Path, first: int, last: int | None, out: Path, without_content: bool, jsonl: bool) -> None:
    """Write events with the proofs that they are in the log, for any other machine to check."""
    load_config(home)  # whose faults are to leave no file
    with whole_file(out) as file, record_of(home, signs=True) as (config, log, actor):
        wanted = range(first, min(last or log.size(), log.size()) + 1)
        if jsonl:
            from appliance.audit.extract import write_extract

            with progress_bar("Exporting", hidden=False) as progress:
                write_extract(
                    log, config.state_dir, file, first, wanted.stop - 1, by=actor,
                    with_content=not without_content, progress=progress,
                )  # fmt: skip
        else:
            from appliance.audit.evidence import export_evidence

            content = not without_content
            file.write(export_evidence(log, config.state_dir, wanted, by=actor, with_content=content))
    say(f"Wrote {len(wanted)} events to {out}; check them with: appliance audit check {out} --key audit.pub")


@audit.command("erase")
@home_option
@click.option("--first", type=click.IntRange(1), default=1, show_default=True, help="Number of the first event.")
@click.option("--last", type=click.IntRange(1), help="Number of the last event.")
@click.option("--before", type=click.DateTime(["%Y-%m-%d"]), help="In place of --last: the day (UTC) before which.")
@click.option("--reason", required=True, help="Why, for the record; at most 500 characters.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def audit_erase(
    home: Path, first: int, last: int | None, before: datetime | None, reason: str, yes: bool, as_json: bool
) -> None:
    """Erase prompts, answers and searches for good; who, when and the proofs stay. Call it again if it was killed."""
    if (last is None) == (before is None):
        raise click.UsageError("give either --last or --before")
    with record_of(home) as (_, log, actor):
        from appliance.audit.erasure import erase, last_before

        if before is not None:
            last = last_before(log, int(before.replace(tzinfo=UTC).timestamp()) * 1_000_000)
        last = min(last or 0, log.size())
        if not yes:
            click.confirm(f"Erase the contents of the events {first} to {last} for good?", abort=True, err=True)
        erased = erase(log, first, last, by=actor, reason=reason)
    lines = [f"Erased the contents of {erased.contents} events of {erased.first} to {erased.last}."]
    if erased.running:
        lines.append(f"{erased.running} prompts are being answered and were left out.")
    if erased.words_left:
        lines.append(f"{erased.words_left} contents had been changed; their words may stay in the search index.")
    if not erased.log_is_cut:
        lines.append("Somebody was reading, so the write-ahead log still holds older pages; call this again.")
    lines.append("Copies in people's conversations, exports and backups are not reached.")
    print_result(as_json, dataclasses.asdict(erased), "\n".join(lines))


@audit.command("reindex")
@home_option
@json_option
def audit_reindex(home: Path, as_json: bool) -> None:
    """Rebuild the search index from the contents, where verify says that it does not fit them."""
    with record_of(home) as (_, log, actor):
        from appliance.audit.reindex import reindex

        with progress_bar("Indexing", hidden=as_json) as progress:
            done = reindex(log, by=actor, progress=progress)
    text = f"The search index has the words of {done.contents} contents of the events 1 to {done.last}."
    print_result(as_json, dataclasses.asdict(done), text)


@audit.command("check")
@click.argument("evidence", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False, exists=True), required=True,
              help="The log's public key, a copy of state/keys/audit.pub that you trust.")  # fmt: skip
@json_option
def audit_check(evidence: Path, key: Path, as_json: bool) -> None:
    """Say what an EVIDENCE file proves and what it does not, with the log's public key. Needs no site."""
    from appliance.isolation.administration import confine_reader

    try:
        public_key = key.read_text(encoding="utf-8")
        file = evidence.open("rb")
    except (OSError, UnicodeDecodeError) as exc:
        raise ApplianceError(f"cannot be read: {exc}") from exc
    confine_reader()
    from appliance.audit.evidence import verify_evidence
    from appliance.audit.extract_check import is_extract, verify_extract

    with file:
        beginning = file.read(100)
        file.seek(0)
        found = verify_extract(file, public_key) if is_extract(beginning) else None
        proven = verify_evidence(file.read(), public_key).proven if found is None else found
    print_result(as_json, _in_json(proven), "\n".join(_in_words(proven)))


def _in_json(proven: ProvenEvents) -> dict[str, object]:
    from appliance.database.transactions import as_iso

    checkpoint = proven.checkpoint
    return {
        "events": proven.events, "first": proven.first, "last": proven.last, "complete": proven.is_complete,
        "missing": proven.missing, "damaged": proven.damaged, "contents": proven.with_content,
        "without_content": proven.without, "absent_contents": proven.absent, "contents_left_out": proven.left_out,
        "origin": checkpoint.origin, "signed_size": checkpoint.size, "signed_at": as_iso(checkpoint.time_us),
        "signed_by": proven.signed_by, "log_fault": proven.log_fault,
    }  # fmt: skip


def _in_words(proven: ProvenEvents) -> Iterator[str]:
    """First what the file proves, then everything that it does not prove."""
    from appliance.database.transactions import as_iso

    checkpoint = proven.checkpoint
    yield f"Proven: {proven.events} events of the log {checkpoint.origin}."
    yield f"Signed at {as_iso(checkpoint.time_us)} by {proven.signed_by}."
    yield f"The log held {checkpoint.size} events then; nothing is said of later ones."
    if proven.is_complete:
        yield f"Complete: every event from {proven.first} to {proven.last} is in it."
    else:
        yield f"NOT COMPLETE: of the events {proven.first} to {proven.last} some are not in it."
    for first, last in proven.missing:
        yield f"  Missing: event {first}." if first == last else f"  Missing: events {first} to {last}."
    for sequence in proven.damaged:
        yield f"  Damaged before the export: event {sequence}."
    why = "left out by whoever exported" if proven.left_out else "erased, or taken out of the database or the file"
    yield f"Contents: {proven.with_content} proven, {proven.without} events never had any, {proven.absent} absent" + (
        f" ({why})." if proven.absent else "."
    )
    if proven.log_fault:
        yield f"When it was made the log was broken, so the newest checkpoint before that was taken: {proven.log_fault}"
