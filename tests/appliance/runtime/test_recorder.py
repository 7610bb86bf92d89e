"""The recorder: what the supervisor notes becomes events, and the log is signed regularly and at the end."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

import pytest

from appliance.audit.checkpoint import integrity
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.audit.verify import verify_log
from appliance.config import Config, init_state, load_config
from appliance.database.transactions import open_database
from appliance.isolation.refused import UNWATCHED
from appliance.runtime.recorder import run_recorder
from installer.formats.trial import HEALTHY, Reached, load_reached
from tests.appliance.records import SYSTEM
from tests.waiting import wait_for

SILENCE = {"kernel": "6", "attempts": [{"way": "TCP", "answer": "EPERM"}]}
STARTED = {
    "event": "started", "summary": "1 way out tried", "watched": True, "silence": SILENCE,
    "release": {"version": "1.0", "manifest_sha256": "ab" * 32, "files": 3},
}  # fmt: skip
ATTEMPT = {
    "event": "attempt_refused", "kind": "web", "call": "setsockopt", "pid": 7, "arguments": [5, 41, 57, 0, 24, 0],
    "count": 3, "first_us": 1,
}  # fmt: skip
ENDED = {"event": "process_ended", "process": "engine", "how": "signal SIGKILL", "ran_s": 3.2}
STOPPING = {"event": "stopping", "why": "signal SIGTERM"}
pytestmark = pytest.mark.usefixtures("roomy_disk")  # a full disk is an event of its own
ADA = Actor("a1", "ada", "web", "10.0.0.1")


@contextmanager
def opened(config: Config) -> Iterator[AuditLog]:
    database = open_database(config.database_url)
    yield AuditLog(database)
    database.close()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    init_state(tmp_path)
    return replace(load_config(tmp_path), checkpoint_interval_s=0.2)


class Recorder:
    """A recorder in a thread, fed through a pipe."""

    def __init__(self, config: Config) -> None:
        reader, self.writer = os.pipe()
        self.ready = threading.Semaphore(0)
        self.thread = threading.Thread(
            target=run_recorder, args=(config, reader), kwargs={"tell_ready": self.ready.release}
        )
        self.thread.start()
        self.reader = reader

    def note(self, note: Mapping[str, object]) -> None:
        os.write(self.writer, json.dumps(note).encode() + b"\n")
        assert self.ready.acquire(timeout=10)

    def end(self, *, in_order: bool = True) -> None:
        if in_order:
            os.write(self.writer, json.dumps(STOPPING).encode() + b"\n")
        os.close(self.writer)
        self.thread.join(10)
        os.close(self.reader)
        assert not self.thread.is_alive()


def test_records_start_death_and_stop_and_signs_at_the_end(config: Config) -> None:
    recorder = Recorder(config)
    recorder.note(STARTED)
    recorder.note(ENDED)
    recorder.end()
    database = open_database(config.database_url)
    log = AuditLog(database)
    events = [log.get(number) for number in range(1, log.size() + 1)]
    assert [event.header.action for event in events] == ["appliance_started", "process_ended", "appliance_stopped"]
    assert events[0].content is not None
    key = (config.keys_dir / "audit.pub").read_text().strip()
    details = {"silence": STARTED["silence"], "release": STARTED["release"], "last_run": None, "signing_key": key}
    assert events[0].content.details.values() == details
    assert events[0].header.subject == ""
    assert events[1].content is not None
    assert (events[1].header.subject, events[1].content.text) == ("engine", "signal SIGKILL, after 3 s")
    assert events[2].content == Content("signal SIGTERM")
    assert integrity(log, config.state_dir).verified_size == 3
    assert verify_log(database, config.state_dir).is_intact
    database.close()


def run_once(config: Config, *, in_order: bool) -> None:
    recorder = Recorder(config)
    recorder.note(STARTED)
    recorder.end(in_order=in_order)


def test_a_killed_supervisor_is_no_orderly_stop_and_the_next_start_says_so(config: Config) -> None:
    run_once(config, in_order=False)
    run_once(config, in_order=True)
    run_once(config, in_order=True)
    with opened(config) as log:
        events = [log.get(number) for number in range(1, log.size() + 1)]
        assert [event.header.outcome for event in events] == ["ok", "failed", "ok", "ok", "ok", "ok"]
        second, third = events[2].content, events[4].content
        assert second is not None
        assert third is not None
        assert "The last run did not end in order, its last event is 2, of 20" in second.text
        assert third.details.values()["last_run"] is None


def test_a_recorder_that_was_killed_with_all_others_is_no_orderly_stop(config: Config) -> None:
    with opened(config) as log:
        log.append(NewEvent(SYSTEM, "appliance_started"))
        log.append(NewEvent(ADA, "sign_in"))  # then the power fails
    run_once(config, in_order=True)
    with opened(config) as log:
        content = log.get(3).content
    assert content is not None
    assert "did not end in order, its last event is 2, of" in content.text


def test_a_damaged_last_event_does_not_keep_the_recorder_from_starting(config: Config) -> None:
    run_once(config, in_order=True)
    with opened(config) as log, log.database.write() as connection:
        connection.exec_driver_sql("UPDATE audit_events SET time_us = 'x', action = 7, outcome = x'00'")
    run_once(config, in_order=True)
    with opened(config) as log:
        assert log.size() == 5  # the fifth is the finding


def test_records_what_a_process_was_refused_and_that_nobody_sees_it_any_more(config: Config) -> None:
    recorder = Recorder(config)
    recorder.note({**STARTED, "watched": False})
    recorder.note(ATTEMPT)
    recorder.note({"event": "watch_ended"})
    recorder.end()
    database = open_database(config.database_url)
    log = AuditLog(database)
    started, attempt, ended, _ = (log.get(number) for number in range(1, log.size() + 1))
    assert started.header.subject == UNWATCHED
    assert (attempt.header.action, attempt.header.outcome) == ("attempt_refused", "denied")
    assert attempt.header.subject == "web: setsockopt"
    assert attempt.content is not None
    assert attempt.content.text == (
        "Process 7 (web) called setsockopt (0x29, 0x39), 3 times within a minute. It was refused. "
        "Such a call could set an option of a connection that could send or re-route."
    )
    assert attempt.content.details.values() == {name: value for name, value in ATTEMPT.items() if name != "event"}
    assert (ended.header.action, ended.header.subject) == ("watch_ended", UNWATCHED)
    database.close()


def test_signs_again_and_again_while_it_runs(config: Config) -> None:
    recorder = Recorder(config)
    recorder.note(STARTED)
    database = open_database(config.database_url)
    log = AuditLog(database)
    first_us = wait_for(lambda: integrity(log, config.state_dir).verified_us)
    wait_for(lambda: integrity(log, config.state_dir).verified_us != first_us)
    recorder.end()
    database.close()


def test_goes_on_when_a_checkpoint_cannot_be_written(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    (config.state_dir / "signer" / "audit.key").write_text("not a key")
    recorder = Recorder(config)
    recorder.note(STARTED)
    recorder.end()
    assert "no checkpoint" in caplog.text
    database = open_database(config.database_url)
    log = AuditLog(database)
    actions = [log.get(number).header.action for number in range(1, log.size() + 1)]
    assert actions == ["record_finding", "appliance_started", "appliance_stopped"]
    database.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("appliance.runtime.recorder.LostTurns.close", "turns without an answer are not closed"),
        ("appliance.runtime.recorder.LogSigner.sign", "no checkpoint"),
        ("appliance.runtime.recorder.LogSigner.begin", "the signer could not begin"),
        ("appliance.runtime.recorder.DiskWatch.look", "the disk was not looked at"),
    ],
)
def test_an_unexpected_failure_of_a_turn_is_said_and_tried_again(
    config: Config, name: str, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each one fails the first time, with an error that nobody foresaw."""
    owner, _, attribute = name.rpartition(".")
    real = resolve_name(name)
    failed = threading.Event()

    def fail_once(*args: object) -> object:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError("nobody foresaw it")
        return real(*args)

    monkeypatch.setattr(resolve_name(owner), attribute, fail_once)
    recorder = Recorder(config)
    assert failed.wait(30)
    recorder.note(STARTED)
    recorder.end()
    assert any(words in record.getMessage() and record.exc_info for record in caplog.records)
    with opened(config) as log:
        assert integrity(log, config.state_dir).state == "verified"


