"""What the signer compares before it signs; the numbers are those of signer.py.

Each function raises LogBrokenError where something is not what was signed, and returns what it proved.
"""

from __future__ import annotations

from pathlib import Path

from appliance.audit import merkle
from appliance.audit.daily import daily_notes, present_checkpoint
from appliance.audit.fault import Fault, LogBrokenError
from appliance.audit.keys import KeyUnreadableError, load_signer
from appliance.audit.ledger import LedgerState, read_ledger, stray_mark
from appliance.audit.ledger_file import NAME
from appliance.audit.log import AuditLog
from appliance.audit.note import CheckpointError, Signer, note_hash, parse_verifier, verify_checkpoint
from appliance.audit.recheck import check_stretch, recheck_older
from appliance.audit.rounds import Rounds
from appliance.audit.signed_by import signing_key_in_log
from appliance.audit.stored import largest_size, note_of_size, store_note
from appliance.audit.stored_tree import LogDamagedError


def broken(message: str) -> LogBrokenError:
    """A finding about the record as a whole."""
    return LogBrokenError([Fault(0, 0, message)])


def check_copies(state: LedgerState, audit_dir: Path, newest: str | None, unseen: dict[str, str]) -> None:
    """Refuse a ledger that disagrees with the copies of its notes. (1)

    Args:
        newest: the newest checkpoint in the database.
        unseen: checkpoints outside the ledger that it does not hold; where each was found, by the hash of its note.
    """
    notes = {note_hash(note): note for note in daily_notes(audit_dir).values()}
    if newest is not None:
        notes[note_hash(newest)] = newest
    faults = list(state.faults)
    for mark, name in unseen.items():
        if stray_mark(mark) in state.strays:
            continue
        note = notes.get(mark)
        if not (state.adopted_size and note and _is_adopted(note, state)):
            faults.append(f"{name} is not among what the ledger says was signed")
    if faults:
        raise LogBrokenError([Fault(0, 0, fault) for fault in faults])


def _is_adopted(note: str, state: LedgerState) -> bool:
    """Whether an earlier release signed the note, which the ledger took over when it began."""
    try:
        checkpoint = verify_checkpoint(note, parse_verifier(state.keys[0]))
    except CheckpointError:
        return False
    return not checkpoint.previous and checkpoint.size <= state.adopted_size


def strays(audit_dir: Path) -> list[str]:
    """The files that an acknowledgement must name, because the ledger that held them is lost: one `stray_mark` each."""
    marks = {note_hash(note) for note in daily_notes(audit_dir).values()}
    read_ledger(audit_dir, after_checkpoint=lambda _, mark, _chain: marks.discard(mark))
    return sorted(stray_mark(mark) for mark in marks)


def signer_of_earlier_release(log: AuditLog, state_dir: Path, newest: str | None) -> Signer:
    """The key that signed a site which has no ledger yet. All of its checkpoints must come from an earlier release.
    (1)"""
    missing = f"the signer's own file, state/audit/{NAME}, is missing"
    if key_named_in_log(log) is not None:
        raise broken(missing)
    try:
        signer = load_signer(state_dir, log.origin)
        for note in [newest or "", *daily_notes(state_dir / "audit").values()]:
            if verify_checkpoint(note, signer.verifier).previous:
                raise broken(missing)
    except KeyUnreadableError:
        raise
    except CheckpointError as exc:
        raise broken(str(exc)) from exc
    return signer


def key_named_in_log(log: AuditLog) -> str | None:
    """The key that the log names as its signer."""
    with log.database.read() as connection:
        return signing_key_in_log(connection)


def key_in_force(log: AuditLog, state_dir: Path, state: LedgerState) -> Signer:
    """The key that signs next, of the log that the ledger belongs to. (2, 3)"""
    origin = log.stored_origin()
    if origin != state.origin:
        raise broken(f"the database holds the log {origin}, and {state.origin} was signed here")
    try:
        signer = load_signer(state_dir, state.origin)
    except KeyUnreadableError:
        raise
    except CheckpointError as exc:
        raise broken(str(exc)) from exc
    if str(signer.verifier) != state.key:
        raise broken("state/signer/audit.key is not the key that signed the last checkpoint")
    return signer


def checked_root(log: AuditLog, state: LedgerState, rounds: Rounds) -> tuple[int, bytes]:
    """Size and root of the log; `rounds` says which older events are checked this time. (4, 5, 6)"""
    signed = state.signed_size
    size = log.size()
    if size < signed:
        raise LogBrokenError([Fault(size + 1, signed, "they were signed and are missing")])
    try:
        if signed and log.root(signed) != state.signed_root:
            raise LogBrokenError([Fault(1, signed, "they are not those that were signed")])
        root = check_stretch(log, signed, size, state.accepted)
        if signed and state.signed_root is not None:
            proof = log.consistency_proof(signed, size)
            merkle.verify_consistency(signed, size, proof, state.signed_root, root)
    except (LogDamagedError, merkle.ProofError) as exc:
        raise LogBrokenError([Fault(1, size, str(exc))]) from exc
    recheck_older(log, rounds, signed, state.accepted)
    return size, root


def check_published(log: AuditLog, state: LedgerState, *, may_be_missing: bool) -> None:
    """The newest checkpoint in the database is the newest that was signed; put it there if it never was. (7)"""
    database = log.database
    largest = largest_size(database)
    if largest is not None and largest > state.signed_size:
        raise broken(f"the database holds a checkpoint of {largest} events, which was not signed")
    if not state.last_note:
        return
    stored = note_of_size(database, state.signed_size)
    if stored == state.last_note:
        return
    if may_be_missing:
        store_note(database, state.signed_size, state.last_note)
    elif stored is None:
        raise broken(f"the checkpoint of {state.signed_size} events was removed from the database")
    else:
        raise broken(f"the checkpoint of {state.signed_size} events in the database is not the signed one")


def check_daily(log: AuditLog, path: Path, state: LedgerState) -> None:
    """Refuse to replace a file whose checkpoint the log does not continue. (7)"""
    try:
        present = present_checkpoint(path, [parse_verifier(key) for key in state.keys])
        if present is None:
            return
        if present.size > state.signed_size or log.root(present.size) != present.root:
            raise broken(f"state/audit/{path.name} holds a checkpoint that the log does not continue")
    except (CheckpointError, LogDamagedError) as exc:
        raise broken(str(exc)) from exc
