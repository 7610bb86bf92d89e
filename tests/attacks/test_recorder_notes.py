"""A compromised web worker tries to silence the recorder. It writes into the pipe by which gunicorn reports how workers
ended, into the database, and beside it. The recorder must go on, and must say where the database swallows events.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.audit.log import RecordError
from appliance.config import init_state, load_config
from appliance.runtime.readiness import EndedWorkers
from appliance.runtime.recorder import run_recorder

POISON = [
    b'{"how": "exit status 1", "ran_s": NaN}',
    b'{"how": "exit status 1", "ran_s": 1e999}',
    b'{"how": "exit status 1", "ran_s": -1}',
    b'{"how": "exit status 1", "ran_s": 1e300}',
    b'{"how": "\\ud800", "ran_s": 1}',
    b'{"how": "\\u0000", "ran_s": 1}',
    b'{"how": "\\u001b]0;title\\u0007", "ran_s": 1}',
    b'{"how": "signal SIGKILL\\nweb: all is well", "ran_s": 1}',
    b'{"how": {"deep": ["er"]}, "ran_s": 1}',
    b"[" * 400,
]


@pytest.mark.parametrize("line", POISON)
def test_only_what_gunicorn_writes_gets_to_the_supervisor(line: bytes) -> None:
    pipe = EndedWorkers()
    os.write(pipe.fd, line + b"\n")
    os.write(pipe.fd, b'{"how": "signal SIGKILL", "ran_s": 2.5}\n')
    assert pipe.ended() == [{"how": "signal SIGKILL", "ran_s": 2.5}]


STOPPING = {"event": "stopping", "why": "the test is over"}
WATCH_ENDED = {"event": "watch_ended"}


def record(home: Path, *notes: dict[str, Any]) -> int:
    """Have a recorder record notes. Returns how many it calls recorded."""
    read_end, write_end = os.pipe()
    os.write(write_end, "".join(json.dumps(note) + "\n" for note in notes).encode())
    os.close(write_end)
    told: list[None] = []
    run_recorder(load_config(home), read_end, tell_ready=lambda: told.append(None))
    return len(told)


def database_of(home: Path) -> sqlite3.Connection:
    return sqlite3.connect(home / "state" / "database" / "appliance.sqlite3", isolation_level=None)


def recorded(home: Path) -> list[tuple[str, str]]:
    query = (
        "SELECT action, coalesce(text, '') FROM audit_events LEFT JOIN audit_contents USING (sequence) "
        "WHERE action NOT LIKE 'disk_%' ORDER BY sequence"
    )
    return list(database_of(home).execute(query))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A site whose recorder has run once."""
    init_state(tmp_path)
    assert record(tmp_path, WATCH_ENDED, STOPPING) == 1
    return tmp_path


@pytest.mark.parametrize(("how", "ran_s"), [("exit status 1", float("nan")), ("\ud800", 1.0), ("\0", 1.0)])
def test_a_note_that_cannot_be_recorded_does_not_hold_up_the_next(home: Path, how: str, ran_s: float) -> None:
    """Behind the supervisor's check there is the recorder's own: else it dies of this message at every start."""
    note = {"event": "process_ended", "process": "web worker", "how": how, "ran_s": ran_s}
    assert record(home, note, WATCH_ENDED, STOPPING) == 2
    found = recorded(home)[2:]
    assert [action for action, _ in found] == ["process_ended", "watch_ended", "appliance_stopped"]
    assert found[0][1].startswith("The record cannot hold this message of the supervisor")


def _first_event(home: Path, **values: str) -> None:
    for name, value in values.items():
        database_of(home).execute(f"UPDATE audit_events SET {name} = ? WHERE sequence = 1", [value])  # noqa: S608


def _turns(home: Path) -> Path:
    return home / "state" / "database" / "appliance.sqlite3.turns"


def _directory_among_turns(home: Path) -> None:
    (_turns(home) / "abcdef" / "inside").mkdir(parents=True)


def _closed_file_among_turns(home: Path) -> None:
    _turns(home).mkdir()
    (_turns(home) / "abcdef").touch(mode=0)


SABOTAGE: dict[str, Callable[[Path], object]] = {
    "a directory among the turns' files": _directory_among_turns,
    "a file that cannot be opened": _closed_file_among_turns,
    "a file in the place of the turns": lambda home: _turns(home).touch(),
    "a prompt whose subject no event may have": lambda home: _first_event(home, action="prompt", subject="a\0b"),
    "a prompt of nobody": lambda home: _first_event(home, action="prompt", subject="turn", actor_name="\0"),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_what_lies_in_the_database_or_beside_it_does_not_end_the_recorder(home: Path, name: str) -> None:
    SABOTAGE[name](home)
    assert record(home, WATCH_ENDED, STOPPING) == 1
    assert [action for action, _ in recorded(home) if action == "watch_ended"][-1:] == ["watch_ended"]


SWALLOWING = {
    "ignored before": "CREATE TRIGGER t BEFORE INSERT ON audit_events WHEN NEW.action = 'watch_ended' "
    "BEGIN SELECT RAISE(IGNORE); END",
    "removed after": "CREATE TRIGGER t AFTER INSERT ON audit_events WHEN NEW.action = 'watch_ended' "
    "BEGIN DELETE FROM audit_events WHERE sequence = NEW.sequence; END",
    "without its content": "CREATE TRIGGER t BEFORE INSERT ON audit_contents BEGIN SELECT RAISE(IGNORE); END",
}


@pytest.mark.parametrize("name", SWALLOWING)
def test_a_trigger_that_swallows_events_is_an_error_and_not_a_success(home: Path, name: str) -> None:
    """The next event would have taken the same number, and nothing in the record would have shown it."""
    database_of(home).execute(SWALLOWING[name])
    attempt = {
        "event": "attempt_refused", "kind": "web", "call": "socket", "pid": 1, "arguments": [2, 1, 0], "count": 1,
        "first_us": 1,
    }  # fmt: skip
    with pytest.raises(RecordError):
        record(home, WATCH_ENDED, attempt, STOPPING)
