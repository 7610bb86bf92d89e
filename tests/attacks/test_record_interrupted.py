"""A prompt whose process dies gets an end in the record: exactly once, and never while the process lives."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog, RecordError
from appliance.database.presence import PresenceError
from appliance.database.transactions import open_database
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.people.conversations import NewMessage
from appliance.people.responses import KeptResponse, Responses
from appliance.turns.interrupted import INTERRUPTED, LostTurns, running_prompts
from appliance.turns.request import Message, TurnRequest
from appliance.turns.run import run_turn
from tests.appliance.conftest import PostgreSQL, database_url, postgresql
from tests.appliance.records import asked
from tests.fakes import FakeEngine
from tests.webui.conftest import FAST_PASSWORDS, SYSTEM, Site

__all__ = ["database_url", "postgresql"]  # fixtures, used here
ADA = Actor("a1", "ada", "web", "10.0.0.1")
WORKER = """
import sys, time
from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.database.transactions import (open_database)
from appliance.turns.events import Started
from appliance.turns.request import Message, TurnRequest
from appliance.turns.run import run_turn
from contextlib import contextmanager

class Engine:
    @contextmanager
    def turn(self, request):
        def events():
            yield Started(3, 0.0)
            print("asked", flush=True)
            sys.stdin.read()
        yield events()

log = AuditLog(open_database(sys.argv[1]))
actor = Actor(sys.argv[2], "ada", "web", "10.0.0.1")
request = TurnRequest(sys.argv[4], "a1", (Message("user", "Where is it?"),), seed=1)
for event in run_turn(log, Engine(), actor, request, conversation_id=sys.argv[3] or None):
    pass
print("answered", flush=True)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/site.sqlite3"


@contextmanager
def opened(url: str) -> Iterator[AuditLog]:
    database = open_database(url)
    yield AuditLog(database)
    database.close()


