"""The client's promises, against a peer that speaks the real protocol."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from appliance.engine import client as client_module
from appliance.engine.client import EngineClient
from appliance.engine.wire import MAX_LINE_BYTES, StatusRequest, encode
from appliance.turns.engine import EngineUnavailableError, Status
from appliance.turns.events import AnswerDelta, Done, EngineEvent, Failed, Started, Waiting
from appliance.turns.request import Message, TurnRequest
from tests.fakes import FAKE_STATUS, FakeEngine, done
from tests.waiting import wait_for


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ``Waiting`` because a machine is slow, except where a test asks for it."""
    monkeypatch.setattr(client_module, "_WAITING_S", 30.0)


def ask(text: str, turn_id: str = "t1") -> TurnRequest:
    return TurnRequest(id=turn_id, user="ann", messages=(Message(role="user", content=text),), seed=1)


def test_events_arrive_in_order_and_end_with_done() -> None:
    with FakeEngine() as engine, engine.client.turn(ask("hello there")) as events:
        seen = list(events)
    assert isinstance(seen[0], Started)
    assert "".join(e.text for e in seen if isinstance(e, AnswerDelta)) == "You said: hello there"
    assert isinstance(seen[-1], Done)


def test_text_of_every_kind_survives_the_wire() -> None:
    text = "a\nb\u2028c\x00 \U0001f600 “quoted” \\ " + "x" * 200_000
    with FakeEngine() as engine, engine.client.turn(ask(text)) as events:
        answer = "".join(e.text for e in events if isinstance(e, AnswerDelta))
    assert engine.requests[0].messages[0].content == text
    assert answer == "You said: " + text


def test_leaving_the_block_cancels_the_turn() -> None:
    resume = threading.Event()

    def slow(request: TurnRequest) -> Iterator[EngineEvent]:
        yield Started(prompt_tokens=1, queued_s=0.0)
        resume.wait(5)
        yield AnswerDelta("never read")
        yield done()

    with FakeEngine(slow) as engine:
        with engine.client.turn(ask("x")) as events:
            assert isinstance(next(events), Started)
        resume.set()
        assert wait_for(lambda: engine.cancelled) == ["t1"]


def test_a_silent_engine_is_reported_as_waiting_until_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_WAITING_S", 0.1)
    speak = threading.Event()

    def silent(request: TurnRequest) -> Iterator[EngineEvent]:
        speak.wait(10)
        yield done()

    with FakeEngine(silent) as engine, engine.client.turn(ask("x")) as events:
        assert [next(events), next(events)] == [Waiting(), Waiting()]
        speak.set()
        last = list(events)[-1]
    assert isinstance(last, Done)


def test_a_dead_engine_ends_the_turn_with_engine_stopped() -> None:
    resume = threading.Event()

    def slow(request: TurnRequest) -> Iterator[EngineEvent]:
        yield AnswerDelta("half")
        resume.wait(5)
        yield done()

    with FakeEngine(slow) as engine, engine.client.turn(ask("x")) as events:
        assert next(events) == AnswerDelta("half")
        engine.die()
        last = list(events)
        resume.set()
    assert [type(e) for e in last] == [Failed]
    assert isinstance(last[0], Failed)
    assert last[0].code == "engine_stopped"


def test_a_closed_doorbell_is_engine_stopped() -> None:
    web, engine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    engine.close()
    with web, EngineClient(web).turn(ask("x")) as events:
        (only,) = events
    assert isinstance(only, Failed)
    assert only.code == "engine_stopped"


def test_a_full_doorbell_is_overloaded() -> None:
    web, engine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with web, engine:
        web.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                web.send(b"\x01")
        web.setblocking(True)
        with EngineClient(web).turn(ask("x")) as events:
            (only,) = events
    assert isinstance(only, Failed)
    assert only.code == "overloaded"
    assert only.retry_after_s is not None


def test_a_request_beyond_the_line_limit_fails_without_ringing() -> None:
    with FakeEngine() as engine:
        with engine.client.turn(ask("x" * MAX_LINE_BYTES)) as events:
            (only,) = events
        assert engine.requests == []
    assert isinstance(only, Failed)


def test_a_line_that_is_no_event_ends_the_turn_with_engine_failed() -> None:
    web, engine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for line in (b"nonsense\n", encode(StatusRequest())):
        with EngineClient(web).turn(ask("x")) as events:
            reader = threading.Thread(target=_answer_once, args=(engine, line))
            reader.start()
            (only,) = events
            reader.join()
        assert isinstance(only, Failed)
        assert only.code == "engine_failed"
    web.close()
    engine.close()


def _answer_once(doorbell: socket.socket, line: bytes) -> None:
    _payload, descriptors, _flags, _address = socket.recv_fds(doorbell, 1, 1)
    with socket.socket(fileno=descriptors[0]) as turn:
        turn.recv(1 << 16)
        turn.sendall(line)


def test_status_returns_what_the_engine_says() -> None:
    with FakeEngine() as engine:
        status = engine.client.status()
    assert status == FAKE_STATUS
    assert isinstance(status, Status)


def test_status_of_a_silent_engine_is_unavailable_within_the_timeout() -> None:
    with FakeEngine(status=None) as engine:
        began = time.monotonic()
        with pytest.raises(EngineUnavailableError):
            engine.client.status(timeout_s=0.1)
        assert time.monotonic() - began < 2
