"""Evidence: chosen events, each with its proof, under one signed checkpoint, in a file that another machine can check.

The file is JSON. Each event carries the exact bytes of its header (what the tree holds) and, if wanted and not erased,
salt and exact bytes of its content (what the header commits to). To check it one needs this package, the file and the
log's public key, which should have come by another way than the file.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from appliance.audit import merkle
from appliance.audit.checkpoint import mark_exported, write_checkpoint
from appliance.audit.details.kinds import details_of
from appliance.audit.details.review import EventsExported
from appliance.audit.event import Actor, Content, Header, NewEvent, encode_header, parse_header
from appliance.audit.fault import LogBrokenError
from appliance.audit.heirs import keys_after
from appliance.audit.ledger import read_ledger
from appliance.audit.log import AuditLog, Event, EventNotFoundError
from appliance.audit.note import (
    CheckpointError,
    SignedCheckpoint,
    load_verifier,
    parse_verifier,
    verify_checkpoint,
)
from appliance.audit.rows import DamagedEvent, load_events
from appliance.audit.stored import newest_note
from appliance.database.transactions import as_iso, now_us
from appliance.errors import ApplianceError

FORMAT = "gpt-oss-appliance evidence 1"


class EvidenceError(ApplianceError):
    """The file does not prove what it says; ``sequence`` is the event at fault, None for the file as a whole."""

    def __init__(self, message: str, sequence: int | None = None) -> None:
        super().__init__(message if sequence is None else f"event {sequence}: {message}")
        self.sequence = sequence


@dataclass(frozen=True)
class VerifiedEvent:
    """An event that is proven to be in the log; ``content`` is None when it is not in the file."""

    header: Header
    content: Content | None


@dataclass
class ProvenEvents:
    """What a file proves of the events ``first`` to ``last``, and what it does not."""

    checkpoint: SignedCheckpoint
    signed_by: str  # the public key's line
    first: int
    last: int
    left_out: bool = False  # contents, by whoever exported
    events: int = 0
    with_content: int = 0
    without: int = 0  # events that never had content
    absent: int = 0  # contents that the headers commit to and the file lacks
    missing: list[tuple[int, int]] = field(default_factory=list)  # ranges of events that the file lacks
    damaged: list[int] = field(default_factory=list)  # proved by their hash alone: their rows are no events any more
    log_fault: str | None = None  # what was wrong with the log when the file was made, by its own words

    @property
    def is_complete(self) -> bool:
        """Every event of the range is in the file and readable. Contents may be absent."""
        return not self.missing and not self.damaged

    def count(self, header: Header, *, has_content: bool) -> None:
        """Take an event that is proven into account."""
        self.events += 1
        self.with_content += has_content
        self.without += header.commitment is None
        self.absent += header.commitment is not None and not has_content


@dataclass(frozen=True)
class VerifiedEvidence:
    """What a file proves: chosen events, which need not be neighbours, and the same in numbers."""

    checkpoint: SignedCheckpoint
    events: tuple[VerifiedEvent, ...]
    proven: ProvenEvents


@dataclass(frozen=True)
class SignedLog:
    """The checkpoint that evidence is made for. ``fault`` is why the log was not signed anew."""

    note: str
    size: int
    public_key: str
    fault: str | None
    key_chain: list[str]  # how older keys handed over to this one: heirs.py


def sign_for_evidence(log: AuditLog, state_dir: Path, last: int, *, clock_us: Callable[[], int] = now_us) -> SignedLog:
    """Sign the log as it is, or, where it is broken, take the newest checkpoint, if it covers event `last`.

    A broken log is when evidence is needed most: what was signed before is still proven.

    Raises:
        LogBrokenError, CheckpointError: nothing that was signed covers the event.
    """
    fault: LogBrokenError | None = None
    try:
        write_checkpoint(log, state_dir, clock_us=clock_us)
    except LogBrokenError as exc:
        fault = exc
    verifier, note = load_verifier(state_dir / "keys"), newest_note(log.database)
    if verifier is None or note is None:
        raise fault or RuntimeError("internal error: a log with an event has no checkpoint")
    size = verify_checkpoint(note, verifier).size  # perhaps a later one than ours
    if size < last:
        raise fault or RuntimeError("internal error: the newest checkpoint is older than the one just signed")
    ledger = read_ledger(state_dir / "audit")
    return SignedLog(
        note, size, str(verifier), None if fault is None else str(fault), ledger.key_notes if ledger else []
    )


def export_evidence(
    log: AuditLog,
    state_dir: Path,
    sequences: Sequence[int],
    *,
    by: Actor,
    with_content: bool = True,
    clock_us: Callable[[], int] = now_us,
) -> bytes:
    """The file for the events with these numbers. The export is recorded first.

    Raises:
        EventNotFoundError: there is no such event.
        RecordError: the export could not be recorded; there is no file.
        LogBrokenError, CheckpointError: the log could not be signed; there is no file.
    """
    found = load_events(log.database, sequences)
    for sequence in sequences:
        if sequence not in found:
            raise EventNotFoundError(sequence)
    events = [found[sequence] for sequence in sequences]
    details = EventsExported(sequences=tuple(sequences), with_content=with_content)
    chosen = Content(f"{len(events)} events", details)
    exported = log.append(NewEvent(by, "evidence_exported", content=chosen))
    signed = sign_for_evidence(log, state_dir, max(sequences, default=0), clock_us=clock_us)
    body = {
        "format": FORMAT,
        "made_at": as_iso(clock_us()),
        "made_by": by.name,
        "public_key": signed.public_key,
        "key_chain": signed.key_chain,
        "checkpoint": signed.note,
        "log_fault": signed.fault,
        "with_content": with_content,
        "events": [_exported(log, event, signed.size, with_content=with_content) for event in events],
    }
    mark_exported(log.database, exported)
    return json.dumps(body, ensure_ascii=False, indent=1).encode() + b"\n"


def verify_evidence(data: bytes, public_key: str) -> VerifiedEvidence:
    """Prove every event of the file `data` against `public_key` (the line in audit.pub), trusting nothing else.

    Raises:
        EvidenceError: the file is not evidence, or something in it does not follow.
    """
    try:
        body = json.loads(data)
        if body["format"] != FORMAT:
            raise EvidenceError("another format of evidence")
        checkpoint, signed_by = proved_checkpoint(body, public_key)
        events = [_verified(item, checkpoint) for item in body["events"]]
        return VerifiedEvidence(
            checkpoint,
            tuple(event for event in events if isinstance(event, VerifiedEvent)),
            _in_numbers(body, events, checkpoint, signed_by),
        )
    except CheckpointError as exc:
        raise EvidenceError(str(exc)) from exc
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise EvidenceError(f"not an evidence file: {type(exc).__name__}") from exc


def proved_checkpoint(body: dict[str, Any], public_key: str) -> tuple[SignedCheckpoint, str]:
    """The checkpoint of a file, and the key that signed it: the trusted one, or one to which that handed over.

    Raises:
        CheckpointError: none of them did.
    """
    key = keys_after(parse_verifier(public_key), body.get("key_chain", []))[-1]
    try:
        return verify_checkpoint(body["checkpoint"], key), str(key)
    except CheckpointError as exc:
        what_to_do = "if the log's key was lost and replaced, get the new audit.pub by another way than this file"
        raise CheckpointError(f"{exc}; {what_to_do}") from exc


def _exported(log: AuditLog, event: Event | DamagedEvent, size: int, *, with_content: bool) -> dict[str, Any]:
    if isinstance(event, DamagedEvent):
        return {"sequence": event.sequence, "damaged": event.problem}
    item: dict[str, Any] = {
        "header": encode_header(event.header).decode(),
        "proof": [_base64(value) for value in log.inclusion_proof(event.sequence, size)],
    }
    if with_content and event.sealed is not None:
        item["salt"] = _base64(event.sealed.salt)
        item["content"] = event.sealed.content_bytes().decode()
    return item


def _in_numbers(
    body: dict[str, Any], events: list[VerifiedEvent | int], checkpoint: SignedCheckpoint, signed_by: str
) -> ProvenEvents:
    """What is proven and what is not; holes between the events are named, so that nobody takes them for a range."""
    numbers = sorted(event if isinstance(event, int) else event.header.sequence for event in events)
    if len(set(numbers)) != len(numbers):
        raise EvidenceError("an event stands in it twice")
    first, last = (numbers[0], numbers[-1]) if numbers else (0, -1)
    proven = ProvenEvents(checkpoint, signed_by, first, last, left_out=body.get("with_content") is False)
    proven.log_fault = body["log_fault"] if isinstance(body.get("log_fault"), str) else None
    proven.missing = [(left + 1, right - 1) for left, right in pairwise(numbers) if right > left + 1]
    for event in events:
        if isinstance(event, int):
            proven.damaged.append(event)
        else:
            proven.count(event.header, has_content=event.content is not None)
    return proven


def _verified(item: dict[str, Any], checkpoint: SignedCheckpoint) -> VerifiedEvent | int:
    """Numbered checks: 1 the header is one, 2 it is in the tree, 3 the content is what the header commits to.

    Returns the number alone of an event that was damaged before it was exported.
    """
    if "damaged" in item:
        if type(item["sequence"]) is not int:
            raise EvidenceError("a damaged event has no number")
        return int(item["sequence"])
    leaf = item["header"].encode()
    try:
        header = parse_header(leaf)  # 1
    except ValueError as exc:
        raise EvidenceError(str(exc)) from exc
    proof = [base64.b64decode(value, validate=True) for value in item["proof"]]
    try:  # 2
        merkle.verify_inclusion(merkle.leaf_hash(leaf), header.sequence - 1, checkpoint.size, proof, checkpoint.root)
    except merkle.ProofError as exc:
        raise EvidenceError(str(exc), header.sequence) from exc
    if "content" not in item:
        return VerifiedEvent(header, None)
    content = item["content"].encode()
    if sha256(base64.b64decode(item["salt"], validate=True) + content).digest() != header.commitment:  # 3
        raise EvidenceError("its content is not what was recorded", header.sequence)
    decoded = json.loads(content)
    return VerifiedEvent(header, Content(decoded["text"], details_of(header.action, decoded["details"])))


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
