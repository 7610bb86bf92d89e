"""Which signed checkpoints the tree must fit, and whether those in the database and in files were really signed.

`Expected` keeps a hundred bytes for each checkpoint, not an object: a year has half a million of them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from pathlib import Path

import sqlalchemy as sa

from appliance.audit.fault import MAX_FAULTS, Fault
from appliance.audit.heirs import keys_after, keys_before
from appliance.audit.keys import has_key
from appliance.audit.ledger import LedgerState, stray_mark
from appliance.audit.merkle import HASH_BYTES
from appliance.audit.note import (
    CheckpointError,
    SignedCheckpoint,
    Verifier,
    note_hash,
    parse_verifier,
    verify_checkpoint,
)
from appliance.audit.signed_by import handovers_in_log, signing_key_in_log, words_of_foreign_database
from appliance.database.tables import audit_checkpoints

_MISSING_LEDGER = "the signer's own file, state/audit/ledger.txt, is missing"


class Expected:
    """Checkpoints that count: those of the ledger's present chain, and single ones from elsewhere."""

    def __init__(self, wanted: Iterable[str] = ()) -> None:
        """Args: wanted: hashes of notes that the ledger should hold, in whichever chain."""
        self.unseen = set(wanted)
        self._chain = ""
        self._sizes, self._times = array("q"), array("q")
        self._roots, self._hashes = bytearray(), bytearray()
        self._single: list[tuple[int, bytes, int, str]] = []  # size, root, time, where from
        self._newest: SignedCheckpoint | None = None

    def add(self, checkpoint: SignedCheckpoint, mark: str, chain: str) -> None:
        """A checkpoint of the ledger, whose note has the hash `mark`."""
        self.unseen.discard(mark)
        self.keep_chain(chain)
        if self._sizes and checkpoint.size < self._sizes[-1]:
            return  # out of order, which the ledger's reader reports
        self._sizes.append(checkpoint.size)
        self._times.append(checkpoint.time_us)
        self._roots += checkpoint.root
        self._hashes += bytes.fromhex(mark)
        self._newest = checkpoint

    def keep_chain(self, chain: str) -> None:
        """Forget what counted before `chain` began."""
        if chain == self._chain:
            return
        self._chain = chain
        self._sizes, self._times = array("q"), array("q")
        self._roots, self._hashes = bytearray(), bytearray()
        self._newest = None

    def add_single(self, checkpoint: SignedCheckpoint, name: str = "") -> None:
        """A checkpoint that is not in the ledger. ``name`` says where an exported one comes from."""
        self._single.append((checkpoint.size, checkpoint.root, checkpoint.time_us, name))
        self._single.sort()
        if not name and (self._newest is None or checkpoint.size >= self._newest.size):
            self._newest = checkpoint

    def sizes_in_order(self) -> Iterator[int]:
        """Each size once, smallest first."""
        last = None
        for size in merge(self._sizes, (single[0] for single in self._single)):
            if size != last:
                yield size
            last = size

    def at(self, size: int) -> Iterator[tuple[bytes, int, str]]:
        """(root, time, where from) of every checkpoint of this size."""
        for index in self._indexes(size):
            yield bytes(self._roots[index * HASH_BYTES : (index + 1) * HASH_BYTES]), self._times[index], ""
        for single_size, root, time_us, name in self._single:
            if single_size == size:
                yield root, time_us, name

    def largest(self) -> tuple[int, int, str] | None:
        """(size, time, where from) of the largest."""
        found = [(size, time_us, name) for size, _, time_us, name in self._single]
        if self._sizes:
            found.append((self._sizes[-1], self._times[-1], ""))
        return max(found, default=None, key=lambda item: item[0])

    def newest(self) -> SignedCheckpoint | None:
        """The site's newest."""
        return self._newest

    def count(self) -> int:
        return len(self._sizes) + len(self._single)

    def holds(self, size: int, mark: str) -> bool:
        """Whether the ledger's chain holds this note."""
        return any(self._hash(index) == mark for index in self._indexes(size))

    def unstored(self, stored: array[int]) -> Iterator[int]:
        """Sizes of the ledger's chain that are not among `stored`; the newest may not have arrived yet."""
        newest, position = self._sizes[-1] if self._sizes else 0, 0
        last = None
        for size in self._sizes:
            if size in (last, newest):
                continue
            last = size
            position = bisect_left(stored, size, position)
            if position == len(stored) or stored[position] != size:
                yield size

    def _indexes(self, size: int) -> range:
        return range(bisect_left(self._sizes, size), bisect_right(self._sizes, size))

    def _hash(self, index: int) -> str:
        return self._hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES].hex()


