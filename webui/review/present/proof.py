"""Checks now whether one event is proved, and says so in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance.audit.event import encode_header
from appliance.audit.log import AuditLog, Event
from appliance.audit.merkle import ProofError, leaf_hash, verify_inclusion
from appliance.audit.note import CheckpointError, SignedCheckpoint, load_verifier, verify_checkpoint
from appliance.audit.review import ReadEvent
from appliance.audit.rows import DamagedEvent
from appliance.audit.stored import newest_note
from appliance.audit.stored_tree import LogDamagedError
from appliance.database.transactions import as_iso


@dataclass(frozen=True)
class PageProof:
    """`words` when the event is proved, else `problem`."""

    words: str = ""
    problem: str | None = None


def prove(log: AuditLog, state_dir: Path, read: ReadEvent) -> PageProof:
    """Check three things of the event.

    (1) Its content is the content that it commits to. (2) It is a leaf of the present tree. (3) It is a leaf of the
    tree whose root the newest checkpoint signs, once a checkpoint covers it.
    """
    if read.unproved is not None:
        return PageProof(problem=f"The record lacks what would prove it: {read.unproved}.")
    leaf, index = _leaf_of(read.event), read.sequence - 1
    if leaf is None:
        return PageProof(problem="Its row cannot be read as an event, so it is not the one that was recorded.")
    if not _content_fits(read.event):  # (1)
        return PageProof(problem="Its content is not the content that was recorded: the digests differ.")
    try:
        verify_inclusion(leaf, index, read.tree_size, read.proof, log.root(read.tree_size))  # (2)
        signed = _signed(log, state_dir)
        if signed is None or signed.size < read.sequence:
            return PageProof("It is in the record. The next checkpoint, due within a minute, will sign it.")
        path = log.inclusion_proof(read.sequence, signed.size)
        verify_inclusion(leaf, index, signed.size, path, signed.root)  # (3)
    except ProofError as exc:
        return PageProof(problem=f"It does not lead to the root of the record: {exc}.")
    except (CheckpointError, LogDamagedError) as exc:
        return PageProof(problem=f"The newest checkpoint cannot be used: {exc}.")
    return PageProof(
        f"It is in the tree of {signed.size:,} events whose root was signed at "
        f"{as_iso(signed.time_us)[:19].replace('T', ' ')} UTC."
    )


def _leaf_of(event: Event | DamagedEvent) -> bytes | None:
    """The hash of the header as it is now; None if it cannot be encoded."""
    try:
        return None if event.header is None else leaf_hash(encode_header(event.header))
    except (ValueError, TypeError, OverflowError, AttributeError):  # a damaged header may hold anything
        return None


def _content_fits(event: Event | DamagedEvent) -> bool:
    """Whether the content is what the header commits to. Erased content fits."""
    if isinstance(event, DamagedEvent):
        return event.content_fits
    if event.sealed is None:
        return True
    return event.sealed.commitment() == event.header.commitment


def _signed(log: AuditLog, state_dir: Path) -> SignedCheckpoint | None:
    """The newest checkpoint, its signature checked; None before the first.

    Raises:
        CheckpointError: its signature is wrong, or the public key is missing.
    """
    note, verifier = newest_note(log.database), load_verifier(state_dir / "keys")
    if note is None:
        return None
    if verifier is None:
        raise CheckpointError("the public key is missing")
    return verify_checkpoint(note, verifier)
