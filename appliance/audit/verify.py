"""Checks the stored log against itself and against everything that was signed, and says which events are broken.

1. The tree of the events (tree.py).
2. The signer's ledger (ledger.py): whole, of this log, by the key in state/keys/audit.pub.
3. Each signed checkpoint of the ledger, of an earlier release, or brought by the caller: the tree had its root at its
   size.
4. Each checkpoint in the database and in files is one that the ledger holds; none was taken away.
5. A log that names its signer, or a key that has signed, has a ledger.

Damage that a reviewer acknowledged is told as such and is no fault. Only check 3 detects a log that was rewritten
consistently; it names the stretch between two checkpoints. If the ledger and the key were rewritten, too, only an
exported checkpoint (``against``) shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from appliance.audit.daily import daily_notes
from appliance.audit.fault import Fault
from appliance.audit.heirs import keys_after
from appliance.audit.ledger import Finding, LedgerState, read_ledger
from appliance.audit.ledger_file import unchanging
from appliance.audit.note import CheckpointError, SignedCheckpoint, Verifier, load_verifier, note_hash, parse_verifier
from appliance.audit.parts import TreeReport, check_tree
from appliance.audit.signatures import Expected, check_without_ledger, compare_with_ledger, verified_by_any
from appliance.audit.signed_by import key_notes_in_log
from appliance.audit.stored_tree import log_size
from appliance.audit.tree import is_accepted
from appliance.database.transactions import Database, as_iso, now_us, read_setting

AHEAD_US = 300 * 1_000_000  # a newest time this far after the clock is a clock that was wrong, then or now


@dataclass(frozen=True)
class VerificationReport:
    """What `verify_log` found. ``newest`` is the largest checkpoint that counts.

    ``remarks`` are no faults, but a reviewer should know them; ``findings`` are all that were ever acknowledged.
    """

    size: int
    root: bytes | None  # None when events are missing
    erased: int
    checkpoints: int
    newest: SignedCheckpoint | None
    faults: tuple[Fault, ...]
    remarks: tuple[Fault, ...]
    findings: tuple[Finding, ...]
    known_damage: tuple[Fault, ...]
    duration_s: float

    @property
    def is_intact(self) -> bool:
        return not self.faults


@dataclass(frozen=True)
class Against:
    """A checkpoint from elsewhere: ``name`` says where it is from."""

    name: str
    note: str


def verify_log(
    database: Database,
    state_dir: Path | None,
    *,
    against: Sequence[Against] = (),
    key: Verifier | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
    clock_us: Callable[[], int] = now_us,
) -> VerificationReport:
    """Check everything listed above; `progress` is told (events checked, events) now and then.

    Args:
        state_dir: the site's; None for a database alone, which `key` must then have signed.
        against: checkpoints that left the site.
        key: the public key to trust instead of audit.pub.
        processes: how many may work at once; only a process without other threads may start some.
    Raises:
        DatabaseError: the database cannot be read at all.
        CheckpointError: the ledger cannot be read now.
    """
    with database.read() as connection:
        return verify_within(
            connection, state_dir, against=against, key=key, database=database, processes=processes,
            progress=progress, clock_us=clock_us,
        )  # fmt: skip


def verify_within(
    connection: sa.Connection,
    state_dir: Path | None,
    *,
    against: Sequence[Against] = (),
    key: Verifier | None = None,
    database: Database | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
    clock_us: Callable[[], int] = now_us,
) -> VerificationReport:
    """The same for what one transaction sees. Other processes (`database`) can only read what is committed."""
    began_s = time.perf_counter()
    audit_dir = None if state_dir is None else state_dir / "audit"
    faults: list[Fault] = []
    with unchanging(audit_dir):  # the snapshot of the database begins with its first query
        size, files = log_size(connection), daily_notes(audit_dir) if audit_dir else {}
        expected = Expected(note_hash(note) for note in files.values())
        state = read_ledger(audit_dir, after_checkpoint=expected.add) if audit_dir else None
    trusted, problem = _trusted(state_dir, key)
    faults += [Fault(0, 0, problem)] if problem else []
    origin = read_setting(connection, "audit_origin") or ""
    if state is None:
        faults += check_without_ledger(connection, state_dir, trusted, files, origin, expected)
    else:
        expected.keep_chain(state.chain)
        faults += _ledger_faults(state, trusted, origin) + compare_with_ledger(connection, state, files, expected)
    keys = [parse_verifier(text) for text in state.keys] if state else []
    keys += keys_after(trusted, key_notes_in_log(connection)) if trusted else []
    faults += _add_exported(expected, against, keys)
    comparison = _Comparison(expected)
    tree = check_tree(
        connection, sizes=expected.sizes_in_order(), reached=comparison.compare,
        database=database, processes=processes, progress=progress,
    )  # fmt: skip
    faults += comparison.finish(size)
    return _report(tree, faults, state, expected, clock_us(), time.perf_counter() - began_s)


def _report(
    tree: TreeReport, faults: list[Fault], state: LedgerState | None, expected: Expected, now: int, duration_s: float
) -> VerificationReport:
    accepted = state.accepted if state else ()
    known = tuple(fault for fault in tree.faults if is_accepted(fault, accepted))
    faults = sorted([*faults, *(fault for fault in tree.faults if fault not in known)], key=lambda f: (f.first, f.last))
    newest = expected.newest()
    remarks = [*tree.remarks, *(Fault(0, 0, remark) for remark in (state.remarks if state else ()))]
    if newest is not None and newest.time_us > now + AHEAD_US:
        remarks.append(
            Fault(0, 0, f"the newest checkpoint is of {as_iso(newest.time_us)}, and the clock says {as_iso(now)}")
        )
    findings = tuple(finding for finding in (state.findings if state else ()) if finding.acknowledged)
    return VerificationReport(
        tree.size, tree.root, tree.erased, expected.count(), newest, tuple(faults), tuple(remarks), findings, known,
        duration_s,
    )  # fmt: skip


def _trusted(state_dir: Path | None, key: Verifier | None) -> tuple[Verifier | None, str | None]:
    """The public key to trust, and what is wrong with it."""
    if key is not None or state_dir is None:
        return key, None
    try:
        return load_verifier(state_dir / "keys"), None
    except CheckpointError as exc:
        return None, str(exc)


def _ledger_faults(state: LedgerState, trusted: Verifier | None, origin: str) -> list[Fault]:
    faults = [Fault(0, 0, fault) for fault in state.faults]
    if state.open_finding:
        faults.append(Fault(0, 0, f"{state.open_finding}; nothing is signed until a reviewer acknowledges it"))
        return faults
    if trusted is None:
        faults.append(Fault(0, 0, "there are checkpoints, but the public key state/keys/audit.pub is missing"))
    elif str(trusted) not in state.keys:
        faults.append(Fault(0, 0, f"this database was not signed by this key: {state.key} signed it, not {trusted}"))
    if origin != state.origin:
        message = f"the database holds the log {origin or '(without a name)'}, and {state.origin} was signed here"
        faults.append(Fault(0, 0, message))
    return faults


def _add_exported(expected: Expected, against: Sequence[Against], keys: list[Verifier]) -> list[Fault]:
    """Take checkpoints from elsewhere among those that the tree is compared with."""
    faults = []
    for brought in against:
        try:
            expected.add_single(verified_by_any(brought.note, keys), brought.name)
        except CheckpointError as exc:
            faults.append(Fault(0, 0, f"{brought.name}: {exc}"))
    return faults


class _Comparison:
    """Compares what was signed with the tree as it passes each size, smallest first."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._good_size = 0
        self._reached = -1
        self._faults: list[Fault] = []

    def compare(self, size: int, root: bytes | None) -> None:
        self._reached = size
        if root is None:
            return
        for signed_root, time_us, name in self._expected.at(size):
            if root == signed_root:
                self._good_size = size
            elif name or not any(fault.first == self._good_size + 1 for fault in self._faults):
                where = f" ({name})" if name else ""
                message = f"not what was signed at {as_iso(time_us)}{where}"
                self._faults.append(Fault(self._good_size + 1, size, message))

    def finish(self, size: int) -> list[Fault]:
        largest = self._expected.largest()
        if largest is not None and largest[0] > size:
            signed_size, time_us, name = largest
            where = f" ({name})" if name else ""
            self._faults.append(
                Fault(size + 1, signed_size, f"missing at the end: they were signed at {as_iso(time_us)}{where}")
            )
        return self._faults
