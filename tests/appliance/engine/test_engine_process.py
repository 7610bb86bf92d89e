"""The engine as a process of its own, with a real graph. A doorbell leads to it, as from the web workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.engine.client import EngineClient
from appliance.errors import CANNOT_SERVE
from appliance.turns.engine import EngineUnavailableError, Status
from appliance.turns.events import AnswerDelta, Done, Failed, ReasoningDelta, Started, TurnEvent, Waiting
from appliance.turns.request import Message, TurnRequest
from tests.waiting import wait_for


def ask(text: str = "Hello", **changes: Any) -> TurnRequest:
    request = TurnRequest(id="t", user="ann", messages=(Message("user", text),), seed=5, max_tokens=4)
    return replace(request, **changes)


class EngineProcess:
    """A running engine and the web's end of its doorbell. This process keeps both ends, as the supervisor does."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.web, self.bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client = EngineClient(self.web)
        self.start()

    def start(self) -> None:
        environ = {**os.environ, "APPLIANCE_HOME": str(self.home), "APPLIANCE_DOORBELL_FD": str(self.bell.fileno())}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "appliance.engine.server"], env=environ, pass_fds=[self.bell.fileno()]
        )

    def wait_ready(self, timeout_s: float = 60.0) -> Status:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.client.status(timeout_s=5)
            except EngineUnavailableError:
                assert self.process.poll() is None, "the engine ended"
                assert time.monotonic() < deadline, "the engine is not ready"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.web.close()
        self.bell.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, release_dir: Path) -> Path:
    home = tmp_path_factory.mktemp("site")
    (home / "state" / "config").mkdir(parents=True)
    (home / "state" / "config" / "appliance.toml").write_text("[engine]\nslots = 3\nqueue_limit = 8\n")
    (home / "current").symlink_to(release_dir)
    return home


@pytest.fixture(scope="module")
def shared(home: Path) -> Iterator[EngineProcess]:
    """One engine for the tests that leave it as they found it."""
    engine = EngineProcess(home)
    engine.wait_ready()
    yield engine
    engine.close()


@pytest.fixture
def own(home: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(home)
    engine.wait_ready()
    yield engine
    engine.close()


def said(events: Iterator[TurnEvent]) -> Iterator[TurnEvent]:
    """What the engine sent. On a slow machine ``Waiting`` may come anywhere in between."""
    return (event for event in events if not isinstance(event, Waiting))


def run(engine: EngineProcess, request: TurnRequest) -> list[TurnEvent]:
    with engine.client.turn(request) as events:
        return list(said(events))


def finished(events: list[TurnEvent]) -> Done:
    assert isinstance(events[-1], Done), events[-1]
    return events[-1]


def failed(events: list[TurnEvent]) -> Failed:
    assert isinstance(events[-1], Failed), events[-1]
    return events[-1]


def wait_idle(engine: EngineProcess) -> None:
    def is_idle() -> bool:
        status = engine.client.status()
        return not status.active and not status.queued

    wait_for(is_idle, said=engine.client.status)


def test_a_turn_starts_streams_and_ends(shared: EngineProcess) -> None:
    events = run(shared, ask())
    assert isinstance(events[0], Started)
    done = finished(events)
    assert done.completion_tokens == len(done.token_ids) == 4
    assert done.finish_reason == "length"
    assert done.prompt_tokens == events[0].prompt_tokens > 50
    assert any(isinstance(e, AnswerDelta | ReasoningDelta) for e in events)


def test_status_tells_what_is_served(shared: EngineProcess) -> None:
    status = shared.client.status()
    assert (status.model, status.release, status.accelerator) == ("gpt-oss-random", "0.1.0", "cpu")
    assert (status.context_tokens, status.slots, status.active, status.queued) == (512, 3, 0, 0)


def test_status_counts_what_was_generated(shared: EngineProcess) -> None:
    before = shared.client.status()
    done = finished(run(shared, ask(max_tokens=40, temperature=0.0)))
    after = shared.client.status()
    assert after.generated_tokens - before.generated_tokens == done.completion_tokens > 0
    assert before.tokens_from_drafts <= after.tokens_from_drafts < after.generated_tokens


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(shared: EngineProcess) -> None:
    # Three users, so that each turn computes its whole prompt: the last bits may depend on the number of steps.
    turns = [ask(seed=seed, user=f"user {number}", max_tokens=8) for number, seed in enumerate((7, 7, 8))]
    first, again, other = (finished(run(shared, turn)).token_ids for turn in turns)
    assert first == again
    assert first != other


def test_conversations_at_once_give_what_each_gives_alone(shared: EngineProcess) -> None:
    requests = [
        ask(f"Question {n} " * (n + 1), id=f"t{n}", user=f"u{n}", max_tokens=20, temperature=0.0) for n in range(6)
    ]
    alone = [finished(run(shared, request)).token_ids for request in requests]
    together: dict[int, tuple[int, ...]] = {}

    def answer(number: int, request: TurnRequest) -> None:
        together[number] = finished(run(shared, request)).token_ids

    threads = [threading.Thread(target=answer, args=item) for item in enumerate(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [together[n] for n in range(6)] == alone


def test_a_follow_up_reuses_what_is_computed_and_answers_the_same(shared: EngineProcess) -> None:
    history = (Message("user", "one " * 60), Message("assistant", "two"), Message("user", "three"))
    fresh = finished(run(shared, ask(messages=history, user="fresh", temperature=0.0)))
    assert fresh.cached_tokens < 70  # only what every prompt begins with
    run(shared, ask(messages=history[:1], user="returning"))
    reused = finished(run(shared, ask(messages=history, user="returning", temperature=0.0)))
    assert reused.cached_tokens > 100
    assert reused.token_ids == fresh.token_ids


def test_leaving_a_turn_frees_its_slot(shared: EngineProcess) -> None:
    with shared.client.turn(ask(max_tokens=400, grammar=True)) as events:  # without, random words are held to the end
        assert isinstance(next(said(events)), Started)
        next(said(events))
        assert shared.client.status().active == 1
    wait_idle(shared)


def test_too_long_a_conversation_is_refused_with_both_numbers(shared: EngineProcess) -> None:
    for text, length in (("word " * 600, "668 tokens"), ("word " * 2000, "10,000 characters")):
        (only,) = run(shared, ask(text))
        assert isinstance(only, Failed)
        assert only.code == "context_exceeded"
        assert "512" in only.message
        assert length in only.message


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"seed": -1},
        {"max_tokens": 0},
        {"stop": ("",)},
        {"messages": ()},
        {"effort": "extreme"},
        {"temperature": "hot"},
        {"messages": (Message("tool", "42"),)},
    ],
)
def test_a_bad_request_fails_alone(shared: EngineProcess, changes: dict[str, Any]) -> None:
    assert failed(run(shared, ask(**changes))).code == "bad_request"
    assert finished(run(shared, ask())).completion_tokens == 4


