"""The signer's own file, state/audit/ledger.txt: everything it ever signed, in order, outside the database.

Each line is one signed note as a JSON string: a signed checkpoint, or a statement (statement.py). Each names the hash
of the note before it, so that whoever has one checkpoint can tell whether anything before it was changed or taken out.
The file is only appended to and is on the disk before what it holds is published.

`read_ledger` goes through the whole file. It recomputes every hash; of a run of entries by one key it checks the last
signature, which covers all of them through their hashes, and that of every statement but findings.

What this covers: a changed, removed or inserted line; a line that the key in force did not sign. What it does not: a
file cut back to an earlier end looks like an earlier file. Only the running signer's memory, the database and an
exported checkpoint show that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from appliance.audit.ledger_file import NAME
from appliance.audit.note import (
    CheckpointError,
    SignedCheckpoint,
    note_hash,
    parse_checkpoint,
    parse_verifier,
    verify_note,
)
from appliance.audit.statement import BEGINNING, Statement, is_statement, parse_statement
from appliance.database.transactions import as_iso
from appliance.plain_file import open_plain

_TAIL_BYTES = 200_000  # a finding may be long
MAX_LEDGER_FAULTS = 100

AfterCheckpoint = Callable[[SignedCheckpoint, str, str], None]


@dataclass(frozen=True)
class Finding:
    """Something that was not as it had been signed, and who has acknowledged it since."""

    id: str
    time_us: int
    faults: tuple[str, ...]
    acknowledged: Statement | None = None

    def __str__(self) -> str:
        if self.acknowledged is None:
            return f"finding {self.id} of {as_iso(self.time_us)}: {'; '.join(self.faults)}"
        by, reason = (self.acknowledged.facts.get(name) for name in ("by", "reason"))
        when = as_iso(self.acknowledged.time_us)
        return (
            f"finding {self.id} of {as_iso(self.time_us)}, acknowledged by {by} on {when} ({reason}): "
            f"{'; '.join(self.faults)}"
        )


def finding_of(statement: Statement, note: str) -> Finding:
    """The finding that a statement tells of, named after its note."""
    faults = statement.facts.get("faults", ())
    words = tuple(str(fault) for fault in faults) if isinstance(faults, list) else ()
    return Finding(note_hash(note)[:8], statement.time_us, words or ("nothing is known of it",))


@dataclass
class LedgerState:
    """What the entries so far amount to."""

    end: int = 0  # bytes
    entries: int = 0
    last_hash: str = BEGINNING
    origin: str = ""
    keys: list[str] = field(default_factory=list)  # of this chain, in signed-note's form; the last is in force
    signed_size: int = 0  # with signed_root: what the log must continue
    signed_root: bytes | None = None
    newest_us: int = 0
    last_note: str = ""  # the newest checkpoint of this chain
    chain: str = ""  # the finding after whose acknowledgement signing began anew
    accepted: tuple[tuple[int, int], ...] = ()  # events that are known to be damaged
    findings: list[Finding] = field(default_factory=list)
    key_notes: list[str] = field(default_factory=list)  # each names a new key, signed by the one before it
    remarks: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    torn: bool = False  # the last line is not whole
    adopted_size: int = 0  # what an earlier release had signed without a ledger
    strays: frozenset[str] = frozenset()  # `stray_mark` of files that a reviewer knows to be of a lost ledger

    @property
    def key(self) -> str:
        """The key in force."""
        return self.keys[-1] if self.keys else ""

    @property
    def open_finding(self) -> Finding | None:
        """The finding that nobody has acknowledged yet."""
        return self.findings[-1] if self.findings and self.findings[-1].acknowledged is None else None

    def add_fault(self, message: str) -> None:
        if len(self.faults) < MAX_LEDGER_FAULTS:
            self.faults.append(message)


class LedgerReader:
    """Adds entries to a state, in order."""

    def __init__(self, state: LedgerState, *, after_checkpoint: AfterCheckpoint | None = None) -> None:
        """Args: after_checkpoint: told each checkpoint with its note's hash and its chain."""
        self.state = state
        self._after_checkpoint = after_checkpoint
        self._unproved: str | None = None  # the newest note whose signature is still to be checked

    def add(self, line: bytes) -> None:
        """The next line, its end included."""
        state = self.state
        state.end += len(line)
        state.entries += 1
        try:
            self._add_note(json.loads(line))
        except (CheckpointError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as exc:
            state.add_fault(f"entry {state.entries} of state/audit/{NAME}: {exc}")

    def finish(self) -> None:
        """Check the signature that is still to be checked."""
        note, self._unproved = self._unproved, None
        if note is not None:
            self._prove(note)

    def _prove(self, note: str) -> None:
        try:
            verify_note(note, parse_verifier(self.state.key))
        except (CheckpointError, ValueError) as exc:
            self.state.add_fault(f"entry {self.state.entries} of state/audit/{NAME} or one before it: {exc}")

    def _add_note(self, note: str) -> None:
        state = self.state
        body = note.rpartition("\n\n")[0] + "\n"
        found = parse_statement(body) if is_statement(body) else parse_checkpoint(body, body.partition("\n")[0])
        if found.previous != state.last_hash:
            state.add_fault(f"entry {state.entries} of state/audit/{NAME} does not follow the entry before it")
        state.last_hash = note_hash(note)
        if isinstance(found, Statement):
            self._add_statement(found, note)
        else:
            self._add_checkpoint(found, note)

    def _add_checkpoint(self, checkpoint: SignedCheckpoint, note: str) -> None:
        """Numbered checks: 1 the log's name, 2 the size, 3 the time, 4 no finding is open."""
        state = self.state
        where = f"entry {state.entries} of state/audit/{NAME}"
        if checkpoint.origin != state.origin:  # 1
            state.add_fault(f"{where} is of another log, {checkpoint.origin}")
        if checkpoint.size < state.signed_size:  # 2
            state.add_fault(f"{where} signs {checkpoint.size} events after {state.signed_size} were signed")
        if checkpoint.time_us < state.newest_us:  # 3
            state.add_fault(f"{where} bears a time before the entry before it")
        if state.open_finding:  # 4
            state.add_fault(f"{where} was signed before finding {state.open_finding.id} was acknowledged")
        state.signed_size, state.signed_root = checkpoint.size, checkpoint.root
        state.newest_us = checkpoint.time_us
        state.last_note = self._unproved = note
        if self._after_checkpoint:
            self._after_checkpoint(checkpoint, state.last_hash, state.chain)

    def _add_statement(self, statement: Statement, note: str) -> None:
        state, facts = self.state, statement.facts
        self.finish()
        if statement.kind == "finding":
            if state.open_finding is None:
                state.findings.append(finding_of(statement, note))
            return
        if statement.kind == "began":
            self._begin(statement)
        elif statement.kind == "acknowledged":
            self._begin_anew(statement)
        self._prove(note)
        if statement.kind == "key":
            state.keys.append(str(facts["key"]))
            state.key_notes.append(note)
            state.remarks.append(f"the signing key was replaced at {as_iso(statement.time_us)}; the old one signed it")
        elif statement.kind == "clock":
            how, before_us = ("ahead", facts["expected"]) if "expected" in facts else ("back", state.newest_us)
            state.remarks.append(f"the clock went {how} from {as_iso(before_us)} to {as_iso(statement.time_us)}")
        elif statement.kind == "repaired":
            when = as_iso(statement.time_us)
            state.remarks.append(f"a half-written last line of state/audit/{NAME} was removed at {when}")
        state.newest_us = statement.time_us

    def _begin(self, statement: Statement) -> None:
        state, facts = self.state, statement.facts
        if state.entries != 1:
            state.add_fault(f"entry {state.entries} of state/audit/{NAME} begins a ledger in the middle of one")
        state.origin, state.keys = statement.origin, [str(facts["key"])]
        if "root" in facts:
            state.signed_size, state.signed_root = int(facts["size"]), bytes.fromhex(facts["root"])
            state.adopted_size = state.signed_size
            if self._after_checkpoint:
                base = SignedCheckpoint(state.origin, state.signed_size, state.signed_root, statement.time_us)
                self._after_checkpoint(base, state.last_hash, "")
            state.remarks.append(f"an earlier release signed the first {state.signed_size} events without a ledger")

    def _begin_anew(self, statement: Statement) -> None:
        """What was wrong before is known from now on: it belongs to the finding."""
        state, facts = self.state, statement.facts
        finding = state.open_finding
        if finding is None or finding.id != facts["finding"]:
            state.add_fault(f"entry {state.entries} of state/audit/{NAME} acknowledges a finding that is not open")
            return
        faults = finding.faults + tuple(fault for fault in state.faults if fault not in finding.faults)
        state.findings[-1] = Finding(finding.id, finding.time_us, faults, statement)
        state.faults = []
        state.origin, state.keys, state.chain = statement.origin, [str(facts["key"])], finding.id
        state.signed_size, state.signed_root = int(facts["size"]), bytes.fromhex(facts["root"])
        state.accepted = tuple((int(first), int(last)) for first, last in facts["accepted"])
        state.strays |= frozenset(map(str, facts.get("strays", ())))
        state.adopted_size, state.last_note = 0, ""


def read_tail(audit_dir: Path) -> tuple[str, Finding | None] | None:
    """The newest checkpoint, as a note, and the finding that nobody has acknowledged yet; None without a ledger.

    It reads only the end of the file and proves nothing: for the badge on every page.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = audit_dir / NAME
    try:
        with open_plain(path) as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read: {exc.strerror}") from exc
    finding: Finding | None = None
    for line in reversed(lines):
        try:
            note = str(json.loads(line))
            body = note.rpartition("\n\n")[0] + "\n"
            statement = parse_statement(body) if is_statement(body) else None
        except (CheckpointError, ValueError, TypeError, AttributeError, RecursionError):
            continue
        if statement is None:
            return note, finding
        if statement.kind == "finding":
            finding = finding_of(statement, note)
        elif statement.kind in ("acknowledged", "began"):
            break
    return "", finding


def read_ledger(
    audit_dir: Path,
    *,
    after_checkpoint: AfterCheckpoint | None = None,
    after_entry: Callable[[LedgerState], None] | None = None,
) -> LedgerState | None:
    """Go through the whole file; None when there is none.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = audit_dir / NAME
    reader = LedgerReader(LedgerState(), after_checkpoint=after_checkpoint)
    try:
        with open_plain(path) as file:
            for line in file:
                if line.endswith(b"\n"):
                    reader.add(line)
                    if after_entry:
                        after_entry(reader.state)
                else:
                    reader.state.torn = True
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read: {exc.strerror}") from exc
    reader.finish()
    return reader.state


def stray_mark(mark: str) -> str:
    """How an acknowledgement names a checkpoint whose note has the hash `mark`: half of it, for ten years of files."""
    return mark[:32]
