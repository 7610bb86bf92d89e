"""The proof under a filter that the host has installed before: a service manager's or a container's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

# As systemd refuses calls: with an error, which hides the answers of filters that are installed later.
_TRY_UNDER_FILTER = """
import errno, json, sys
from dataclasses import asdict
from appliance.isolation import SilenceError
from appliance.isolation.kernel import PR_SET_NO_NEW_PRIVS, machine, prctl
from appliance.isolation.policy import Kind
from appliance.isolation.seccomp import RET_ERRNO, _ALL_THREADS, _install, build_refusals
from appliance.isolation.trial import try_silence
refused, left_out = json.load(sys.stdin)
prctl(PR_SET_NO_NEW_PRIVS, 1)
for name, code in refused.items():
    _install(build_refusals(machine(), [name], RET_ERRNO | getattr(errno, code)), _ALL_THREADS)
try:
    programs = [Kind.RECORDER, Kind.WEB, Kind.ENGINE_CPU]
    json.dump(asdict(try_silence(become=None, programs=programs, leave_out=left_out)), sys.stdout)
except SilenceError as exc:
    json.dump(str(exc), sys.stdout)
"""
REFUSED = {"mount": "EPERM", "unshare": "EPERM", "setns": "EACCES"}


def under_filter(*left_out: str, refused: Mapping[str, str] = MappingProxyType(REFUSED)) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", _TRY_UNDER_FILTER], input=json.dumps([{**refused}, left_out]),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def silence() -> Any:
    return under_filter()


def test_the_door_is_shut_and_proved_under_a_filter_of_the_host(silence: Any) -> None:
    assert not isinstance(silence, str), silence
    answers = {(attempt["kind"], attempt["way"]): attempt["answer"] for attempt in silence["attempts"]}
    assert answers["web", "setns"] == answers["supervisor", "setns"] == "EACCES"  # the host's answer
    assert answers["web", "ptrace"] == "EPERM"  # of the watcher
    assert answers["supervisor", "ptrace"] == "ENOSYS"  # of our own filter


def test_the_report_says_how_many_attempts_the_watcher_cannot_see(silence: Any) -> None:
    (watch,) = [layer for layer in silence["layers"] if layer["name"] == "watch over refused calls"]
    assert watch["in_force"]
    assert f"except in {len(REFUSED)} of the ways" in watch["detail"]


@pytest.mark.parametrize("left_out", ["mount", "setns", "ptrace"])
def test_refuses_to_start_when_our_filter_lacks_a_call_even_if_the_host_refuses_it(left_out: str) -> None:
    said = under_filter(left_out)
    assert isinstance(said, str), "the proof passed, because the host's filter hid what ours lacks"
    assert "nothing may start" in said
    assert left_out in said


def test_refuses_to_start_under_a_filter_that_answers_as_our_own_proof_does() -> None:
    said = under_filter("mount", refused={"mount": "ENOANO"})
    assert isinstance(said, str), "the proof took the host's answer for that of our own filter"
    assert "ENOANO" in said
