"""Turns that end strangely, on a real appliance. Supervisor, gunicorn with the web application, and recorder are the
real ones. The engine speaks the real protocol and stands still where a test wants it to.

Whatever happens, each prompt has exactly one answer in the record, and whoever waits is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from appliance.audit.log import AuditLog, Event
from appliance.config import init_state
from appliance.database.transactions import open_database
from tests.appliance.supervised import Site, is_alive, supervised
from tests.attacks.test_signals_from_outside import children_of, processes_of, state_of
from tests.webui.served import add_user_with_key, write_release

MODEL = "gpt-oss-fake"
# Answers a status. A turn runs as far as its question says, and then stands still until the engine ends.
ENGINE = """
import os, signal, socket, threading
from appliance.engine.wire import StatusRequest, decode, encode
from appliance.turns.engine import Status
from appliance.turns.events import AnswerDelta, Done, Failed, Started
signal.signal(signal.SIGUSR1, lambda *_: threading.Event().wait())
ENDED = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ENDED.set())
WAIT, WAKE = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(WAKE)  # whichever thread is given the signal
def serve(turn):
    request = decode(turn.makefile("rb").readline())
    if isinstance(request, StatusRequest):
        turn.sendall(encode(Status("gpt-oss-fake", "0.0.1", "cpu", 4096, 1, 0, 0, {})))
        turn.close()
        return
    where = request.messages[-1].content
    print("asked", where, flush=True)
    steps = [Started(20, 0.0), AnswerDelta("Half "), AnswerDelta("and half.")]
    steps = {"prefill": [], "decode": steps[:2], "last": steps, "done": steps}[where]
    for step in steps:
        turn.sendall(encode(step))
    if where == "done":
        figures = dict(prompt_tokens=20, completion_tokens=3, reasoning_tokens=0, cached_tokens=0)
        times = dict(queued_s=0.0, prefill_s=0.0, decode_s=0.0)
        turn.sendall(encode(Done(finish_reason="stop", token_ids=(1, 2, 3), **figures, **times)))
    else:
        ENDED.wait()
        turn.sendall(encode(Failed("engine_stopped", "The model was stopped.")))
    turn.close()
bell = socket.socket(fileno=int(os.environ["APPLIANCE_DOORBELL_FD"]))
import select
while not ENDED.is_set():
    ready = select.select([bell, WAIT], [], [])[0]
    if bell not in ready:
        continue
    _, fds, _, _ = socket.recv_fds(bell, 1, 1)
    threading.Thread(target=serve, args=(socket.socket(fileno=fds[0]),)).start()
"""
RECORDER = "from appliance.runtime.recorder import main; main()"
SAID = {"prefill": "", "decode": "Half ", "last": "Half and half."}


class Appliance:
    """A running appliance, and a person's key."""

    def __init__(self, site: Site, key: str) -> None:
        self.site, self._key = site, key
        self.host = urlsplit(site.url).netloc

    def begin(self, where: str, open_ones: ExitStack) -> HTTPResponse:
        """The stream of a turn that stands still at that point. Its head has arrived."""
        connection = open_ones.enter_context(closing(HTTPConnection(self.host, timeout=60)))
        body = {"model": MODEL, "messages": [{"role": "user", "content": where}], "stream": True}
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        if where == "prefill":  # no answer begins before the model does
            return HTTPResponse(connection.sock)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        return response

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError), closing(HTTPConnection(self.host, timeout=60)) as connection:
            connection.request("GET", "/readyz")
            status = connection.getresponse().status
            assert status in (200, 503)
            return status == 200
        return False


@contextlib.contextmanager
def appliance(home: Path, *, still_s: float = 60.0) -> Iterator[Appliance]:
    init_state(home)
    write_release(home / "current", MODEL)
    with opened(home) as log:
        key = add_user_with_key(log)
    config = home / "state" / "config" / "appliance.toml"
    config.write_text("[record]\ncheckpoint_interval_s = 1.0\n")
    with supervised(
        home, release=False, engine=ENGINE, recorder=RECORDER, web="webui.wsgi:app", still_s=still_s
    ) as site:
        running = Appliance(site, key)
        site.until(running.is_ready)
        yield running


@contextlib.contextmanager
def opened(home: Path) -> Iterator[AuditLog]:
    database = open_database(f"sqlite:///{home}/state/database/appliance.sqlite3")
    yield AuditLog(database)
    database.close()


def turns(home: Path) -> dict[str, list[Event]]:
    """The events of each turn."""
    found: dict[str, list[Event]] = {}
    with opened(home) as log:
        for number in range(1, log.size() + 1):
            event = log.get(number)
            if event.header.action in ("prompt", "answer"):
                found.setdefault(event.header.subject, []).append(event)
    return found


def outcomes(home: Path) -> list[list[str]]:
    """For each turn, the action and outcome of each of its events."""
    return [[f"{event.header.action} {event.header.outcome}" for event in events] for events in turns(home).values()]


def rest_of(response: HTTPResponse) -> str:
    """The rest of the stream, as far as it comes."""
    try:
        if response.headers is None:
            response.begin()
        return response.read().decode()
    except IncompleteRead as cut:
        return cut.partial.decode()
    except (OSError, ValueError):
        return ""


