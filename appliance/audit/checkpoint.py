"""How the log stands, at a glance: for the badge on every page, the doctor and the administrator.

The checks were made before: the signer checks new events at each signed checkpoint (signer.py), and a full verification
checks every event (verify.py). A glance only compares the newest checkpoint with the log and with the clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from appliance.audit.details.review import VerificationDetails
from appliance.audit.event import Actor, Content, Header, NewEvent
from appliance.audit.fault import Fault, LogBrokenError
from appliance.audit.findings import keep_fault, marked_fault
from appliance.audit.full_check import CHECKED, EXPORTED, FullCheck, last_check, last_export
from appliance.audit.keys import has_key
from appliance.audit.ledger import Finding, read_tail
from appliance.audit.log import AuditLog
from appliance.audit.note import CheckpointError, SignedCheckpoint, load_verifier, verify_checkpoint
from appliance.audit.signed_by import signing_key_in_log, words_of_foreign_database
from appliance.audit.signer import LogSigner
from appliance.audit.stored import newest_note
from appliance.audit.stored_tree import LogDamagedError
from appliance.audit.verify import VerificationReport
from appliance.database.transactions import Database, now_us, write_setting

STALE_AFTER_S = 300
AHEAD_S = 60  # more than a clock that is kept right steps back, and no more than the time between two checkpoints

State = Literal["verified", "stale", "broken"]


@dataclass(frozen=True)
class Integrity:
    """How the log stands: checked and signed up to event ``verified_size`` of ``size``, at ``verified_us``.

    stale: the last checkpoint is older than `STALE_AFTER_S`, from the future (``ahead``), or there is none; broken:
    ``fault`` says what was found. ``finding`` is the id of a finding that is to be acknowledged.
    """

    state: State
    size: int
    verified_size: int
    verified_us: int | None
    exported_us: int | None
    fault: str | None = None
    checked: FullCheck | None = None
    finding: str | None = None
    ahead: bool = False


def write_checkpoint(
    log: AuditLog, state_dir: Path, *, clock_us: Callable[[], int] = now_us
) -> SignedCheckpoint | None:
    """Sign the log once, as `LogSigner.sign`. A process that signs repeatedly keeps a `LogSigner`, which remembers."""
    return LogSigner(log, state_dir, clock_us=clock_us).sign()


def integrity(log: AuditLog, state_dir: Path, *, clock_us: Callable[[], int] = now_us) -> Integrity:
    """How the log stands now: the newest checkpoint's signature, and whether the log still has its root.

    Raises:
        DatabaseError: the database cannot be read.
    """
    with log.database.read() as connection:
        fault = marked_fault(connection)
        exported_us, checked = last_export(connection), last_check(connection)
    size, checkpoint, finding = log.size(), None, None
    try:
        checkpoint, finding = _newest(log, state_dir)
        fault = (str(finding) if finding else fault) or (_disagreement(log, checkpoint, size) if checkpoint else None)
    except CheckpointError as exc:
        fault = fault or str(exc)
    signed, signed_us = (checkpoint.size, checkpoint.time_us) if checkpoint else (0, None)
    age_s = (clock_us() - (signed_us or 0)) / 1_000_000
    stale = signed_us is None or not -AHEAD_S <= age_s <= STALE_AFTER_S
    return Integrity(
        state="broken" if fault else "stale" if stale else "verified",
        size=size,
        verified_size=signed,
        verified_us=signed_us,
        exported_us=exported_us,
        fault=fault,
        checked=checked,
        finding=finding.id if finding else None,
        ahead=signed_us is not None and age_s < -AHEAD_S,
    )


def keep_verdict(log: AuditLog, report: VerificationReport, *, by: Actor, other_faults: Sequence[Fault] = ()) -> None:
    """Record what a full verification found. A broken log stays marked until a reviewer acknowledges the finding.

    Args:
        other_faults: those in what the pages read beside the log.
    Raises:
        RecordError: it could not be recorded.
    """
    faults = [*report.faults, *other_faults]
    words = f"broken: {faults[0]}" if faults else "intact"
    signed = None if report.newest is None else report.newest.size
    details = VerificationDetails(events=report.size, erased=report.erased, signed_to=signed, faults=len(faults))
    if faults:
        keep_fault(log.database, str(LogBrokenError(faults)))
    event = NewEvent(by, "record_verified", "failed" if faults else "ok", content=Content(words, details))
    check = FullCheck(log.append(event).time_us, report.size, not faults)
    with log.database.write() as connection:
        write_setting(connection, CHECKED, json.dumps(asdict(check)))


def mark_exported(database: Database, event: Header) -> None:
    """Remember for the badge that something left the machine, as this event says."""
    with database.write() as connection:
        write_setting(connection, EXPORTED, str(event.time_us))


def _newest(log: AuditLog, state_dir: Path) -> tuple[SignedCheckpoint | None, Finding | None]:
    """The newest checkpoint, and the finding that nobody has acknowledged yet.

    Raises:
        CheckpointError: a signature or a file is not right.
    """
    verifier, tail = load_verifier(state_dir / "keys"), read_tail(state_dir / "audit")
    if tail is None:
        tail = newest_note(log.database) or "", None
        with log.database.read() as connection:
            known = signing_key_in_log(connection)
        if known is not None or (not tail[0] and has_key(state_dir)):
            raise CheckpointError(words_of_foreign_database(known))
    note, finding = tail
    if not note:
        return None, finding
    if verifier is None:
        raise CheckpointError("there are checkpoints, but the public key state/keys/audit.pub is missing")
    try:
        return verify_checkpoint(note, verifier), finding
    except CheckpointError:
        if finding is not None:  # which is what there is to say
            return None, finding
        raise


def _disagreement(log: AuditLog, checkpoint: SignedCheckpoint, size: int) -> str | None:
    """How the stored hashes contradict the checkpoint; None where they do not."""
    origin = log.stored_origin()
    if checkpoint.origin != origin:
        return f"the database holds the log {origin or '(without a name)'}, and {checkpoint.origin} was signed here"
    if checkpoint.size > size:
        return f"the events {size + 1} to {checkpoint.size} were signed and are missing"
    try:
        root = log.root(checkpoint.size)
    except LogDamagedError as exc:
        return str(exc)
    return None if root == checkpoint.root else f"the first {checkpoint.size} events are not those that were signed"
