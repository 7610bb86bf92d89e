"""Signs the log as it grows, and says how it stands.

`write_checkpoint` is called every minute and at shutdown. It signs nothing that it has not checked: the events since
the last checkpoint are recomputed, what the last one vouched for must still be there, and a stretch of older events is
recomputed in turn. If something does not fit, the log is marked as broken, which stays until a full verification finds
it intact again (`keep_verdict`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from appliance.audit.log import AuditLog, LogDamagedError
from appliance.audit.note import (
    Checkpoint,
    CheckpointError,
    Verifier,
    load_signer,
    load_verifier,
    verify_checkpoint,
    write_note,
)
from appliance.audit.verify import Fault, LogBrokenError, TreeCheck, VerificationReport, check_rows
from appliance.database import Database, audit_checkpoints, now_us, read_setting, write_setting

STALE_AFTER_S = 300
RECHECKED_EVENTS = 20_000  # older events checked again at each checkpoint: about half a second
_RECHECKED = "audit_rechecked_to"
_FAULT = "audit_fault"
_EXPORTED = "audit_exported_us"

State = Literal["verified", "stale", "broken"]


@dataclass(frozen=True)
class Integrity:
    """How the log stands: checked and signed up to event ``verified_size`` of ``size``, at ``verified_us``.

    stale: the last checkpoint is older than `STALE_AFTER_S` or there is none; broken: ``fault`` says what was found.
    """

    state: State
    size: int
    verified_size: int
    verified_us: int | None
    exported_us: int | None
    fault: str | None = None


def write_checkpoint(
    log: AuditLog, state_dir: Path, *, clock_us: Callable[[], int] = now_us
) -> Checkpoint | None:
    """Check what is new, sign the log as it is, keep the note in the database and as a file; None for an empty log.

    Raises:
        LogBrokenError: the log is not what was recorded; nothing was signed.
        CheckpointError: the key or the file cannot be used.
        DatabaseError: the database cannot be used.
    """
    signer = load_signer(state_dir, log.origin)
    verifier = load_verifier(state_dir / "keys")
    if str(verifier) != str(signer.verifier):
        raise CheckpointError("state/keys/audit.pub does not belong to state/signer/audit.key")
    try:
        size, root = _checked_root(log, signer.verifier)
    except LogBrokenError as exc:
        with log.database.write() as connection:
            write_setting(connection, _FAULT, str(exc))
        raise
    if size == 0:
        return None
    checkpoint = Checkpoint(log.origin, size, root, clock_us())
    note = signer.sign(checkpoint)
    with log.database.write() as connection:
        connection.execute(audit_checkpoints.delete().where(audit_checkpoints.c.size == size))  # signed earlier
        connection.execute(audit_checkpoints.insert().values(size=size, note=note))
    write_note(state_dir / "audit", checkpoint, note)
    return checkpoint


def newest_note(database: Database) -> str | None:
    """The latest stored checkpoint as it was signed."""
    query = sa.select(audit_checkpoints.c.note).order_by(audit_checkpoints.c.size.desc()).limit(1)
    with database.read() as connection:
        return connection.scalar(query)


def integrity(log: AuditLog, state_dir: Path, *, clock_us: Callable[[], int] = now_us) -> Integrity:
    """How the log stands now: the newest checkpoint's signature, and whether the log still has its root.

    Raises:
        DatabaseError: the database cannot be read.
    """
    with log.database.read() as connection:
        fault = read_setting(connection, _FAULT)
        exported = read_setting(connection, _EXPORTED)
    exported_us = int(exported) if exported else None
    size = log.size()
    try:
        checkpoint = _newest(log.database, load_verifier(state_dir / "keys"))
        if checkpoint and fault is None:
            fault = _disagreement(log, checkpoint, size)
    except CheckpointError as exc:
        return Integrity("broken", size, 0, None, exported_us, fault or str(exc))
    if checkpoint is None:
        return Integrity("broken" if fault else "stale", size, 0, None, exported_us, fault)
    stale = clock_us() - checkpoint.time_us > STALE_AFTER_S * 1_000_000
    state: State = "broken" if fault else "stale" if stale else "verified"
    return Integrity(state, size, checkpoint.size, checkpoint.time_us, exported_us, fault)


def keep_verdict(database: Database, report: VerificationReport) -> None:
    """Mark the log as the full verification found it."""
    with database.write() as connection:
        write_setting(connection, _FAULT, None if report.is_intact else str(LogBrokenError(report.faults)))


def mark_exported(database: Database, time_us: int) -> None:
    """Remember when a checkpoint last left the machine."""
    with database.write() as connection:
        write_setting(connection, _EXPORTED, str(time_us))


def _checked_root(log: AuditLog, verifier: Verifier) -> tuple[int, bytes]:
    """Size and root of the log, recomputed from the newest checkpoint on.

    Raises:
        LogBrokenError: something does not fit.
    """
    try:
        newest = _newest(log.database, verifier)
    except CheckpointError as exc:
        raise LogBrokenError([Fault(0, 0, str(exc))]) from exc
    size = log.size()
    start = newest.size if newest else 0
    disagreement = _disagreement(log, newest, size) if newest else None
    if disagreement:
        raise LogBrokenError([Fault(1, start, disagreement)])
    root = _check_stretch(log, start, size)
    with log.database.read() as connection:
        rechecked = int(read_setting(connection, _RECHECKED) or 0)
    begin = rechecked if rechecked < start else 0
    end = min(begin + RECHECKED_EVENTS, start)
    _check_stretch(log, begin, end)
    if end != rechecked:
        with log.database.write() as connection:
            write_setting(connection, _RECHECKED, str(end))
    return size, root


def _check_stretch(log: AuditLog, begin: int, end: int) -> bytes:
    """Recompute the events `begin` + 1 to `end`; returns the root of the first `end`.

    Raises:
        LogBrokenError: something does not fit.
    """
    try:
        check = TreeCheck(begin, log.subtree_hashes(begin))
    except LogDamagedError as exc:
        raise LogBrokenError([Fault(1, begin, str(exc))]) from exc
    with log.database.read() as connection:
        check_rows(connection, check, end)
        faults = check.finish(connection)
    root = check.root()
    if faults or root is None:
        raise LogBrokenError(faults)
    return root


def _newest(database: Database, verifier: Verifier | None) -> Checkpoint | None:
    note = newest_note(database)
    if note is None:
        return None
    if verifier is None:
        raise CheckpointError("there are checkpoints, but the public key state/keys/audit.pub is missing")
    return verify_checkpoint(note, verifier)


def _disagreement(log: AuditLog, checkpoint: Checkpoint, size: int) -> str | None:
    """What of the checkpoint the stored hashes contradict."""
    if checkpoint.size > size:
        return f"the events {size + 1} to {checkpoint.size} were signed and are missing"
    try:
        root = log.root(checkpoint.size)
    except LogDamagedError as exc:
        return str(exc)
    return None if root == checkpoint.root else f"the first {checkpoint.size} events are not those that were signed"
