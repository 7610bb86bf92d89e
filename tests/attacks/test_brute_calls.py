"""Brute force by each kind of process: every number of a system call, every option of a connection, every control of
every sort of descriptor, every flag and every kind of ancillary data that can be sent. This file says what may pass the
filter, and why it does no harm; everything else must be refused. Only replies may leave.
"""

from __future__ import annotations

import fcntl
import os
import platform
import socket
import termios
from typing import Any

import pytest

from appliance.isolation.dangers import DANGERS
from appliance.isolation.kernel import machine
from appliance.isolation.policy import Kind
from tests.attacks.brute import ADDRESSES, KINDS
from tests.attacks.own_network import in_its_own_network
from tests.conftest import require
from tests.unprivileged import let_through

HOSTS = ["every-layer", "filter-alone"]
SOL, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
OPTIONS = {
    "the size of one's buffers": {(SOL, socket.SO_RCVBUF), (SOL, socket.SO_SNDBUF), (SOL, socket.SO_RCVLOWAT)},
    "how long one waits": {(SOL, socket.SO_RCVTIMEO), (SOL, socket.SO_SNDTIMEO), (SOL, socket.SO_LINGER)},
    "probes to who is connected": {
        (SOL, socket.SO_KEEPALIVE), (TCP, socket.TCP_KEEPIDLE), (TCP, socket.TCP_KEEPINTVL), (TCP, socket.TCP_KEEPCNT),
        (TCP, socket.TCP_USER_TIMEOUT),
    },
    "when what is written is sent": {
        (TCP, socket.TCP_NODELAY), (TCP, socket.TCP_CORK), (TCP, socket.TCP_QUICKACK), (TCP, socket.TCP_NOTSENT_LOWAT),
        (TCP, socket.TCP_DEFER_ACCEPT),
    },
    "of bind, which is refused": {(SOL, socket.SO_REUSEADDR), (SOL, socket.SO_REUSEPORT)},
}  # fmt: skip
ASKED = {(SOL, socket.SO_TYPE), (SOL, socket.SO_ERROR), (SOL, socket.SO_ACCEPTCONN), (SOL, 38), (SOL, 39), (TCP, 11)}
CONTROLS = {
    "whether one's own descriptor blocks or is inherited": {termios.FIONBIO, termios.FIOCLEX, termios.FIONCLEX},
    "asks": {termios.FIONREAD, termios.TCGETS, 0x802C542A, termios.TIOCGWINSZ},
}
COMMANDS = {
    "one's own descriptors and their flags": {
        fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL,
    },
    "locks: test_brute_locks.py": {fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW, 36, 37, 38},
    "the size of a pipe": {fcntl.F_GETPIPE_SZ, fcntl.F_SETPIPE_SZ},
}  # fmt: skip
PRCTL = {
    "one's own end and name": {1, 2, 15, 16}, "asks": {3, 21, 23, 39, 51, 64}, "names of one's memory": {0x53564D41},
}  # fmt: skip
# Calls that can do harm, which a web worker may make when every bit of their arguments is set.
WEB_MAY = {
    "accept": "that is what the listener is for", "accept4": "the same", "tgkill": "test_signals_from_inside.py",
    "listen": "only a socket that is bound can listen, and nobody can bind",
}  # fmt: skip
LAST_CALL = 469


@pytest.fixture(scope="module", params=HOSTS)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `brute` saw."""
    require(platform.machine() == "x86_64", "an x86-64 processor")
    home = tmp_path_factory.mktemp("brute")
    let_through(home)
    return in_its_own_network("tests.attacks.brute", str(home), request.param)


def everything(table: dict[str, set[Any]]) -> set[Any]:
    return {value for values in table.values() for value in values}


def test_no_option_of_a_connection_passes_but_those_of_the_table(found: dict[str, Any]) -> None:
    for kind in KINDS:
        options = {name: {tuple(pair) for pair in pairs} for name, pairs in found["kinds"][kind]["options"].items()}
        web, talks = kind is Kind.WEB, kind in (Kind.WEB, Kind.ENGINE_CPU, Kind.READER)
        allowed = everything(OPTIONS)
        assert options["setsockopt"] == (allowed if web else set())
        asked = {pair for pair in allowed | ASKED if web or pair[0] == SOL}
        assert options["getsockopt"] == (asked if talks else set())


def test_nothing_leaves_but_replies_whatever_is_set_and_sent(found: dict[str, Any]) -> None:
    """This includes ancillary data: routing headers, packet information, marks, sending times, credentials,
    descriptors.
    """
    assert found["kinds"][Kind.WEB]["sent"] > 10_000
    assert found["dropped"] == 0
    replies = {(address, address, socket.IPPROTO_TCP) for address in (*ADDRESSES.values(), "127.0.0.1")}
    ipv6_itself = {ends for ends in map(tuple, found["packets"]) if ends[0].startswith("fe80:") and ends[2] == 58}
    assert {ends[1] for ends in ipv6_itself} <= {"ff02::2", "ff02::16"}  # each interface looks for routers by itself
    assert set(map(tuple, found["packets"])) - ipv6_itself == replies


def test_no_control_of_any_descriptor_passes_but_those_of_the_table(found: dict[str, Any]) -> None:
    for kind in KINDS:
        controls = found["kinds"][kind]["controls"]
        assert len(controls) >= (12 if kind is Kind.WEB else 2)
        for descriptor, requests in controls.items():
            assert set(requests) == everything(CONTROLS), (kind, descriptor)


def test_no_command_option_or_flag_passes_but_those_of_the_tables(found: dict[str, Any]) -> None:
    for kind in KINDS:
        small = found["kinds"][kind]["small"]
        assert set(small["fcntl"]) == everything(COMMANDS)
        assert set(small["prctl"]) == everything(PRCTL)
        assert small["dumpable"] == [0]
        assert small["clone"] == []  # beside the two that make a thread and a process
        assert small["prlimit64"] == [0]
        assert small["setpriority"] == ([[os.PRIO_PROCESS, 0]] if kind is Kind.RECORDER else [])
        assert small["socket"] == []
        pairs = [[socket.AF_UNIX, socket.SOCK_STREAM], [socket.AF_UNIX, socket.SOCK_SEQPACKET]]
        assert small["socketpair"] == (pairs if kind is Kind.WEB else [])
        assert small["shutdown"] == ([socket.SHUT_WR] if kind is Kind.WEB else [])


def test_no_number_of_a_system_call_leads_past_the_table(found: dict[str, Any]) -> None:
    """The kernel takes no number for another call: unnamed, negative, huge, with a high half, or of another ABI."""
    names = {number: name for name, number in machine().numbers.items()}
    harmful = {name for danger in DANGERS for name in danger.calls.split()}
    for kind in KINDS:
        passed = found["kinds"][kind]["numbers"]
        assert passed["x32"] == passed["negative"] == passed["huge"] == []
        assert [number & 0xFFFF_FFFF for number in passed["high half"]] == passed["native"]
        assert max(passed["native"]) <= LAST_CALL
        called = {names[number] for number in passed["native"]}
        assert called & harmful == (WEB_MAY.keys() if kind is Kind.WEB else set())
        assert len(called) > 100  # the control: calls that a program needs do pass
