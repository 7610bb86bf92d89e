"""Code inside a real web worker, engine and recorder, under the real supervisor, tries to get out, to run a program and
to free itself. Nothing arrives anywhere, each attempt is refused, and each is in the record. Unconfined, the same code
gets through. Tried with every layer and with the system call filter alone.
"""

from __future__ import annotations

import platform
from collections import Counter
from typing import Any

import pytest

from tests.attacks.own_network import in_its_own_network
from tests.conftest import require

HOSTS = ["every layer", "filter alone"]
KINDS = {"web": "web", "engine": "engine-cpu", "recorder": "recorder"}
# What the filter sees of the attempts of `inside.tries` and `inside.tries_on`.
CALLS = Counter({
    "socket": 4, "execve": 1, "io_uring_setup": 1, "unshare": 1, "ptrace": 1, "pidfd_open": 1, "process_vm_readv": 1,
    "bpf": 1, "perf_event_open": 1, "userfaultfd": 1, "keyctl": 1, "memfd_create": 1, "seccomp": 1, "ioctl": 1,
    "kill": 1, "mount": 1, "call 400": 1,
})  # fmt: skip
CALLS_ON_CONNECTION = Counter({"setsockopt": 16, "ioctl": 1})
REACHES = {  # unconfined, where the kernel of an ordinary host grants it
    "IPV6_RTHDR", "IPv6 MCAST_JOIN_GROUP", "IPv6 MCAST_JOIN_SOURCE_GROUP", "MCAST_JOIN_GROUP",
    "MCAST_JOIN_SOURCE_GROUP", "IP_ADD_SOURCE_MEMBERSHIP", "SIOCGIFCONF",
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `attacked_network` saw."""
    require(platform.machine() == "x86_64", "an x86-64 processor (the attacker's code is written for it)")
    return in_its_own_network("tests.attacks.attacked_network", str(tmp_path_factory.mktemp("attacked")))


def test_unconfined_the_same_code_reaches_the_attacker(found: dict[str, Any]) -> None:
    outcomes = found["unconfined"]["outcomes"]
    assert {name for name, outcome in outcomes.items() if outcome == "OPEN"} >= REACHES
    assert found["unconfined"]["marks"] == ["the IPv4 group", "the IPv6 group", "the attacker's address", "the text"]


@pytest.mark.parametrize("host", HOSTS)
def test_nothing_of_it_arrives_and_every_try_is_refused(found: dict[str, Any], host: str) -> None:
    attacked = found[host]
    assert attacked["marks"] == []
    assert set(attacked["web"]) > set(attacked["engine"]) == set(attacked["recorder"])
    for name in KINDS:
        assert set(attacked[name].values()) == {"EPERM"}, (name, attacked[name])
    assert ("Not in force: network namespace" in attacked["said"]) == (host == "filter alone")


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", KINDS)
def test_each_try_is_in_the_record_with_its_process_and_call(found: dict[str, Any], host: str, name: str) -> None:
    events = [event for event in found[host]["events"] if event["kind"] == KINDS[name]]
    seen = Counter[str]()
    for event in events:
        assert event["subject"] == f"{KINDS[name]}: {event['call']}"
        assert event["outcome"] == "denied"
        assert f"Process {event['pid']} ({KINDS[name]}) called {event['call']}" in event["text"]
        seen[event["call"]] += event["count"]
    tried = CALLS + (CALLS_ON_CONNECTION if name == "web" else Counter())
    # After the first, calls of one name are counted for a minute and reported at its end.
    assert seen.keys() == tried.keys()
    assert all(1 <= seen[call] <= tried[call] for call in tried), seen


def test_what_decides_is_told(found: dict[str, Any]) -> None:
    texts = {event["subject"]: event["text"] for event in found["every layer"]["events"]}
    assert "called setsockopt (0x29, 0x39)" in texts["web: setsockopt"]  # IPPROTO_IPV6, IPV6_RTHDR
    assert "called socket (AF_INET, type 0x80001, protocol 0)" in texts["engine-cpu: socket"]
    assert "could run another program" in texts["recorder: execve"]
    assert "nobody foresaw it" in texts["web: call 400"]
