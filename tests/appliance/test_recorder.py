"""The recorder: what the supervisor notes becomes events, and the log is signed regularly and at the end."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.audit.checkpoint import integrity
from appliance.audit.log import AuditLog
from appliance.audit.verify import verify_log
from appliance.config import Config, init_state, load_config
from appliance.database import open_database
from appliance.recorder import run_recorder

STARTED = {"event": "started", "silence": {"kernel": "6", "attempts": [{"way": "TCP", "answer": "EPERM"}]}}
RESTARTED = {"event": "engine_restarted", "how": "signal SIGKILL"}


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

    def end(self) -> None:
        os.close(self.writer)
        self.thread.join(10)
        os.close(self.reader)
        assert not self.thread.is_alive()


def test_records_start_restart_and_stop_and_signs_at_the_end(config: Config) -> None:
    recorder = Recorder(config)
    recorder.note(STARTED)
    recorder.note(RESTARTED)
    recorder.end()
    database = open_database(config.database_url)
    log = AuditLog(database)
    events = [log.get(number) for number in range(1, log.size() + 1)]
    assert [event.header.action for event in events] == ["appliance_started", "engine_restarted", "appliance_stopped"]
    assert events[0].content is not None
    assert events[0].content.details == {"silence": STARTED["silence"]}
    assert events[1].content is not None
    assert events[1].content.text == "signal SIGKILL"
    assert integrity(log, config.state_dir).verified_size == 3
    assert verify_log(database, config.state_dir).is_intact
    database.close()


def test_signs_again_and_again_while_it_runs(config: Config) -> None:
    recorder = Recorder(config)
    recorder.note(STARTED)
    database = open_database(config.database_url)
    log = AuditLog(database)
    deadline_s = time.monotonic() + 10
    times = set[int | None]()
    while len(times - {None}) < 2:
        times.add(integrity(log, config.state_dir).verified_us)
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    recorder.end()
    database.close()


def test_goes_on_when_a_checkpoint_cannot_be_written(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    (config.keys_dir / "audit.key").write_text("not a key")
    recorder = Recorder(config)
    recorder.note(STARTED)
    recorder.end()
    assert "no checkpoint" in caplog.text
    database = open_database(config.database_url)
    assert AuditLog(database).size() == 2
    database.close()
