"""Proves an extract (`appliance.audit.extract`) on any machine, line by line, and says what it does not prove.

Numbered checks: 1 the signed checkpoint has a signature by the key, or by one that it handed over to; 2 each line is
an event with the next number; 3 a content is what its header commits to; 4 with the hashes before and after them the
events make the root that is signed; 5 the file ends where it says.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, BinaryIO

from appliance.audit import merkle
from appliance.audit.event import parse_header
from appliance.audit.evidence import EvidenceError, ProvenEvents, proved_checkpoint
from appliance.audit.extract import FORMAT, MAX_LINE_BYTES
from appliance.audit.merkle import Subtree, TreeStack, aligned
from appliance.audit.note import CheckpointError


def is_extract(beginning: bytes) -> bool:
    """Whether a file that begins so is an extract."""
    return beginning.startswith(json.dumps({"format": FORMAT}, separators=(",", ":")).encode()[:-1])


def verify_extract(file: BinaryIO, public_key: str) -> ProvenEvents:
    """Prove every event of the file against `public_key` (the line in audit.pub), trusting nothing else.

    Raises:
        EvidenceError: the file is not an extract, or something in it does not follow.
    """
    try:
        return _verified(_lines(file), public_key)
    except CheckpointError as exc:
        raise EvidenceError(str(exc)) from exc
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise EvidenceError(f"not an extract: {type(exc).__name__}") from exc


def _verified(lines: Iterator[dict[str, Any]], public_key: str) -> ProvenEvents:
    head = next(lines, {})
    if head.get("format") != FORMAT:
        raise EvidenceError("another format of evidence")
    checkpoint, signed_by = proved_checkpoint(head, public_key)  # 1
    first, last = _whole(head["first"]), _whole(head["last"])
    if not 1 <= first <= last <= checkpoint.size:
        raise EvidenceError(f"it speaks of the events {first} to {last}, and {checkpoint.size} were signed")
    proven = ProvenEvents(checkpoint, signed_by, first, last, left_out=not head["with_content"])
    proven.log_fault = head["log_fault"] if isinstance(head["log_fault"], str) else None
    tree = TreeStack()
    _push(tree, aligned(0, first - 1), head["before"])
    for sequence in range(first, last + 1):
        line = next(lines, None)
        if line is None or not ("header" in line or "damaged" in line):
            raise EvidenceError("the file is cut off: it is not there", sequence)
        tree.push(0, _leaf(line, sequence, proven))
    end = next(lines, None)
    if end is None or next(lines, None) is not None or end["events"] != last - first + 1:  # 5
        raise EvidenceError("the file does not end where its events end")
    _push(tree, aligned(last, checkpoint.size), end["after"])
    if tree.root() != checkpoint.root:  # 4
        raise EvidenceError("its events do not make the tree that was signed: one was changed, left out or put in")
    return proven


def _leaf(line: dict[str, Any], sequence: int, proven: ProvenEvents) -> bytes:
    """The event's hash; counts whether its content is proven."""
    if "damaged" in line:
        if line["sequence"] != sequence:
            raise EvidenceError("another event stands in its place", sequence)
        proven.damaged.append(sequence)
        return _hash(line["leaf"])
    data = line["header"].encode()
    header = parse_header(data)
    if header.sequence != sequence:  # 2
        raise EvidenceError("another event stands in its place", sequence)
    content = None
    if "content" in line:
        content = line["content"].encode()
        if sha256(base64.b64decode(line["salt"], validate=True) + content).digest() != header.commitment:  # 3
            raise EvidenceError("its content is not what was recorded", sequence)
    proven.count(header, has_content=content is not None)
    return merkle.leaf_hash(data)


def _push(tree: TreeStack, subtrees: Sequence[Subtree], hashes: list[str]) -> None:
    if len(hashes) != len(subtrees):
        raise EvidenceError("the hashes beside its events are not as many as they must be")
    for subtree, value in zip(subtrees, hashes, strict=True):
        tree.push(subtree.level, _hash(value))


def _hash(text: str) -> bytes:
    value = base64.b64decode(text, validate=True)
    if len(value) != merkle.HASH_BYTES:
        raise ValueError("a hash of another length")
    return value


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError("not a whole number")
    return value


def _lines(file: BinaryIO) -> Iterator[dict[str, Any]]:
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES or not line.endswith(b"\n"):
            raise EvidenceError("the file is cut off within a line, or a line is too long")
        body = json.loads(line)
        if not isinstance(body, dict):
            raise ValueError("a line is not an object")
        yield body