@pytest.mark.parametrize(
    "line", [b"\n", b"{}\n", b"\xff\xfe\n", b'{"type":"Done"}\n', b"[" * 100_000 + b"\n", b"1\n2\n"]
)
def test_a_line_that_is_no_request_fails_alone(shared: EngineProcess, line: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(shared.web, [b"\x01"], [theirs.fileno()])
        theirs.close()
        ours.settimeout(10)
        ours.sendall(line)
        assert b'"code":"bad_request"' in ours.recv(65536)
    assert finished(run(shared, ask())).completion_tokens == 4


def test_what_is_not_a_socket_at_the_doorbell_harms_nobody(shared: EngineProcess) -> None:
    with open(os.devnull, "rb") as other:
        socket.send_fds(shared.web, [b"\x01"], [other.fileno()])
    shared.web.send(b"\x01")
    assert finished(run(shared, ask())).completion_tokens == 4


def test_a_client_that_does_not_read_stalls_nobody(shared: EngineProcess) -> None:
    with shared.client.turn(ask(max_tokens=400, user="sleeper")) as events:
        next(said(events))
        began = time.monotonic()
        assert finished(run(shared, ask(user="awake"))).completion_tokens == 4
        assert time.monotonic() - began < 20
    wait_idle(shared)


def test_a_killed_engine_ends_its_turn_and_a_restarted_one_takes_the_next(own: EngineProcess) -> None:
    with own.client.turn(ask(max_tokens=400)) as events:
        assert isinstance(next(said(events)), Started)
        own.process.kill()
        last = list(events)[-1]
    assert isinstance(last, Failed)
    assert last.code == "engine_stopped"
    own.process.wait()
    own.start()
    own.wait_ready()
    assert finished(run(own, ask())).completion_tokens == 4


def test_a_turn_that_rings_while_the_engine_is_down_is_answered_by_the_next_one(own: EngineProcess) -> None:
    own.process.kill()
    own.process.wait()
    with own.client.turn(ask(id="left")) as events:
        assert isinstance(next(events), Waiting)
    with own.client.turn(ask()) as events:
        assert isinstance(next(events), Waiting)
        own.start()
        assert finished(list(events)).completion_tokens == 4
    wait_idle(own)


def test_sigterm_ends_turns_with_engine_stopped_and_exits_cleanly(own: EngineProcess) -> None:
    with own.client.turn(ask(max_tokens=400)) as events:
        assert isinstance(next(said(events)), Started)
        own.process.send_signal(signal.SIGTERM)
        last = list(events)[-1]
    assert isinstance(last, Failed)
    assert last.code == "engine_stopped"
    assert own.process.wait(10) == 0


def test_the_engine_ends_when_nobody_can_ring_any_more(home: Path) -> None:
    engine = EngineProcess(home)
    engine.wait_ready()
    engine.web.close()
    assert engine.process.wait(10) == 0
    engine.close()


@pytest.mark.parametrize("missing", ["APPLIANCE_HOME", "APPLIANCE_DOORBELL_FD"])
def test_refuses_to_start_without_its_environment(missing: str) -> None:
    environ = {"APPLIANCE_HOME": "/nowhere", "APPLIANCE_DOORBELL_FD": "0", **os.environ}
    del environ[missing]
    done = subprocess.run(
        [sys.executable, "-m", "appliance.engine.server"], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert missing in done.stderr


def test_a_release_that_is_not_there_is_one_line_and_not_to_be_tried_again(tmp_path: Path) -> None:
    web, bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environ = {**os.environ, "APPLIANCE_HOME": str(tmp_path), "APPLIANCE_DOORBELL_FD": str(bell.fileno())}
    with web, bell:
        done = subprocess.run(
            [sys.executable, "-m", "appliance.engine.server"],
            env=environ, pass_fds=[bell.fileno()], capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == CANNOT_SERVE
    assert len(done.stderr.splitlines()) == 1
    assert "release.json" in done.stderr
