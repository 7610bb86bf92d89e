"""The filter's program, run by a small interpreter of classic BPF, for both processors: one call allowed or refused."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.isolation.kernel import MACHINES, NEWEST_KNOWN_CALL
from appliance.isolation.seccomp import REFUSED_OUTRIGHT, build_filter, build_pretence

KILL, ALLOW = 0x80000000, 0x7FFF0000
EPERM, ENOSYS = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
I386, ARM = 0x40000003, 0x40000028  # AUDIT_ARCH of the 32-bit ABIs of both processors
BOTH = pytest.mark.parametrize("machine", MACHINES)


def run(
    machine: str, call: str | int, *args: int, arch: int | None = None,
    program: list[tuple[int, int, int, int]] | None = None,
) -> int:  # fmt: skip
    """What the kernel would do: an independent reading of linux/filter.h over struct seccomp_data."""
    target = MACHINES[machine]
    number = target.numbers[call] if isinstance(call, str) else call
    padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number, target.audit_arch if arch is None else arch, 0, *padded)
    program, at, accumulator = program or build_filter(target), 0, 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif code == 0x54:
            accumulator &= k
        elif code == 0x06:
            return k
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            at += if_true if holds else if_false


@BOTH
@pytest.mark.parametrize("call", REFUSED_OUTRIGHT)
def test_refuses_each_listed_call_whatever_its_arguments(machine: str, call: str) -> None:
    assert run(machine, call) == EPERM
    assert run(machine, call, *[2**64 - 1] * 6) == EPERM


@BOTH
@pytest.mark.parametrize("call", ["socket", "socketpair"])
@given(family=st.integers(0, 2**32 - 1), kind=st.integers(0, 2**32 - 1))
def test_allows_only_unix_stream_and_packet_sockets(machine: str, call: str, family: int, kind: int) -> None:
    allowed = family == 1 and kind & 0xF in (1, 5)
    assert run(machine, call, family, kind) == (ALLOW if allowed else EPERM)


@BOTH
@pytest.mark.parametrize("kind", [1, 5, 1 | 0o2000000 | 0o4000])
def test_allows_pairs_of_ones_own(machine: str, kind: int) -> None:
    assert run(machine, "socketpair", 1, kind) == ALLOW


@BOTH
@pytest.mark.parametrize("kind", [2, 3, 2 | 0o2000000])
def test_refuses_unix_datagrams_also_by_their_other_name(machine: str, kind: int) -> None:
    assert run(machine, "socketpair", 1, kind) == EPERM
    assert run(machine, "socket", 1, kind) == EPERM


@BOTH
def test_high_half_of_an_int_argument_changes_nothing(machine: str) -> None:
    assert run(machine, "socket", (7 << 32) | 2, 1) == EPERM  # the kernel sees AF_INET
    assert run(machine, "socketpair", (7 << 32) | 1, 1) == ALLOW


@BOTH
@pytest.mark.parametrize(("call", "index"), [("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)])
@given(flags=st.integers(0, 2**32 - 1))
def test_refuses_fast_open_among_any_flags(machine: str, call: str, index: int, flags: int) -> None:
    args = [0] * 6
    args[index] = flags
    assert run(machine, call, *args) == (EPERM if flags & 0x20000000 else ALLOW)


@BOTH
@given(address=st.integers(1, 2**64 - 1))
def test_refuses_sendto_that_names_a_peer(machine: str, address: int) -> None:
    assert run(machine, "sendto", 3, 0, 0, 0, address, 16) == EPERM
    assert run(machine, "sendto", 3, 0, 0, 0, 0, 0) == ALLOW


@BOTH
def test_refuses_clone_into_any_namespace_and_allows_threads_and_children(machine: str) -> None:
    for bit in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert run(machine, "clone", 0x11 | bit) == EPERM
    assert run(machine, "clone", 0x3D0F00) == ALLOW  # what pthread_create asks for
    assert run(machine, "clone", 0x1200011) == ALLOW  # what fork asks for
    assert run(machine, "clone3", 0, 88) == ENOSYS


@BOTH
def test_refuses_to_type_into_the_terminal(machine: str) -> None:
    assert run(machine, "ioctl", 0, 0x5412) == EPERM
    assert run(machine, "ioctl", 0, (1 << 32) | 0x541C) == EPERM
    assert run(machine, "ioctl", 0, 0x5413) == ALLOW  # TIOCGWINSZ


@BOTH
def test_kills_foreign_abis(machine: str) -> None:
    for arch in {I386, ARM, 0, *(other.audit_arch for name, other in MACHINES.items() if name != machine)}:
        assert run(machine, 0, arch=arch) == KILL


def test_kills_x32_calls() -> None:
    assert run("x86_64", 0x40000000) == KILL
    assert run("x86_64", 0x40000000 + 42) == KILL
    assert run("x86_64", 2**32 - 1) == KILL


@BOTH
def test_calls_newer_than_the_filter_do_not_exist(machine: str) -> None:
    assert run(machine, NEWEST_KNOWN_CALL) == ALLOW
    assert run(machine, NEWEST_KNOWN_CALL + 1) == ENOSYS
    assert run(machine, 0x3FFFFFFF) == ENOSYS


@BOTH
def test_everything_else_is_allowed(machine: str) -> None:
    filtered = set(MACHINES[machine].numbers.values())
    for number in range(NEWEST_KNOWN_CALL + 1):
        if number not in filtered:
            assert run(machine, number, *[2**64 - 1] * 6) == ALLOW


PRETENDED = 0x00050000  # an errno of 0: skipped, and answered as done


@BOTH
def test_a_pretence_answers_its_calls_alone_and_leaves_the_rest_to_the_filter(machine: str) -> None:
    program = build_pretence(MACHINES[machine], ("bind", "listen"))
    for name in MACHINES[machine].numbers:
        wanted = PRETENDED if name in ("bind", "listen") else ALLOW
        assert run(machine, name, *[2**64 - 1] * 6, program=program) == wanted
    assert run(machine, "bind", arch=I386, program=program) == ALLOW  # the first filter kills it
