"""Evidence: chosen events, each with its proof, under one signed checkpoint, in a file that another machine can check.

The file is JSON. Each event carries the exact bytes of its header (what the tree holds) and, if wanted and not erased,
salt and exact bytes of its content (what the header commits to). Whoever checks it needs this package, the file and the
log's public key, which should have come by another way than the file.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from appliance.audit import merkle
from appliance.audit.checkpoint import mark_exported, newest_note, write_checkpoint
from appliance.audit.event import Actor, Content, Header, NewEvent, encode_header, parse_header
from appliance.audit.log import AuditLog, Event
from appliance.audit.note import Checkpoint, CheckpointError, load_verifier, parse_verifier, verify_checkpoint
from appliance.database import as_iso, now_us
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


@dataclass(frozen=True)
class VerifiedEvidence:
    """What a file proves."""

    checkpoint: Checkpoint
    events: tuple[VerifiedEvent, ...]


def export_evidence(
    log: AuditLog,
    state_dir: Path,
    sequences: Sequence[int],
    *,
    by: Actor,
    with_content: bool = True,
    clock_us: Callable[[], int] = now_us,
) -> bytes:
    """The file for the events with these numbers; that it was made is recorded before.

    Raises:
        EventNotFoundError: there is no such event.
        RecordError: the export could not be recorded; there is no file.
        LogBrokenError, CheckpointError: the log could not be signed; there is no file.
    """
    events = [log.get(sequence) for sequence in sequences]
    chosen = Content(f"{len(events)} events", {"sequences": list(sequences), "with_content": with_content})
    log.append(NewEvent(by, "evidence_exported", content=chosen))
    checkpoint = write_checkpoint(log, state_dir, clock_us=clock_us)
    verifier, note = load_verifier(state_dir / "keys"), newest_note(log.database)
    if checkpoint is None or verifier is None or note is None:
        raise RuntimeError("internal error: a log with an event has no checkpoint")
    size = verify_checkpoint(note, verifier).size  # perhaps a later one than ours
    body = {
        "format": FORMAT,
        "made_at": as_iso(clock_us()),
        "made_by": by.name,
        "public_key": str(verifier),
        "checkpoint": note,
        "events": [_exported(log, event, size, with_content=with_content) for event in events],
    }
    mark_exported(log.database, clock_us())
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
        checkpoint = verify_checkpoint(body["checkpoint"], parse_verifier(public_key))
        return VerifiedEvidence(checkpoint, tuple(_verified(item, checkpoint) for item in body["events"]))
    except CheckpointError as exc:
        raise EvidenceError(str(exc)) from exc
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise EvidenceError(f"not an evidence file: {type(exc).__name__}") from exc


def _exported(log: AuditLog, event: Event, size: int, *, with_content: bool) -> dict[str, Any]:
    item: dict[str, Any] = {
        "header": encode_header(event.header).decode(),
        "proof": [_base64(value) for value in log.inclusion_proof(event.header.sequence, size)],
    }
    if with_content and event.sealed is not None:
        item["salt"] = _base64(event.sealed.salt)
        item["content"] = event.sealed.content_bytes().decode()
    return item


def _verified(item: dict[str, Any], checkpoint: Checkpoint) -> VerifiedEvent:
    """Numbered checks: 1 the header is one, 2 it is in the tree, 3 the content is what the header commits to."""
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
    return VerifiedEvent(header, Content(decoded["text"], decoded["details"]))


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
