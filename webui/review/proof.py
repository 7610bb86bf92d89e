"""Whether one event is proved, checked now, in words for the reviewer."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.audit.event import encode_header
from appliance.audit.log import AuditLog
from appliance.audit.merkle import ProofError, leaf_hash, verify_inclusion
from appliance.audit.review import ReadEvent


@dataclass(frozen=True)
class ProofView:
    """`words` when the event is proved, else `problem`."""

    words: str = ""
    problem: str | None = None


def prove(log: AuditLog, read: ReadEvent) -> ProofView:
    """Check (1) that the content is the one the event commits to, (2) that the event is a leaf of the tree."""
    header, sealed = read.event.header, read.event.sealed
    if sealed is not None and sealed.commitment() != header.commitment:  # (1)
        return ProofView(problem="Its content is not the content that was recorded: the digests differ.")
    try:
        leaf = leaf_hash(encode_header(header))
        verify_inclusion(leaf, header.sequence - 1, read.tree_size, read.proof, log.root(read.tree_size))  # (2)
    except ProofError as exc:
        return ProofView(problem=f"It does not lead to the root of the record: {exc}.")
    return ProofView(f"It leads to the root of the record's {read.tree_size:,} events.")
