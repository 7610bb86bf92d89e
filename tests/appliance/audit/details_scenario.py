"""Makes events of every action that has details, by the code that makes them in the appliance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from appliance.audit.checkpoint import keep_verdict
from appliance.audit.details.denials import BodyTooLarge, KeyLimitReached, QuotaReached, ScopeMissing
from appliance.audit.details.exchange import ConversationExported, ConversationImported
from appliance.audit.details.markings import ConversationMarked
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.evidence import export_evidence
from appliance.audit.extract import write_extract
from appliance.audit.fault import Fault
from appliance.audit.findings import acknowledge, record_finding
from appliance.audit.ledger import Finding
from appliance.audit.log import AuditLog
from appliance.audit.repeated import RepeatedDenials
from appliance.audit.review import Filter, read_event, search
from appliance.audit.signer import LogSigner
from appliance.audit.upgrade import _event as _upgraded
from appliance.audit.verify import verify_log
from appliance.people.allowance import PromptTooLargeError, QuotaSpentError, RefusedError
from appliance.runtime.packed_watch import packed_event, read_packed
from appliance.runtime.recorder import _event_of, _record_return, _stopped
from appliance.runtime.release_watch import comparison
from appliance.turns.events import AnswerDelta, EngineEvent, Failed, Started, ToolCallDelta
from appliance.turns.interrupted import _close
from appliance.turns.request import Message, Tool, ToolCall, TurnRequest
from appliance.turns.run import run_turn
from installer.formats.manifest import MANIFEST, RECEIPT, Entry, encode_manifest
from tests.fakes import FakeEngine, done

ADA = Actor("a1", "ada", "web", "10.0.0.1")
REQUEST = TurnRequest(
    id="turn-1", user="a1", seed=5, effort="high", temperature=0.5, max_tokens=100, stop=("END",), grammar=True,
    messages=(
        Message("system", "Be brief."),
        Message("user", "Which time is it?"),
        Message("assistant", "", "I look.", (ToolCall("c1", "clock", "{}"),)),
        Message("tool", "noon", tool_call_id="c1", name="clock"),
        Message("user", "And now? Ω"),
    ),
    tools=(Tool("clock", "the time", {"type": "object", "properties": {"zone": {}, "area": {}}}), Tool("end", "")),
)  # fmt: skip
SHORT = TurnRequest(id="turn-2", user="a1", seed=2**53, messages=(Message("user", "Hello"),))
SILENCE = {"layers": [{"name": "seccomp", "in_force": True}], "files_abi": 4}
RELEASE = {"version": "1.0", "manifest_sha256": "ab" * 32}
NOTES = (
    {"event": "started", "summary": "silent", "watched": True, "silence": SILENCE, "release": RELEASE},
    {"event": "started", "summary": "silent", "watched": False, "silence": SILENCE, "release": None},
    {"event": "process_ended", "process": "engine", "how": "signal SIGKILL", "ran_s": 3.25},
    {"event": "process_paused", "process": "engine", "how": "stopped by signal SIGSTOP"},
    {
        "event": "attempt_refused", "kind": "web", "call": "socket", "pid": 77, "arguments": [2, 1, 0, 0, 0, 0],
        "count": 3, "first_us": 1_795_398_974_059_955,
    },
    {"event": "watch_ended"},
)  # fmt: skip


def events_of_every_kind(log: AuditLog, directory: Path) -> None:
    """Append them to the log, whose state directory and release are made under `directory`."""
    _turns(log)
    _denials(log)
    _looks(log, directory)
    _life(log)
    _release(log, directory)
    _findings(log, directory)


def _turns(log: AuditLog) -> None:
    with FakeEngine() as engine:
        list(run_turn(log, engine.client, ADA, REQUEST, conversation_id=None))
    with FakeEngine(_call_and_fail) as engine:
        list(run_turn(log, engine.client, ADA, SHORT, conversation_id="c1"))
    with FakeEngine(lambda _: [done(notice="Nothing came.", malformed=True, finish_reason="length")]) as engine:
        list(run_turn(log, engine.client, ADA, SHORT, conversation_id="c1"))
    with FakeEngine() as engine:
        turn = run_turn(log, engine.client, ADA, SHORT, conversation_id="c1")
        turn.begin()
        turn.close()
        lost = run_turn(log, engine.client, ADA, SHORT, conversation_id="c1")
        lost.begin()
        assert lost.prompt_event is not None
        _close(log, log.get(lost.prompt_event))


def _call_and_fail(_: TurnRequest) -> Iterable[EngineEvent]:
    yield Started(12, 0.0)
    yield AnswerDelta("half")
    yield ToolCallDelta(0, "c1", "clock", '{"zone":')
    yield Failed("overloaded", "The model has too many requests waiting.", 2.5)


def _denials(log: AuditLog) -> None:
    denials = RepeatedDenials(log.append, clock_s=lambda: 7.0)
    first, second = (Actor("", "", "web", f"2001:db8::{number}") for number in (1, 2))
    for actor, page in ((first, "admin.index"), (first, "review.index"), (second, "admin.index")):
        denials.record(actor, "missing_role", page)
    refusals: tuple[RefusedError, ...] = (
        PromptTooLargeError(100, 50, "cd" * 32), QuotaSpentError(1 << 20, is_first=True, retry_after_s=3.0),
    )  # fmt: skip
    for refusal in refusals:
        denials.record(ADA, refusal.code, "chat.ask", refusal.details)
    denials.record(ADA, "body_too_large", "chat.ask", BodyTooLarge(size_bytes=77))
    denials.record(second, "body_too_large", "chat.ask", BodyTooLarge(size_bytes=None))
    denials.record_due(all_of_it=True)


def _looks(log: AuditLog, directory: Path) -> None:
    search(log, ADA, Filter())
    search(
        log, ADA, Filter(text="nothing like it", actions=("answer",), user="ada", since_us=1, until_us=2, subject="s")
    )
    search(log, ADA, Filter(actions=("prompt", "answer")), before=4)
    read_event(log, ADA, 1)
    keep_verdict(log, verify_log(log.database, directory), by=ADA)
    LogSigner(log, directory).sign()
    keep_verdict(log, verify_log(log.database, directory), by=ADA)
    export_evidence(log, directory, [1, 2], by=ADA)
    with (directory / "extract").open("wb") as out:
        write_extract(log, directory, out, 1, 3, by=ADA, with_content=False)


def _life(log: AuditLog) -> None:
    for note in NOTES:
        log.append(_event_of(json.loads(json.dumps(note)), log, "the key"))
    log.append(_stopped({"why": "signal SIGTERM"}))
    log.append(_event_of(dict(NOTES[1]), log, ""))
    log.append(_stopped(None))
    log.append(_event_of(dict(NOTES[1]), log, ""))


def _release(log: AuditLog, directory: Path) -> None:
    release = directory / "releases" / "1.0"
    release.mkdir(parents=True)
    (release / "release.json").write_bytes(b"{}")
    (release / "release.json").chmod(0o444)
    modified = (release / "release.json").stat().st_mtime_ns
    sealed = encode_manifest({"release.json": Entry(2, hashlib.sha256(b"{}").hexdigest(), modified)})
    (release / MANIFEST).write_bytes(sealed)
    (release / RECEIPT).write_text(json.dumps({"manifest_sha256": hashlib.sha256(sealed).hexdigest()}))
    log.append(comparison(release))
    packed = directory / "packed" / "1.0"
    packed.mkdir(parents=True)
    for data in (b"one", b"one", b"two", b"two"):
        (packed / "packed.bin").write_bytes(data)
        found = read_packed(release, packed.parent)
        assert found is not None
        log.append(packed_event(log, release, found, anew=data == b"two"))
    (packed / "packed.json").write_bytes(b"{}")
    found = read_packed(release, packed.parent)
    assert found is not None
    log.append(packed_event(log, release, found, anew=False))
    (release / "release.json").chmod(0o644)
    (release / "release.json").write_bytes(b"[]")
    (release / "more").write_bytes(b"")
    log.append(comparison(release))
    (release / MANIFEST).unlink()
    log.append(comparison(release))


def _findings(log: AuditLog, directory: Path) -> None:
    LogSigner(log, directory).rotate_key(by=ADA)
    finding = Finding("00112233", 1, ("events 91 to 100: missing at the end", "another"))
    record_finding(log, finding)
    acknowledge(log, finding, "00112233", "seen", by=ADA)
    log.append(NewEvent(ADA, "conversation_deleted", subject="c1"))
    log.append(NewEvent(ADA, "response_deleted", subject="resp_1"))
    for details in (
        ScopeMissing(key="a key", scope="models"),
        KeyLimitReached(key="a key", limit=60, of="requests a minute"),
        QuotaReached(limit=5, of="requests a day", whose="the group North"),
    ):
        log.append(NewEvent(ADA, "denied", "denied", "api.chat", Content("a refused key", details)))
    intact = replace(verify_log(log.database, None), faults=())
    log.append(_upgraded("0002", intact, ADA, None))
    log.append(_upgraded("0002", replace(intact, root=None, faults=(Fault(1, 2, "gone"),)), ADA, "it is known"))
    left = {"left": "2.0", "to": "1.0", "why": "did not become ready in 3 starts", "at": "2026-11-30T12:00:00+00:00"}
    _record_return(left, log)
    _record_return(left, log)  # every later start brings the same message
    exported = ConversationExported(form="html", messages=4, sha256="ef" * 32)
    log.append(NewEvent(ADA, "conversation_exported", subject="c1", content=Content("A title", exported)))
    imported = ConversationImported(source="ChatGPT", messages=2, left_out=1, sha256="ef" * 32)
    log.append(NewEvent(ADA, "conversation_imported", subject="c2", content=Content("A title\n\nHello", imported)))
    for before, after, cause in (("", "SECRET", ""), ("SECRET", "TOP SECRET", "plan.txt")):
        marked = ConversationMarked(before=before, after=after, cause=cause)
        log.append(NewEvent(ADA, "conversation_marked", subject="c2", content=Content("", marked)))