@contextmanager
def worker(
    url: str, *, user: str = "a1", conversation: str = "", turn: str = "turn-1"
) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a turn, like a web worker: its prompt is recorded, its answer is not."""
    command = [sys.executable, "-c", WORKER, url, user, conversation, turn]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "asked\n"
            yield process
        finally:
            process.kill()


def outcomes(log: AuditLog) -> list[str]:
    return [log.get(number).header.outcome for number in range(1, log.size() + 1)]


def test_the_turn_of_a_killed_worker_is_closed_once(database_url: str) -> None:
    with worker(database_url) as process, opened(database_url) as log:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert LostTurns(log).close() == 1
        assert LostTurns(log).close() == 0
        answer = log.get(2)
        assert (answer.header.action, answer.header.outcome, answer.header.subject) == (
            "answer", "interrupted", "turn-1",
        )  # fmt: skip
        assert answer.header.actor == ADA
        assert answer.content is not None
        assert "What was generated is not known" in answer.content.text
        assert answer.content.details.values()["prompt_event"] == 1


def test_a_response_in_the_background_fails_with_its_killed_worker(database_url: str) -> None:
    with worker(database_url, turn="resp_1") as process, opened(database_url) as log:
        user = Accounts(AccountStore(log, passwords=FAST_PASSWORDS)).create_user("ada", None, [Role.USER], by=SYSTEM)
        responses = Responses(log.database, log, days=30)
        begun = KeptResponse("resp_1", None, [], {"status": "queued", "output": []}, is_running=True)
        responses.keep(user.id, begun)
        LostTurns(log).close()
        assert responses.get(user.id, "resp_1") == begun  # the worker lives
        process.kill()
        process.wait()
        assert LostTurns(log).close() == 1
        kept = responses.get(user.id, "resp_1")
        assert not kept.is_running
        assert kept.response == {
            "status": "failed", "output": [], "error": {"code": "server_error", "message": INTERRUPTED},
        }  # fmt: skip


def test_a_living_workers_turn_is_left_alone_and_recorded_by_itself(database_url: str) -> None:
    with worker(database_url) as living, worker(database_url, turn="turn-2") as dying, opened(database_url) as log:
        assert running_prompts(log.database, 1, log.size()) == [1, 2]
        dying.kill()
        dying.wait()
        assert running_prompts(log.database, 1, log.size()) == [1]
        assert LostTurns(log).close() == 1
        assert outcomes(log) == ["ok", "ok", "interrupted"]
        assert living.stdin is not None
        assert living.stdout is not None
        living.stdin.close()
        assert living.stdout.readline() == "answered\n"
        assert LostTurns(log).close() == 0
        assert outcomes(log) == ["ok", "ok", "interrupted", "failed"]


def test_many_who_close_at_once_close_each_turn_once(database_url: str) -> None:
    with worker(database_url) as process:
        process.kill()
        process.wait()
    start, closed = threading.Barrier(4), list[int]()

    def close() -> None:
        with opened(database_url) as log:
            start.wait()
            closed.append(LostTurns(log).close())

    threads = [threading.Thread(target=close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(closed) == [0, 0, 0, 1]
    with opened(database_url) as log:
        assert outcomes(log) == ["ok", "interrupted"]


def test_a_failure_in_the_middle_leaves_the_turn_for_the_next_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with worker(url) as process:
        process.kill()
        process.wait()
    with opened(url) as log:

        def fail(*_: object) -> None:
            raise RecordError("killed here")

        with monkeypatch.context() as patched:
            patched.setattr("appliance.turns.interrupted.append_interruption", fail)
            patched.setattr(log, "append_in", fail)
            with pytest.raises(RecordError):
                LostTurns(log).close()
        assert log.size() == 1
        assert LostTurns(log).close() == 1


def test_prompts_of_earlier_releases_are_closed_and_damaged_ones_are_no_obstacle(url: str) -> None:
    with opened(url) as log:
        for number in range(3):
            log.append(NewEvent(ADA, "prompt", subject=f"old-{number}"))
        with log.database.write() as connection:
            connection.exec_driver_sql("UPDATE audit_events SET via = x'00' WHERE sequence = 2")
        assert LostTurns(log).close() == 2
        assert LostTurns(log).close() == 0


@pytest.mark.parametrize(
    "process", ["../../etc/passwd", "", "0" * 16, "f" * 16, "f" * 40, "\uff11" * 16, 7, None, ["x"]]
)
def test_a_process_that_never_was_keeps_no_turn_open(database_url: str, process: object) -> None:
    with opened(database_url) as log:
        log.append(NewEvent(ADA, "prompt", subject="t", content=Content("?", asked(process=process))))
        assert LostTurns(log).close() == 1


def test_a_turn_that_runs_in_this_process_is_alive(database_url: str) -> None:
    with opened(database_url) as log, opened(database_url) as recorder, FakeEngine() as engine:
        request = TurnRequest("t", "a1", (Message("user", "Hi"),), seed=1)
        turn = run_turn(log, engine.client, ADA, request, conversation_id=None)
        next(turn)
        assert LostTurns(recorder).close() == 0
        list(turn)
        assert outcomes(recorder) == ["ok", "ok"]


def test_the_conversation_says_that_the_answer_was_interrupted(site: Site) -> None:
    ada = site.add_user("ada", Role.USER)
    conversation = site.services.conversations.create(ada.id, title="Where")
    site.services.conversations.append(ada.id, conversation.id, NewMessage("user", "Where is it?"))
    url = site.services.config.database_url
    with worker(url, user=ada.id, conversation=conversation.id) as process:
        process.kill()
        process.wait()
    with opened(url) as log:
        assert LostTurns(log).close() == 1
    page = site.browser(ada).get(f"/chat/{conversation.id}").text
    assert "Interrupted: the process that answered ended" in page
    assert site.services.conversations.messages(ada.id, conversation.id)[-1].role == "assistant"


def test_closing_leaves_a_conversation_alone_that_has_gone_on(site: Site) -> None:
    ada = site.add_user("ada", Role.USER)
    conversations = site.services.conversations
    conversation = conversations.create(ada.id, title="Where")
    conversations.append(ada.id, conversation.id, NewMessage("user", "Where is it?"))
    url = site.services.config.database_url
    with worker(url, user=ada.id, conversation=conversation.id) as process:
        process.kill()
        process.wait()
    conversations.append(ada.id, conversation.id, NewMessage("user", "And when?"))
    with opened(url) as log:
        assert LostTurns(log).close() == 1
    assert [m.content for m in conversations.messages(ada.id, conversation.id)] == ["Where is it?", "And when?"]


def test_files_of_dead_processes_are_removed_and_those_of_living_ones_stay(tmp_path: Path, url: str) -> None:
    with worker(url) as living, worker(url, turn="turn-2") as dying, opened(url) as log:
        own = log.database.presence.own_id()
        dying.kill()
        dying.wait()
        LostTurns(log).close()
        left = {path.name for path in (tmp_path / "site.sqlite3.turns").iterdir()}
        assert own in left
        assert len(left) == 2
        assert living.poll() is None


def test_a_recorder_of_postgresql_closes_a_lost_turn_at_its_next_checkpoint(postgresql: PostgreSQL) -> None:
    """Not at its next start only: it has looked before the worker dies."""
    url = postgresql.empty_database()
    with opened(url) as log:
        lost = LostTurns(log)
        with worker(url) as process:
            assert lost.close() == 0
            process.kill()
            process.wait()
        assert lost.close() == 1


def test_a_server_that_ends_the_session_of_a_lock_gives_it_back_with_the_next_turn(postgresql: PostgreSQL) -> None:
    url = postgresql.empty_database()
    with opened(url) as log, opened(url) as other:
        own = log.database.presence.own_id()
        assert other.database.presence.is_alive(own)
        with other.database.write() as connection:
            others = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            assert connection.exec_driver_sql(others).all() == [(True,)]
        assert log.database.presence.own_id() == own
        assert other.database.presence.is_alive(own)
    with opened(url) as log:
        assert not log.database.presence.is_alive(own)


def test_a_lock_of_this_process_that_another_session_holds_refuses_turns_in_words(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgresql.empty_database()
    with opened(url) as log, opened(url) as other:
        own = log.database.presence.own_id()
        monkeypatch.setattr("appliance.database.presence.secrets.token_hex", lambda _: own)
        with pytest.raises(PresenceError, match="another session of the database holds"):
            other.database.presence.own_id()
        monkeypatch.undo()
        assert other.database.presence.own_id() != own
