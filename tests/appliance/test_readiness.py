"""When an engine counts as having come to a standstill."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from appliance.engine.wire import encode
from appliance.readiness import EnginePulse, processor_time_s
from appliance.turns.engine import Status

LIMIT_S = 60.0


class Engine:
    """An engine's end of the doorbell, its processor time, and the clock of whoever feels its pulse."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.used_s = self.now_s = 0.0
        self.pulse = EnginePulse(self.ours, used_s=lambda _: self.used_s, clock_s=lambda: self.now_s)

    def answer(self) -> None:
        _, (asked,), _, _ = socket.recv_fds(self.theirs, 1, 1)
        with socket.socket(fileno=asked) as stream:
            stream.sendall(encode(Status("m", "1", "cpu", 1, 1, 0, 0, {})))

    def look(self, times: int, *, every_s: float = 1.0, computes: float = 0.0, pid: int = 1) -> list[bool]:
        found = []
        for _ in range(times):
            self.now_s += every_s
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


def test_processor_time_is_that_of_the_process() -> None:
    before_s = processor_time_s(os.getpid())
    while processor_time_s(os.getpid()) < before_s + 0.02:
        pass
    used_s = sum(os.times()[:2])
    assert abs(processor_time_s(os.getpid()) - used_s) < 0.1
