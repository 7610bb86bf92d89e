"""The signer: puts its signature only on what continues what it signed before, and remembers that outside the database.

    signer = LogSigner(log, state_dir)      # the recorder keeps one; a command makes one
    checkpoint = signer.sign()

Numbered checks before each signature (signing_checks.py repeats the numbers):
1. The ledger is the one this signer remembers, or, when it starts, a whole one by itself.
2. The database's log has the name that the ledger has.
3. The key is the one that the ledger names.
4. The log has what the last signed checkpoint covers: not fewer events, and the same root.
5. The events since then, recomputed, give the new root, and a consistency proof leads from the old root to it.
6. A stretch of older events, in turn, is as it was.
7. The checkpoints in the database and in files are ones that were signed.

A failed check is a finding: it goes into the ledger and the log, and nothing is signed until a reviewer acknowledges it
(findings.py). Not covered: somebody who stops the appliance and puts every file of state/ back to an older state shows
an older site. Only a checkpoint that has left the machine reveals that (`appliance audit verify --against`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from appliance.audit import ledger_file
from appliance.audit.daily import daily_notes, daily_path, write_daily
from appliance.audit.details.review import KeyReplaced
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.fault import Fault, LogBrokenError
from appliance.audit.findings import (
    failed_verification,
    find_acknowledgement,
    forget_fault,
    keep_fault,
    marked_fault,
    record_finding,
)
from appliance.audit.keys import has_key, load_any_signer, publish_key, settle_key, stage_key
from appliance.audit.ledger import LedgerReader, LedgerState, read_ledger
from appliance.audit.ledger_file import Stamp
from appliance.audit.log import AuditLog, RecordError
from appliance.audit.note import CheckpointError, SignedCheckpoint, Signer, Verifier, note_hash, verify_checkpoint
from appliance.audit.parts import check_tree
from appliance.audit.recheck import RECHECKED_EVENTS
from appliance.audit.rounds import Rounds
from appliance.audit.signed_by import words_of_foreign_database
from appliance.audit.signing_checks import (
    broken,
    check_copies,
    check_daily,
    check_published,
    checked_root,
    key_in_force,
    key_named_in_log,
    signer_of_earlier_release,
    strays,
)
from appliance.audit.statement import Kind, Statement
from appliance.audit.stored import forget_notes, newest_note, store_note
from appliance.audit.stored_tree import LogDamagedError
from appliance.audit.tree import accepted_ranges
from appliance.database.transactions import now_us

_FAULTS_IN_FINDING = 20
AHEAD_US = 60 * 1_000_000  # more than a time service corrects in a step once it has found the time
REREAD_TURNS = 1440  # the whole ledger is read again once a day, at a turn a minute


def boottime_us() -> int:
    """Microseconds since the machine started, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class LogSigner:
    """Signs one log; remembers what it signed for as long as it lives."""

    def __init__(
        self, log: AuditLog, state_dir: Path, *,
        clock_us: Callable[[], int] = now_us, elapsed_us: Callable[[], int] = boottime_us, rounds: Rounds | None = None,
    ) -> None:  # fmt: skip
        """Sign `log`.

        Args:
            elapsed_us: a clock that nobody can set and that goes on while the machine sleeps.
            rounds: which older events are checked again at each turn.
        """
        self._log, self._clock_us, self._elapsed_us = log, clock_us, elapsed_us
        self._rounds = rounds or Rounds(RECHECKED_EVENTS)
        self._turn_us: tuple[int, int] | None = None  # clock and elapsed time at the last turn
        self._audit_dir, self._state_dir = state_dir / "audit", state_dir
        self._state: LedgerState | None = None
        self._tail = b""  # the last line of the ledger as it was written or read
        self._seen: Stamp | None = None  # the ledger's stamp at that time
        self._turns = 0
        self._unpublished = True  # the newest checkpoint may be missing in the database

    def begin(self) -> str:
        """Make key and ledger of a site that never had any; returns the key in force, empty while a finding is open.

        Raises:
            CheckpointError, DatabaseError: as `sign`.
        """
        with ledger_file.locked(self._state_dir):
            try:
                return self._ready().key
            except LogBrokenError as exc:
                self._report(exc)
                return ""

    def sign(self) -> SignedCheckpoint | None:
        """Check what is new, sign the log as it is, keep the note in ledger, database and file; None for an empty log.

        Raises:
            LogBrokenError: something is not what was signed; nothing was signed.
            CheckpointError: a file cannot be used now.
            DatabaseError: the database cannot be used now.
        """
        with ledger_file.locked(self._state_dir):
            try:
                return self._sign()
            except LogBrokenError as exc:
                self._report(exc)
                raise

    def rotate_key(self, *, by: Actor) -> Verifier:
        """Have the present key sign a new one, which signs from now on; the event holds what it signed.

        Raises:
            LogBrokenError, CheckpointError, DatabaseError: as `sign`; the old key stays in force.
        """
        with ledger_file.locked(self._state_dir):
            try:
                state = self._ready()
                present = key_in_force(self._log, self._state_dir, state)
            except LogBrokenError as exc:
                self._report(exc)
                raise
            if state.open_finding:
                raise broken(f"the key is not replaced while {state.open_finding} is not acknowledged")
            new = stage_key(self._state_dir, state.origin)
            self._state_kind(present, "key", {"key": str(new.verifier)})
            settle_key(self._state_dir, state.origin, state.key)
            content = Content(f"{present.verifier} -> {new.verifier}", KeyReplaced(note=state.key_notes[-1]))
            self._log.append(NewEvent(by, "signing_key_replaced", subject=str(new.verifier), content=content))
            self._sign()
            return new.verifier

    def _sign(self) -> SignedCheckpoint | None:
        state = self._ready()
        if state.open_finding:
            state = self._past_finding(state)
        with self._log.database.read() as connection:
            found = marked_fault(connection) or failed_verification(connection, state.signed_size)
        if found:  # by a full verification
            raise broken(found)
        signer = key_in_force(self._log, self._state_dir, state)
        size, root = checked_root(self._log, state, self._rounds)
        check_published(self._log, state, may_be_missing=self._unpublished)
        if size == 0:
            return None
        self._state_clock(signer, state)
        checkpoint = SignedCheckpoint(state.origin, size, root, max(self._clock_us(), state.newest_us), state.last_hash)
        path = daily_path(self._audit_dir, checkpoint, state.chain)
        check_daily(self._log, path, state)
        note = signer.sign(checkpoint)
        self._unpublished = True
        self._append(note)
        store_note(self._log.database, size, note)
        self._unpublished = False
        write_daily(path, note)
        return checkpoint

    # -- the ledger as it is

    def _ready(self) -> LedgerState:
        """The ledger's state, read to its end. (1)"""
        if self._state is None:
            self._state = self._read()
        else:
            self._state = self._caught_up(self._state)
        return self._state

    def _read(self) -> LedgerState:
        """Read the whole ledger, or begin one."""
        wanted = {note_hash(note): name for name, note in daily_notes(self._audit_dir).items()}
        newest = newest_note(self._log.database)
        if newest is not None:
            wanted[note_hash(newest)] = "the newest checkpoint in the database"
        unseen = dict(wanted)

        def drop(mark: str) -> None:
            unseen.pop(mark, None)

        seen = ledger_file.stamp_of(self._audit_dir)
        state = read_ledger(self._audit_dir, after_checkpoint=lambda _, mark, _chain: drop(mark))
        if state is None:
            return self._new_ledger(newest)
        settle_key(self._state_dir, state.origin, state.key)
        self._state, self._tail, self._seen = state, self._last_line(state.end), self._without_torn_line(state, seen)
        if state.open_finding is None:
            if state.torn and not state.faults:
                self._state_kind(key_in_force(self._log, self._state_dir, state), "repaired", {})
            check_copies(state, self._audit_dir, newest, unseen)
        return state

    def _caught_up(self, known: LedgerState) -> LedgerState:
        """The ledger with what another signer of this site appended; what this one knows must still be there.

        A file that nobody touched need not be read, but once a day: the kernel's clock may give two writes one time.
        """
        seen = ledger_file.stamp_of(self._audit_dir)
        self._turns += 1
        if seen == self._seen and self._turns % REREAD_TURNS:
            return known
        if known.open_finding:
            return known if self._last_line(known.end) == self._tail else self._lost(known)
        reached = False

        def note_when_known(state: LedgerState) -> None:
            nonlocal reached
            reached = reached or (state.entries, state.end, state.last_hash) == (
                known.entries, known.end, known.last_hash,
            )  # fmt: skip

        state = read_ledger(self._audit_dir, after_entry=note_when_known)
        if state is None:
            raise broken(f"state/audit/{ledger_file.NAME} was removed while the appliance ran")
        if not reached:
            raise broken(f"state/audit/{ledger_file.NAME} is not what this appliance wrote into it")
        if state.faults:
            raise LogBrokenError([Fault(0, 0, fault) for fault in state.faults])
        if state.key != known.key and len(state.key_notes) == len(known.key_notes):
            raise broken("the ledger goes on with another key, which the key in force did not sign")
        self._tail, self._seen = self._last_line(state.end), self._without_torn_line(state, seen)
        return state

    def _without_torn_line(self, state: LedgerState, seen: Stamp | None) -> Stamp | None:
        """The stamp of the file as it was read, after a line that is not whole was removed."""
        if not state.torn:
            return seen
        ledger_file.cut_torn_line(self._audit_dir, state.end)
        return ledger_file.stamp_of(self._audit_dir)

    def _lost(self, known: LedgerState) -> LedgerState:
        raise broken(f"state/audit/{ledger_file.NAME} no longer holds {known.open_finding}")

    def _new_ledger(self, newest: str | None) -> LedgerState:
        """Begin a ledger: for a new site, or for one that an earlier release signed without one."""
        settle_key(self._state_dir, self._log.origin, None)
        self._state = state = LedgerState()
        facts: dict[str, object] = {}
        if newest is not None or daily_notes(self._audit_dir):
            signer = signer_of_earlier_release(self._log, self._state_dir, newest)
            checkpoint = verify_checkpoint(newest or "", signer.verifier)
            facts = {"size": checkpoint.size, "root": checkpoint.root.hex()}
        else:
            known = key_named_in_log(self._log)
            if known is not None or has_key(self._state_dir):
                raise broken(words_of_foreign_database(known))
            signer = stage_key(self._state_dir, self._log.origin)
        state.origin = self._log.origin
        self._state_kind(signer, "began", {"key": str(signer.verifier), **facts})
        settle_key(self._state_dir, state.origin, state.key)
        return state

    # -- findings

    def _report(self, exc: LogBrokenError) -> None:
        """Write the finding into ledger and log, where it is not yet."""
        state = self._state = self._state or LedgerState()
        if state.open_finding is None or self._lost_line(state):
            state.findings = [finding for finding in state.findings if finding.acknowledged]
            origin = state.origin or self._log.origin
            faults = [str(fault) for fault in exc.faults[:_FAULTS_IN_FINDING]]
            more = len(exc.faults) - len(faults)
            faults += [f"and {more} more"] if more else []
            statement = Statement(origin, "finding", self._clock_us(), state.last_hash, {"faults": faults})
            signer = load_any_signer(self._state_dir, origin)
            body = statement.body()
            self._append(signer.sign_text(body) if signer else f"{body}\n", where_it_ends=True)
        if state.open_finding:
            keep_fault(self._log.database, str(state.open_finding))
            with suppress(RecordError):  # a log that cannot be continued: the ledger and every page tell of it
                record_finding(self._log, state.open_finding)

    def _lost_line(self, state: LedgerState) -> bool:
        try:
            return self._last_line(state.end) != self._tail
        except CheckpointError:
            return True

    def _past_finding(self, state: LedgerState) -> LedgerState:
        """Begin a new chain if a reviewer acknowledged the open finding.

        Raises:
            LogBrokenError: nobody has.
        """
        finding = state.open_finding
        if finding is None:
            return state
        seen = find_acknowledgement(self._log, finding)
        if seen is None:
            raise broken(f"{finding}; a reviewer must acknowledge it before anything is signed again")
        origin = self._log.stored_origin()
        with self._log.database.read() as connection:
            report = check_tree(connection)
        try:
            root = self._log.root(report.size)
        except LogDamagedError as exc:
            raise broken(f"{exc}: the log cannot be continued; restore the database from a copy") from exc
        signer = load_any_signer(self._state_dir, origin)
        if signer is None:
            signer = stage_key(self._state_dir, origin)
        facts = {
            "finding": finding.id, "by": seen.by, "event": seen.sequence, "reason": seen.reason,
            "key": str(signer.verifier), "size": report.size, "root": root.hex(),
            "accepted": accepted_ranges(report.faults, report.size), "strays": strays(self._audit_dir),
        }  # fmt: skip
        state.origin = origin
        self._state_kind(signer, "acknowledged", facts)
        settle_key(self._state_dir, origin, state.key)
        publish_key(self._state_dir, signer)
        forget_notes(self._log.database)
        forget_fault(self._log.database)
        return state

    # -- writing

    def _state_kind(self, signer: Signer, kind: Kind, facts: dict[str, object]) -> None:
        """Append a statement."""
        if self._state is None:
            raise RuntimeError("internal error: a statement before the ledger was read")
        statement = Statement(signer.name, kind, self._clock_us(), self._state.last_hash, facts)
        self._append(signer.sign_text(statement.body()))

    def _state_clock(self, signer: Signer, state: LedgerState) -> None:
        """Say that the clock was set back, or ahead since the last turn: running on, it would show another time."""
        now, elapsed = self._clock_us(), self._elapsed_us()
        if now < state.newest_us:
            self._state_kind(signer, "clock", {"from": state.newest_us})
        elif self._turn_us is not None and now - (expected := self._turn_us[0] + elapsed - self._turn_us[1]) > AHEAD_US:
            self._state_kind(signer, "clock", {"expected": expected})
        self._turn_us = now, elapsed

    def _append(self, note: str, *, where_it_ends: bool = False) -> None:
        """Write a note and take it into the state. A finding follows whatever the file holds now (where_it_ends)."""
        state = self._state
        if state is None:
            raise RuntimeError("internal error: a note before the ledger was read")
        line = ledger_file.line_of(note)
        self._seen = ledger_file.append_note(self._audit_dir, note, follows=self._seen, anywhere=where_it_ends)
        self._tail = line
        if where_it_ends:
            state.end = self._seen[1] - len(line)
        reader = LedgerReader(state)
        reader.add(line)
        reader.finish()
        if not where_it_ends and (self._seen[1] != state.end or ledger_file.stamp_of(self._audit_dir) != self._seen):
            raise broken(f"state/audit/{ledger_file.NAME} was changed while the appliance ran")

    def _last_line(self, end: int) -> bytes:
        """The line that ends at byte `end`."""
        try:
            with (self._audit_dir / ledger_file.NAME).open("rb") as file:
                file.seek(max(end - 1_000_000, 0))
                data = file.read(min(end, 1_000_000))
        except OSError as exc:
            raise CheckpointError(f"state/audit/{ledger_file.NAME}: cannot be read: {exc.strerror}") from exc
        return data[data.rfind(b"\n", 0, -1) + 1 :]