def compare_with_ledger(
    connection: sa.Connection, state: LedgerState, files: dict[str, str], expected: Expected
) -> list[Fault]:
    """Faults of the checkpoints in the database and in files: each must be one that the ledger holds."""
    faults: list[Fault] = []
    if state.open_finding:
        return faults
    stored = array("q")
    for size, note in connection.execute(sa.select(audit_checkpoints).order_by(audit_checkpoints.c.size)):
        stored.append(size)
        if not expected.holds(size, note_hash(note)):
            problem = _adopt(note, size, state, expected)
            if problem and len(faults) < MAX_FAULTS:
                faults.append(Fault(size, size, f"the checkpoint stored for {size} events: {problem}"))
    for size in expected.unstored(stored):
        if len(faults) < MAX_FAULTS:
            faults.append(Fault(size, size, f"the checkpoint of {size} events was removed from the database"))
    for name, note in files.items():
        if note_hash(note) in expected.unseen and stray_mark(note_hash(note)) not in state.strays:
            problem = _adopt(note, None, state, expected)
            if problem:
                faults.append(Fault(0, 0, f"state/audit/{name}: {problem}"))
    return faults


def check_without_ledger(
    connection: sa.Connection, state_dir: Path | None, trusted: Verifier | None, files: dict[str, str], origin: str,
    expected: Expected,
) -> list[Fault]:  # fmt: skip
    """Faults of the checkpoints where there is no ledger: a database alone, or a site that an earlier release signed or
    that nobody has signed."""
    faults = _signed_notes(connection, trusted, files, expected, with_ledger=state_dir is None)
    if trusted is not None and expected.count() and trusted.name != origin:
        faults.append(Fault(0, 0, f"the database holds the log {origin}, and {trusted} signs {trusted.name}"))
    if state_dir is None:
        if trusted is not None and not expected.count() and not faults:
            faults.append(Fault(0, 0, f"this database was not signed by this key, {trusted}"))
        return faults
    known = signing_key_in_log(connection)
    if known is not None or (has_key(state_dir) and not expected.count() and not faults):
        faults.append(Fault(0, 0, words_of_foreign_database(known)))
    return faults


def verified_by_any(note: str, keys: Sequence[Verifier]) -> SignedCheckpoint:
    """The checkpoint of a note that one of the keys signed.

    Raises:
        CheckpointError: none did.
    """
    problem = CheckpointError("there is no public key to check it with")
    for key in reversed(keys):
        try:
            return verify_checkpoint(note, key)
        except CheckpointError as exc:
            problem = exc
    raise problem


def _adopt(note: str, size: int | None, state: LedgerState, expected: Expected) -> str | None:
    """Take in a checkpoint of an earlier release, or say what is wrong with the note."""
    try:
        checkpoint = verified_by_any(note, [parse_verifier(key) for key in state.keys])
    except CheckpointError as exc:
        return str(exc)
    if size is not None and checkpoint.size != size:
        return f"it is for {checkpoint.size} events"
    if checkpoint.previous or checkpoint.size > state.adopted_size:
        return "the ledger does not hold it"
    expected.add_single(checkpoint)
    return None


def _signed_notes(
    connection: sa.Connection, trusted: Verifier | None, files: dict[str, str], expected: Expected, *, with_ledger: bool
) -> list[Fault]:
    """Every checkpoint with a good signature goes into `expected`; each other one is a fault."""
    faults: list[Fault] = []
    rows = connection.execute(sa.select(audit_checkpoints).order_by(audit_checkpoints.c.size))
    sources: list[tuple[str, int | None, str]] = [
        *((f"the checkpoint stored for {row.size} events", row.size, row.note) for row in rows),
        *((f"state/audit/{name}", None, note) for name, note in files.items()),
    ]
    if trusted is None:
        missing = "there are checkpoints, but the public key state/keys/audit.pub is missing"
        return [Fault(0, 0, missing)] if sources else []
    handovers = handovers_in_log(connection)
    keys, older = keys_after(trusted, [note for _, note in handovers]), keys_before(trusted, handovers)
    for where, size, note in reversed(sources):  # largest first: an older key signed smaller sizes than the trusted one
        try:
            checkpoint = verified_by_any(note, keys if size is None or not expected.count() else [*older, *keys])
        except CheckpointError as exc:
            faults.append(Fault(size or 0, size or 0, f"{where}: {exc}"))
            continue
        if size is not None and checkpoint.size != size:
            faults.append(Fault(size, size, f"{where}: it is for {checkpoint.size} events"))
        elif checkpoint.previous and not with_ledger:
            return [Fault(0, 0, _MISSING_LEDGER)]
        else:
            expected.add_single(checkpoint)
    return faults
