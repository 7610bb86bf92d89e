"""When an engine counts as standing still."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from appliance.engine.wire import encode
from appliance.runtime.readiness import EnginePulse, processor_time_s
from appliance.turns.engine import Status
from tests.waiting import HELD_S

LIMIT_S = 60.0


class Engine:
    """An engine's end of the doorbell, its processor time, and the clock of the one who watches it."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.used_s: float | None = 0.0
        self.now_s = 0.0
        self.pulse = EnginePulse(self.ours, used_s=lambda _: self.used_s, clock_s=lambda: self.now_s)

    def answer(self) -> None:
        _, (asked,), _, _ = socket.recv_fds(self.theirs, 1, 1)
        with socket.socket(fileno=asked) as stream:
            stream.sendall(encode(Status("m", "1", "cpu", 1, 1, 0, 0, {})))

    def look(self, times: int, *, every_s: float = 1.0, computes: float = 0.0, pid: int = 1) -> list[bool]:
        found = []
        for _ in range(times):
            self.now_s += every_s
            if self.used_s is not None:
                self.used_s += every_s * computes
            found.append(self.pulse.is_lost(pid, limit_s=LIMIT_S))
        return found


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.theirs.close()
    made.look(1)  # what was asked last has its end
    made.ours.close()


def felt(engine: Engine) -> None:
    engine.look(1)
    engine.answer()
    engine.look(1)
    assert engine.pulse.was_felt


def test_silence_without_computing_is_a_standstill(engine: Engine) -> None:
    felt(engine)
    assert engine.look(60)[-1]


def test_who_computes_may_be_silent(engine: Engine) -> None:
    felt(engine)
    assert not any(engine.look(600, computes=0.2))


def test_an_answer_begins_it_anew(engine: Engine) -> None:
    felt(engine)
    assert not any(engine.look(59))
    engine.answer()
    assert not any(engine.look(59))


def test_loading_takes_as_long_as_it_takes_also_the_second_time(engine: Engine) -> None:
    assert not any(engine.look(1000))
    engine.answer()
    engine.look(1)
    assert not any(engine.look(1000, pid=2))
    assert not engine.pulse.was_felt


def test_a_supervisor_that_stood_still_itself_judges_nobody(engine: Engine) -> None:
    felt(engine)
    assert not any(engine.look(1, every_s=100_000.0))


def test_an_engine_that_cannot_be_seen_is_not_judged(engine: Engine) -> None:
    """As with hidepid. Once it can be seen again, time counts from then on."""
    engine.used_s = None
    felt(engine)
    assert not any(engine.look(200))
    engine.used_s = 0.0
    assert any(engine.look(121))


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
def test_a_doorbell_that_somebody_shut_is_silence_and_no_error(engine: Engine, how: int) -> None:
    felt(engine)
    engine.theirs.shutdown(how)
    assert any(engine.look(121))


def test_a_full_doorbell_does_not_hold_the_one_who_watches(engine: Engine) -> None:
    """A worker can fill the queue of a doorbell that nobody answers."""
    with suppress(BlockingIOError):
        while True:
            engine.ours.send(b"x", socket.MSG_DONTWAIT)
    looking = threading.Thread(target=engine.look, args=(3,), daemon=True)
    looking.start()
    looking.join(HELD_S)
    assert not looking.is_alive()


def test_an_answer_without_an_end_is_none(engine: Engine) -> None:
    engine.look(1)
    _, (asked,), _, _ = socket.recv_fds(engine.theirs, 1, 1)
    with socket.socket(fileno=asked) as stream, suppress(BrokenPipeError):
        for _ in range(16):
            stream.sendall(b"x" * 32768)
            engine.look(1)
        pytest.fail("it is listened to without an end")
    assert not engine.pulse.was_felt


def used_s() -> float:
    seen_s = processor_time_s(os.getpid())
    assert seen_s is not None
    return seen_s


def test_processor_time_is_that_of_the_process() -> None:
    before_s = used_s()
    while used_s() < before_s + 0.02:
        pass
    assert abs(used_s() - sum(os.times()[:2])) < 0.1


def test_no_process_no_time() -> None:
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    assert processor_time_s(gone) is None
