"""An extract: every event of a range in a file of lines, with what proves that none of the range is missing.

    {"format": .., "checkpoint": note, "first": 7, "last": 1000, "with_content": true, "before": [hashes], ..}
    {"header": .., "salt": .., "content": ..}                    one line for each event, in order
    {"sequence": 9, "damaged": "why", "leaf": hash}              where the database holds no event any more
    {"events": 994, "after": [hashes]}

``before`` and ``after`` are hashes of complete subtrees left and right of the range: with the events between them they
make the root that the checkpoint signs, so no event needs a proof of its own and the file is written and checked in the
memory of a few events. Each line is at most `MAX_LINE_BYTES`. `extract_check` proves it on any machine.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from appliance.audit.checkpoint import mark_exported
from appliance.audit.details.review import RangeExported
from appliance.audit.event import Actor, Content, NewEvent, encode_header
from appliance.audit.evidence import EvidenceError, SignedLog, sign_for_evidence
from appliance.audit.log import AuditLog, Event
from appliance.audit.merkle import aligned
from appliance.audit.rows import DamagedEvent, stream_events
from appliance.database.transactions import as_iso, now_us

FORMAT: Final = "gpt-oss-appliance extract 1"
MAX_LINE_BYTES: Final = 256 * 1024 * 1024
_TOLD_EVENTS: Final = 1000


@dataclass(frozen=True)
class Extract:
    """What was written."""

    first: int
    last: int
    damaged: int


def write_extract(
    log: AuditLog, state_dir: Path, out: BinaryIO, first: int, last: int, *, by: Actor, with_content: bool = True,
    progress: Callable[[int, int], None] | None = None, clock_us: Callable[[], int] = now_us,
) -> Extract:  # fmt: skip
    """Write the events `first` to `last`. The export is recorded first.

    Raises:
        EvidenceError: the log has no such events, they are not signed, or one cannot be put into the tree.
        OSError: it cannot be written.
        RecordError, LogBrokenError, CheckpointError, DatabaseError: nothing or not all is written.
    """
    last = min(last, log.size())
    if not 1 <= first <= last:
        raise EvidenceError("no event exists in this range")
    chosen = Content(f"events {first} to {last}", RangeExported(first=first, last=last, with_content=with_content))
    event = log.append(NewEvent(by, "evidence_exported", content=chosen))
    signed = sign_for_evidence(log, state_dir, last, clock_us=clock_us)
    lines = _lines(log, signed, first, last, by=by, with_content=with_content, made_us=clock_us())
    damaged = 0
    for count, line in enumerate(lines):
        damaged += "damaged" in line
        out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        if progress and count % _TOLD_EVENTS == 0:
            progress(count, last - first + 1)
    mark_exported(log.database, event)
    return Extract(first, last, damaged)


def _lines(
    log: AuditLog, signed: SignedLog, first: int, last: int, *, by: Actor, with_content: bool, made_us: int
) -> Iterator[dict[str, Any]]:
    yield {
        "format": FORMAT,
        "made_at": as_iso(made_us),
        "made_by": by.name,
        "public_key": signed.public_key,
        "key_chain": signed.key_chain,
        "checkpoint": signed.note,
        "log_fault": signed.fault,
        "first": first,
        "last": last,
        "with_content": with_content,
        "before": [_base64(value) for value in log.stored_hashes(aligned(0, first - 1))],
    }
    expected = first
    for event in stream_events(log.database, first, last):
        if event.sequence != expected:
            break
        yield _event_line(event, with_content=with_content)
        expected += 1
    if expected <= last:
        raise EvidenceError("it is missing, and without it no range across it can be proved", expected)
    after = log.stored_hashes(aligned(last, signed.size))
    yield {"events": last - first + 1, "after": [_base64(value) for value in after]}


def _event_line(event: Event | DamagedEvent, *, with_content: bool) -> dict[str, Any]:
    if isinstance(event, DamagedEvent):
        if event.leaf is None:
            raise EvidenceError("its hash is gone, and without it no range across it can be proved", event.sequence)
        return {"sequence": event.sequence, "damaged": event.problem, "leaf": _base64(event.leaf)}
    line: dict[str, Any] = {"header": encode_header(event.header).decode()}
    if with_content and event.sealed is not None:
        line["salt"] = _base64(event.sealed.salt)
        line["content"] = event.sealed.content_bytes().decode()
    return line


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