RETURNED = {"event": "returned", "left": "2.0", "to": "1.0", "why": "did not become ready in 3 starts", "at": "2026"}


def test_a_return_is_recorded_once_however_often_the_appliance_starts(config: Config) -> None:
    for message in (RETURNED, RETURNED, {**RETURNED, "at": "2027"}):  # two starts, and another return
        recorder = Recorder(config)
        recorder.note(STARTED)
        recorder.note(message)
        recorder.end()
    with opened(config) as log:
        events = [log.get(number) for number in range(1, log.size() + 1)]
        found = [event for event in events if event.header.action == "release_returned"]
        assert [(event.header.subject, event.header.outcome) for event in found] == [("2.0", "failed")] * 2
        content = found[0].content
        assert content is not None
        assert content.text == "Release 2.0 did not become ready in 3 starts, so release 1.0 is served again"
        assert content.details.values() == {name: RETURNED[name] for name in ("left", "to", "why", "at")}


def test_a_release_that_is_ready_says_so_when_the_record_is_signed(config: Config) -> None:
    recorder = Recorder(config)
    recorder.note(STARTED)
    assert load_reached(config.home) is None
    recorder.note({"event": "ready"})
    assert load_reached(config.home) == Reached(config.release_dir.name, HEALTHY)
    with opened(config) as log:
        assert integrity(log, config.state_dir).verified_size == 1
    recorder.end()


def test_a_mark_that_cannot_be_written_does_not_end_the_recorder(config: Config) -> None:
    (config.state_dir / "audit" / ".reached.json.new").mkdir()
    recorder = Recorder(config)
    recorder.note(STARTED)
    recorder.note({"event": "ready"})
    recorder.note(ENDED)
    recorder.end()
    with opened(config) as log:
        assert log.size() == 3
