"""Children that bring a value back, or end before."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from appliance.child import ChildEndedError, NoProcessError, errno_of_child, value_of_child
from appliance.isolation import SilenceError
from appliance.isolation.attempts import open_props
from appliance.isolation.policy import Kind
from appliance.isolation.proof import prove_kind
from appliance.isolation.trial import try_silence

_NAMELESS = 35  # a real-time signal without a name in Python; the C library may handle 32 and 33 itself


def test_a_value_of_any_length_comes_back() -> None:
    assert value_of_child(lambda _: {"pid": os.getpid(), "long": "x" * 300_000})["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "signal SIGKILL"),
        (lambda: os.kill(os.getpid(), _NAMELESS), "signal SIG35"),
        (lambda: os._exit(3), "exit status 3"),
        (lambda: 1 // 0, "exit status 255"),
    ],
)
def test_a_child_that_ends_without_a_value_is_said_with_what_ended_it(end: Callable[[], object], words: str) -> None:
    with pytest.raises(ChildEndedError, match=f"^{words}$"):
        value_of_child(lambda _: end())


def test_a_proof_that_a_signal_without_a_name_ends_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **_named: object) -> None:
        os.kill(os.getpid(), _NAMELESS)

    with open_props() as props, pytest.raises(SilenceError, match=r"ways out of the web ended \(signal SIG35\)"):
        prove_kind(props, Kind.WEB, None, die)
    monkeypatch.setattr("appliance.isolation.trial.shut_the_door_for_programs", die)
    with pytest.raises(SilenceError, match=r"tried to be silent ended \(signal SIG35\)"):
        try_silence(become=None, programs=[])


@pytest.mark.parametrize("work", [lambda: errno_of_child(lambda: None), lambda: value_of_child(lambda _: None)])
def test_a_user_who_may_start_no_process_is_told_what_to_do(
    work: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("appliance.child.os.fork", refuse)
    with pytest.raises(NoProcessError, match=r"no further process can be started: Resource .*; end other processes"):
        work()