@pytest.mark.parametrize("where", list(SAID))
@pytest.mark.parametrize("how", ["killed", "hung"])
def test_a_dead_or_hung_engine_ends_the_turn_once_and_says_so(tmp_path: Path, where: str, how: str) -> None:
    with appliance(tmp_path, still_s=2.0) as running, ExitStack() as open_ones:
        response = running.begin(where, open_ones)
        running.site.wait_for(f"asked {where}")
        engine = processes_of(running.site)["engine"]
        os.kill(engine, signal.SIGKILL if how == "killed" else signal.SIGUSR1)
        if how == "hung":  # a dead engine is back before anybody could ask
            running.site.until(lambda: not running.is_ready())
        said = rest_of(response)
        assert "engine_stopped" in said
        assert "The model stopped before the answer was complete" in said
        assert "[DONE]" not in said
        running.site.until(running.is_ready)
        assert rest_of(running.begin("done", open_ones)).count("[DONE]") == 1
    ended, after = turns(tmp_path).values()
    assert [event.header.outcome for event in ended] == ["ok", "failed"]
    assert ended[1].content is not None
    assert ended[1].content.text == SAID[where]
    assert [event.header.outcome for event in after] == ["ok", "ok"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_turn_outlives_a_recorder_that_is_killed_or_stopped(tmp_path: Path, number: signal.Signals) -> None:
    with appliance(tmp_path) as running, ExitStack() as open_ones:
        running.begin("decode", open_ones)
        recorder = processes_of(running.site)["recorder"]
        os.kill(recorder, number)
        assert rest_of(running.begin("done", open_ones)).count("[DONE]") == 1
        running.site.process.terminate()
        assert running.site.process.wait(60) == 0
    assert sorted(outcomes(tmp_path)) == [["prompt ok", "answer failed"], ["prompt ok", "answer ok"]]
    with opened(tmp_path) as log:
        last = log.get(log.size())
        assert (last.header.action, last.header.outcome) == ("appliance_stopped", "ok")


def test_the_turns_of_a_killed_worker_are_closed_once_while_others_are_answered(tmp_path: Path) -> None:
    with appliance(tmp_path) as running, ExitStack() as open_ones:
        for where in ("prefill", "decode", "last"):
            running.begin(where, open_ones)
            running.site.wait_for(f"asked {where}")
        (worker,) = children_of(processes_of(running.site)["web"])
        os.kill(worker, signal.SIGKILL)
        running.site.until(running.is_ready)
        assert rest_of(running.begin("done", open_ones)).count("[DONE]") == 1
        interrupted = ["prompt ok", "answer interrupted"]
        running.site.until(lambda: outcomes(tmp_path).count(interrupted) == 3)
        running.site.process.terminate()
        assert running.site.process.wait(60) == 0
    assert outcomes(tmp_path) == [interrupted] * 3 + [["prompt ok", "answer ok"]]


@pytest.mark.parametrize("name", ["engine", "web", "web worker"])
def test_a_stray_sigterm_costs_answers_under_way_and_nothing_else(tmp_path: Path, name: str) -> None:
    """Recorder and log relay ignore it: they end when what they read ends."""
    with appliance(tmp_path) as running, ExitStack() as open_ones:
        running.begin("decode", open_ones)
        pids = processes_of(running.site)
        (pids["web worker"],) = children_of(pids["web"])
        for each in (name, "recorder", "log relay"):
            os.kill(pids[each], signal.SIGTERM)
        running.site.until(lambda: state_of(pids[name]) in ("gone", "Z"))
        running.site.until(running.is_ready)
        assert rest_of(running.begin("done", open_ones)).count("[DONE]") == 1
        assert {each: pids[each] for each in ("recorder", "log relay")}.items() <= processes_of(running.site).items()
        running.site.process.terminate()
        assert running.site.process.wait(60) == 0
    cut, after = outcomes(tmp_path)
    assert cut in (["prompt ok", "answer failed"], ["prompt ok", "answer abandoned"])
    assert after == ["prompt ok", "answer ok"]


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_stop_with_fifty_streams_records_every_answer_and_leaves_nothing(tmp_path: Path, is_stopped: bool) -> None:
    """With `is_stopped`, somebody has just stopped engine and gunicorn (SIGSTOP), as a careless hand would."""
    with appliance(tmp_path) as running, ExitStack() as open_ones:
        streams = [running.begin(where, open_ones) for where in ("decode", "prefill", "last") * 17][:50]
        running.site.until(lambda: running.site.said().count("asked ") == 51)
        before = processes_of(running.site)
        for name in ("engine", "web") if is_stopped else ():
            os.kill(before[name], signal.SIGSTOP)
        running.site.process.terminate()
        assert running.site.process.wait(60) == 0, running.site.said()
        assert "is killed" not in running.site.said(), running.site.said()
        assert [name for name, pid in before.items() if is_alive(pid)] == []
        assert len(streams) == 50
    found = outcomes(tmp_path)
    assert len(found) == 51
    assert {tuple(turn) for turn in found} <= {("prompt ok", "answer failed"), ("prompt ok", "answer abandoned")}
