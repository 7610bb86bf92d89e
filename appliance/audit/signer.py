"""The signer: puts its signature only on what continues what it signed before, and remembers that outside the database.

    signer = LogSigner(log, state_dir)      # the recorder keeps one; a command makes one
    checkpoint = signer.sign()

Numbered checks before each signature (the code repeats the numbers):
1. The ledger is the one this signer remembers, or, when it starts, a whole one by itself.
2. The database's log has the name that the ledger has.
3. The key is the one that the ledger names.
4. The log has what the last checkpoint signed: not fewer events, and the same root.
5. The events since then, recomputed, give the new root, and a consistency proof leads from the old root to it.
6. A stretch of older events, in turn, is as it was.
7. The checkpoints in the database and in files are ones that were signed.

What does not fit is a finding: it goes into the ledger and the log, and nothing is signed until a reviewer acknowledges
it (findings.py). What is left: who stops the appliance and puts every file of state/ back to an older state shows an
older site. Only a checkpoint that left the machine tells (`appliance audit verify --against`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from appliance.audit import ledger, merkle
from appliance.audit.daily import daily_notes, daily_path, present_checkpoint, write_daily
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.fault import Fault, LogBrokenError
from appliance.audit.findings import find_acknowledgement, forget_fault, keep_fault, marked_fault, record_finding
from appliance.audit.keys import (
    KeyUnreadableError,
    has_key,
    load_any_signer,
    load_signer,
    publish_key,
    settle_key,
    stage_key,
)
from appliance.audit.ledger import LedgerReader, LedgerState
from appliance.audit.log import AuditLog, LogDamagedError, RecordError
from appliance.audit.note import (
    Checkpoint,
    CheckpointError,
    Signer,
    Verifier,
    note_hash,
    parse_verifier,
    verify_checkpoint,
)
from appliance.audit.parts import check_tree
from appliance.audit.recheck import check_stretch, recheck_older
from appliance.audit.signed_by import signing_key_in_log, words_of_foreign_database
from appliance.audit.statement import Kind, Statement
from appliance.audit.stored import forget_notes, largest_size, newest_note, note_of_size, store_note
from appliance.audit.tree import accepted_ranges
from appliance.database import now_us

_FAULTS_IN_FINDING = 20


class LogSigner:
    """Signs one log; remembers what it signed for as long as it lives."""

    def __init__(self, log: AuditLog, state_dir: Path, *, clock_us: Callable[[], int] = now_us) -> None:
        self._log, self._clock_us = log, clock_us
        self._audit_dir, self._state_dir = state_dir / "audit", state_dir
        self._state: LedgerState | None = None
        self._tail = b""  # the last line of the ledger as it was written or read
        self._seen: tuple[int, ...] | None = None  # the ledger's stamp at that time
        self._unpublished = True  # the newest checkpoint may be missing in the database

    def begin(self) -> str:
        """Make key and ledger of a site that never had any; returns the key in force, empty while a finding is open.

        Raises:
            CheckpointError, DatabaseError: as `sign`.
        """
        with ledger.locked(self._audit_dir):
            try:
                return self._ready().key
            except LogBrokenError as exc:
                self._report(exc)
                return ""

    def sign(self) -> Checkpoint | None:
        """Check what is new, sign the log as it is, keep the note in ledger, database and file; None for an empty log.

        Raises:
            LogBrokenError: something is not what was signed; nothing was signed.
            CheckpointError: a file cannot be used now.
            DatabaseError: the database cannot be used now.
        """
        with ledger.locked(self._audit_dir):
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
        with ledger.locked(self._audit_dir):
            try:
                state = self._ready()
                present = self._signer(state)
            except LogBrokenError as exc:
                self._report(exc)
                raise
            if state.open_finding:
                raise _broken(f"the key is not replaced while {state.open_finding} is not acknowledged")
            new = stage_key(self._state_dir, state.origin)
            self._state_kind(present, "key", {"key": str(new.verifier)})
            settle_key(self._state_dir, state.origin, state.key)
            content = Content(f"{present.verifier} -> {new.verifier}", {"note": state.key_notes[-1]})
            self._log.append(NewEvent(by, "signing_key_replaced", subject=str(new.verifier), content=content))
            self._sign()
            return new.verifier

    def _sign(self) -> Checkpoint | None:
        state = self._ready()
        if state.open_finding:
            state = self._past_finding(state)
        with self._log.database.read() as connection:
            marked = marked_fault(connection)
        if marked:  # a full verification found it
            raise _broken(marked)
        signer = self._signer(state)
        size, root = self._checked_root(state)
        self._check_published(state)
        if size == 0:
            return None
        if self._clock_us() < state.newest_us:
            self._state_kind(signer, "clock", {"from": state.newest_us})
        checkpoint = Checkpoint(state.origin, size, root, max(self._clock_us(), state.newest_us), state.last_hash)
        path = daily_path(self._audit_dir, checkpoint, state.chain)
        self._check_daily(path, state)
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

        state = ledger.read_ledger(self._audit_dir, after_checkpoint=lambda _, mark, _chain: drop(mark))
        if state is None:
            return self._new_ledger(newest)
        settle_key(self._state_dir, state.origin, state.key)
        if state.torn:
            ledger.cut_torn_line(self._audit_dir, state.end)
        self._state, self._tail, self._seen = state, self._last_line(state.end), self._stamp()
        if state.open_finding is None:
            if state.torn and not state.faults:
                self._state_kind(self._signer(state), "repaired", {})
            self._compare(state, unseen, wanted)
        return state

    def _compare(self, state: LedgerState, unseen: dict[str, str], wanted: dict[str, str]) -> None:
        """What a ledger that was just read disagrees with."""
        faults = [*state.faults]
        notes = daily_notes(self._audit_dir)
        newest = newest_note(self._log.database)
        for mark, name in unseen.items():
            note = notes.get(wanted[mark], newest)
            if not (state.adopted_size and note and _is_adopted(note, state)):
                faults.append(f"{name} is not among what the ledger says was signed")
        if faults:
            raise LogBrokenError([Fault(0, 0, fault) for fault in faults])

    def _caught_up(self, known: LedgerState) -> LedgerState:
        """The ledger with what another signer of this site appended; what this one knows must still be there.

        A file that nobody touched need not be read: who writes into it cannot set its ctime.
        """
        if self._stamp() == self._seen:
            return known
        if known.open_finding:
            return known if self._last_line(known.end) == self._tail else self._lost(known)
        reached = False

        def note_when_known(state: LedgerState) -> None:
            nonlocal reached
            reached = reached or (state.entries, state.end, state.last_hash) == (
                known.entries, known.end, known.last_hash,
            )  # fmt: skip

        state = ledger.read_ledger(self._audit_dir, after_entry=note_when_known)
        if state is None:
            raise _broken(f"state/audit/{ledger.NAME} was removed while the appliance ran")
        if not reached:
            raise _broken(f"state/audit/{ledger.NAME} is not what this appliance wrote into it")
        if state.faults:
            raise LogBrokenError([Fault(0, 0, fault) for fault in state.faults])
        if state.key != known.key and len(state.key_notes) == len(known.key_notes):
            raise _broken("the ledger goes on with another key, which the key in force did not sign")
        if state.torn:
            ledger.cut_torn_line(self._audit_dir, state.end)
        self._tail, self._seen = self._last_line(state.end), self._stamp()
        return state

    def _lost(self, known: LedgerState) -> LedgerState:
        raise _broken(f"state/audit/{ledger.NAME} no longer holds {known.open_finding}")

    def _stamp(self) -> tuple[int, ...] | None:
        """What changes when anybody writes into the ledger."""
        try:
            found = (self._audit_dir / ledger.NAME).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _new_ledger(self, newest: str | None) -> LedgerState:
        """Begin a ledger: for a new site, or for one that an earlier release signed without one."""
        settle_key(self._state_dir, self._log.origin, None)
        self._state = state = LedgerState()
        facts: dict[str, object] = {}
        if newest is not None or daily_notes(self._audit_dir):
            signer = self._signer_of_earlier_release(newest)
            checkpoint = verify_checkpoint(newest or "", signer.verifier)
            facts = {"size": checkpoint.size, "root": checkpoint.root.hex()}
        else:
            known = self._signing_key_in_log()
            if known is not None or has_key(self._state_dir):
                raise _broken(words_of_foreign_database(known))
            signer = stage_key(self._state_dir, self._log.origin)
        state.origin = self._log.origin
        self._state_kind(signer, "began", {"key": str(signer.verifier), **facts})
        settle_key(self._state_dir, state.origin, state.key)
        return state

    def _signer_of_earlier_release(self, newest: str | None) -> Signer:
        """The key that made the checkpoints of a site without a ledger, all of which must be of that time."""
        if self._signing_key_in_log() is not None:
            raise _broken(f"the signer's own file, state/audit/{ledger.NAME}, is missing")
        try:
            signer = load_signer(self._state_dir, self._log.origin)
            for note in [newest or "", *daily_notes(self._audit_dir).values()]:
                checkpoint = verify_checkpoint(note, signer.verifier)
                if checkpoint.previous:
                    raise _broken(f"the signer's own file, state/audit/{ledger.NAME}, is missing")
        except KeyUnreadableError:
            raise
        except CheckpointError as exc:
            raise _broken(str(exc)) from exc
        return signer

    def _signing_key_in_log(self) -> str | None:
        with self._log.database.read() as connection:
            return signing_key_in_log(connection)

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
            with suppress(
                RecordError
            ):  # a log that cannot be continued: the ledger tells of it, and so does every page
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
            raise _broken(f"{finding}; a reviewer must acknowledge it before anything is signed again")
        origin = self._log.stored_origin()
        with self._log.database.read() as connection:
            report = check_tree(connection)
        try:
            root = self._log.root(report.size)
        except LogDamagedError as exc:
            raise _broken(f"{exc}: the log cannot be continued; restore the database from a copy") from exc
        signer = load_any_signer(self._state_dir, origin)
        if signer is None:
            signer = stage_key(self._state_dir, origin)
        facts = {
            "finding": finding.id, "by": seen.by, "event": seen.sequence, "reason": seen.reason,
            "key": str(signer.verifier), "size": report.size, "root": root.hex(),
            "accepted": accepted_ranges(report.faults, report.size),
        }  # fmt: skip
        state.origin = origin
        self._state_kind(signer, "acknowledged", facts)
        settle_key(self._state_dir, origin, state.key)
        publish_key(self._state_dir, signer)
        forget_notes(self._log.database)
        forget_fault(self._log.database)
        return state

    # -- checks

    def _signer(self, state: LedgerState) -> Signer:
        """The key in force. (2, 3)"""
        origin = self._log.stored_origin()
        if origin != state.origin:
            raise _broken(f"the database holds the log {origin}, and {state.origin} was signed here")
        try:
            signer = load_signer(self._state_dir, state.origin)
        except KeyUnreadableError:
            raise
        except CheckpointError as exc:
            raise _broken(str(exc)) from exc
        if str(signer.verifier) != state.key:
            raise _broken("state/signer/audit.key is not the key that signed the last checkpoint")
        return signer

    def _checked_root(self, state: LedgerState) -> tuple[int, bytes]:
        """Size and root of the log. (4, 5, 6)"""
        log, signed = self._log, state.signed_size
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
        recheck_older(log, signed, state.accepted)
        return size, root

    def _check_published(self, state: LedgerState) -> None:
        """The newest checkpoint in the database is the newest that was signed; put it there if it never was. (7)"""
        database = self._log.database
        largest = largest_size(database)
        if largest is not None and largest > state.signed_size:
            raise _broken(f"the database holds a checkpoint of {largest} events, which was not signed")
        if not state.last_note:
            return
        stored = note_of_size(database, state.signed_size)
        if stored == state.last_note:
            return
        if self._unpublished:
            store_note(database, state.signed_size, state.last_note)
        elif stored is None:
            raise _broken(f"the checkpoint of {state.signed_size} events was removed from the database")
        else:
            raise _broken(f"the checkpoint of {state.signed_size} events in the database is not the signed one")

    def _check_daily(self, path: Path, state: LedgerState) -> None:
        """The file that is about to be replaced holds what the log continues. (7)"""
        try:
            present = present_checkpoint(path, [parse_verifier(key) for key in state.keys])
            if present is None:
                return
            if present.size > state.signed_size or self._log.root(present.size) != present.root:
                raise _broken(f"state/audit/{path.name} holds a checkpoint that the log does not continue")
        except (CheckpointError, LogDamagedError) as exc:
            raise _broken(str(exc)) from exc

    # -- writing

    def _state_kind(self, signer: Signer, kind: Kind, facts: dict[str, object]) -> None:
        """Append a statement."""
        if self._state is None:
            raise RuntimeError("internal error: a statement before the ledger was read")
        statement = Statement(signer.name, kind, self._clock_us(), self._state.last_hash, facts)
        self._append(signer.sign_text(statement.body()))

    def _append(self, note: str, *, where_it_ends: bool = False) -> None:
        """Write a note and take it into the state. A finding follows whatever the file holds now (where_it_ends)."""
        state = self._state
        if state is None:
            raise RuntimeError("internal error: a note before the ledger was read")
        stamp = None if where_it_ends else self._stamp()
        if not where_it_ends and (stamp[1] if stamp else 0) != state.end:  # since it was compared, a moment ago
            raise _broken(f"state/audit/{ledger.NAME} was changed while the appliance ran")
        ledger.append_note(self._audit_dir, note)
        line = ledger.line_of(note)
        if where_it_ends:
            state.end = (self._audit_dir / ledger.NAME).stat().st_size - len(line)
        reader = LedgerReader(state)
        reader.add(line)
        reader.finish()
        self._tail, self._seen = line, self._stamp()
        if not where_it_ends and (self._seen is None or self._seen[1] != state.end):
            raise _broken(f"state/audit/{ledger.NAME} was changed while the appliance ran")

    def _last_line(self, end: int) -> bytes:
        """The line that ends at byte `end`."""
        try:
            with (self._audit_dir / ledger.NAME).open("rb") as file:
                file.seek(max(end - 1_000_000, 0))
                data = file.read(min(end, 1_000_000))
        except OSError as exc:
            raise CheckpointError(f"state/audit/{ledger.NAME}: cannot be read: {exc.strerror}") from exc
        return data[data.rfind(b"\n", 0, -1) + 1 :]


def _is_adopted(note: str, state: LedgerState) -> bool:
    """Whether an earlier release signed the note, which the ledger took over when it began."""
    try:
        checkpoint = verify_checkpoint(note, parse_verifier(state.keys[0]))
    except CheckpointError:
        return False
    return not checkpoint.previous and checkpoint.size <= state.adopted_size


def _broken(message: str) -> LogBrokenError:
    return LogBrokenError([Fault(0, 0, message)])
