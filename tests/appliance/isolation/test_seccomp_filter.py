"""A small interpreter of classic BPF runs the filters' programs for both processors: what they allow and refuse."""

from __future__ import annotations

import errno
import fcntl
import re
import socket
import struct
import termios
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.isolation.calls import AARCH64, NEWEST_KNOWN_CALL, X86_64
from appliance.isolation.dangers import DANGERS, danger_of
from appliance.isolation.kernel import MACHINES
from appliance.isolation.policy import GROUPS, QUIET, Kind, call_policy
from appliance.isolation.seccomp import Instruction, Refusal, build_filter, build_refusals
from tests.conftest import require

ALLOW, NOTIFY, TRACE = 0x7FFF0000, 0x7FC00000, 0x7FF00000
EPERM, ENOSYS = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
I386, ARM = 0x40000003, 0x40000028  # AUDIT_ARCH of the 32-bit ABIs of both processors
LISTED = [kind for kind in Kind if kind is not Kind.ENGINE_CUDA]
PROGRAMS = [kind for kind in LISTED if kind not in (Kind.SUPERVISOR, Kind.WATCHER)]
BOTH = pytest.mark.parametrize("machine", MACHINES)
EVERY_KIND = pytest.mark.parametrize("kind", list(Kind))
ANY = 2**64 - 1


@cache
def program_of(machine: str, kind: Kind, *left_out: str) -> tuple[Instruction, ...]:
    return tuple(build_filter(MACHINES[machine], call_policy(kind), Refusal.NOTIFY, leave_out=left_out))


def run(
    machine: str, kind: Kind | tuple[Instruction, ...], call: str | int, *args: int, arch: int | None = None
) -> int:
    """What the kernel would do: an independent reading of linux/filter.h over struct seccomp_data."""
    target = MACHINES[machine]
    number = target.numbers[call] if isinstance(call, str) else call
    padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number, target.audit_arch if arch is None else arch, 0, *padded)
    program, at, accumulator = program_of(machine, kind) if isinstance(kind, Kind) else kind, 0, 0
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
            holds = {0x15: accumulator == k, 0x35: accumulator >= k}[code]
            at += if_true if holds else if_false


def names_of(kind: Kind) -> set[str]:
    """Calls that the table gives a kind, fully or in part, read without the compiler."""
    groups = [group for group in GROUPS if kind in group.kinds]
    return {name for group in groups for name in (*group.calls.split(), *group.partly)}


@BOTH
@pytest.mark.parametrize("kind", LISTED)
def test_a_kind_makes_the_calls_of_its_groups_and_no_other(machine: str, kind: Kind) -> None:
    partly = {name for group in GROUPS if kind in group.kinds for name in group.partly}
    whole = names_of(kind) - {
        name for name in partly
        if not any(name in group.calls.split() for group in GROUPS if kind in group.kinds)
    }  # fmt: skip
    if kind is Kind.SUPERVISOR:
        groups = [group for group in GROUPS if group.kinds & set(PROGRAMS)]
        whole |= {name for group in groups for name in group.calls.split()}
    for name in MACHINES[machine].numbers:
        answer = run(machine, kind, name, *[ANY] * 6)
        if name in whole:
            assert answer == ALLOW, name
        else:
            assert answer == (ENOSYS if name in QUIET else NOTIFY), name


@BOTH
@pytest.mark.parametrize("kind", LISTED)
def test_numbers_without_a_name_are_refused_and_newer_ones_do_not_exist(machine: str, kind: Kind) -> None:
    known = set(MACHINES[machine].numbers.values())
    for number in set(range(NEWEST_KNOWN_CALL + 1)) - known:
        assert run(machine, kind, number) == NOTIFY
    for number in (NEWEST_KNOWN_CALL + 1, 0x3FFFFFFF):
        assert run(machine, kind, number) == ENOSYS


@BOTH
@EVERY_KIND
def test_no_program_makes_a_dangerous_call_whatever_its_arguments(machine: str, kind: Kind) -> None:
    if kind is Kind.SUPERVISOR:
        return  # the supervisor starts programs; the table says what it may
    for call in (name for danger in DANGERS if danger.cuda for name in danger.calls.split()):
        if call in MACHINES[machine].numbers:
            for arguments in ([0] * 6, [ANY] * 6):
                assert run(machine, kind, call, *arguments) == NOTIFY, call


VALUES = (0, 1, 2, 5, 6, 9, 13, 41, 0x3D0F00, 0x1200011, 0x5401, 0x5421, 1030, 0x30000001, ANY)


@BOTH
@pytest.mark.parametrize("kind", [*PROGRAMS, Kind.ENGINE_CUDA])
def test_the_supervisor_may_whatever_its_programs_may(machine: str, kind: Kind) -> None:
    """Filters add up: a call that the supervisor's filter refuses would be lost to its programs."""
    policy = call_policy(Kind.SUPERVISOR, engine=kind if kind is Kind.ENGINE_CUDA else Kind.ENGINE_CPU)
    above = tuple(build_filter(MACHINES[machine], policy, Refusal.TRACE))
    by_argument = {name for group in GROUPS for name in group.partly}
    for name in MACHINES[machine].numbers:
        for first in VALUES if name in by_argument else VALUES[-1:]:
            for second in VALUES if name in by_argument else VALUES[-1:]:
                if run(machine, kind, name, first, second, second) == ALLOW:
                    assert run(machine, above, name, first, second, second) == ALLOW, (name, first, second)


@BOTH
@EVERY_KIND
@settings(max_examples=30)
@given(family=st.integers(0, 2**32 - 1), kind_of_socket=st.integers(0, 2**32 - 1))
def test_no_socket_leads_out(machine: str, kind: Kind, family: int, kind_of_socket: int) -> None:
    pair = family == socket.AF_UNIX and kind_of_socket & 0xF in (1, 5)
    makes_sockets, makes_pairs = kind is Kind.ENGINE_CUDA, kind in (Kind.WEB, Kind.SUPERVISOR, Kind.ENGINE_CUDA)
    assert run(machine, kind, "socket", family, kind_of_socket) == (ALLOW if pair and makes_sockets else NOTIFY)
    assert run(machine, kind, "socketpair", family, kind_of_socket) == (ALLOW if pair and makes_pairs else NOTIFY)


@BOTH
@pytest.mark.parametrize("kind_of_socket", [1, 5, 1 | 0o2000000 | 0o4000])
def test_allows_pairs_of_ones_own(machine: str, kind_of_socket: int) -> None:
    assert run(machine, Kind.WEB, "socketpair", 1, kind_of_socket) == ALLOW


@BOTH
@pytest.mark.parametrize("kind_of_socket", [2, 3, 2 | 0o2000000])
def test_refuses_unix_datagrams_also_by_their_other_name(machine: str, kind_of_socket: int) -> None:
    assert run(machine, Kind.WEB, "socketpair", 1, kind_of_socket) == NOTIFY


@BOTH
def test_high_half_of_an_int_argument_changes_nothing(machine: str) -> None:
    assert run(machine, Kind.WEB, "socketpair", (7 << 32) | 2, 1) == NOTIFY  # the kernel sees AF_INET
    assert run(machine, Kind.WEB, "socketpair", (7 << 32) | 1, 1) == ALLOW
    assert run(machine, Kind.WEB, "setsockopt", 3, (7 << 32) | 41, 57) == NOTIFY


@BOTH
@EVERY_KIND
@pytest.mark.parametrize(("call", "index"), [("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)])
@settings(max_examples=30)
@given(flags=st.integers(0, 2**32 - 1))
def test_refuses_fast_open_among_any_flags(machine: str, kind: Kind, call: str, index: int, flags: int) -> None:
    args = [0] * 6
    args[index] = flags
    answer = run(machine, kind, call, *args)
    if flags & 0x20000000:
        assert answer == NOTIFY
    elif kind is Kind.WEB and call != "sendmmsg":
        assert answer == ALLOW


@BOTH
@EVERY_KIND
@settings(max_examples=30)
@given(address=st.integers(1, 2**64 - 1))
def test_refuses_sendto_that_names_a_peer(machine: str, kind: Kind, address: int) -> None:
    assert run(machine, kind, "sendto", 3, 0, 0, 0, address, 16) == NOTIFY


@BOTH
@pytest.mark.parametrize("kind", [Kind.WEB, Kind.ENGINE_CPU, Kind.ENGINE_CUDA, Kind.SUPERVISOR])
def test_allows_to_send_to_who_is_connected(machine: str, kind: Kind) -> None:
    assert run(machine, kind, "sendto", 3, 0, 0, 0x4000, 0, 0) == ALLOW


@BOTH
def test_the_reader_may_refuse_itself_more_and_hand_the_answers_to_nobody(machine: str) -> None:
    """SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_TSYNC, and nothing else of seccomp(2)."""
    for operation in range(5):
        for flags in (*range(64), 1 << 31):
            allowed = (operation, flags) == (1, 1)
            assert run(machine, Kind.READER, "seccomp", operation, flags) == (ALLOW if allowed else NOTIFY)


FORKING = {Kind.WEB, Kind.SUPERVISOR, Kind.ENGINE_CUDA, Kind.READER, Kind.ADMINISTRATION}


@BOTH
@EVERY_KIND
def test_makes_threads_and_only_who_must_processes_and_nobody_namespaces(machine: str, kind: Kind) -> None:
    for bit in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        for flags in (0x11, 0x3D0F00, 0x1200011):
            assert run(machine, kind, "clone", flags | bit) == NOTIFY
    assert run(machine, kind, "clone", 0x3D0F00) == ALLOW  # what pthread_create asks for
    assert run(machine, kind, "clone", 0x1200011) == (ALLOW if kind in FORKING else NOTIFY)  # what fork asks for
    assert run(machine, kind, "clone3", 0, 88) == ENOSYS


HARMLESS_OPTIONS = {
    (socket.SOL_SOCKET, number) for number in (2, 7, 8, 9, 13, 15, 18, 20, 21)
} | {(socket.IPPROTO_TCP, number) for number in (1, 3, 4, 5, 6, 9, 12, 18, 25)}  # fmt: skip


@BOTH
@EVERY_KIND
def test_connections_take_the_options_of_a_server_and_no_other(machine: str, kind: Kind) -> None:
    for level in (0, 1, 2, 6, 17, 41, 58, 132, 136, 255, 262, 270, 282, 2**31, 2**32 - 1):
        for option in range(128):
            answer = run(machine, kind, "setsockopt", 3, level, option)
            if kind is Kind.WEB:
                assert answer == (ALLOW if (level, option) in HARMLESS_OPTIONS else NOTIFY), (level, option)
            elif kind is Kind.ENGINE_CUDA:  # Unix sockets alone; credentials are option 16
                wanted = {*HARMLESS_OPTIONS, (socket.SOL_SOCKET, 16)} if level == socket.SOL_SOCKET else set()
                assert answer == (ALLOW if (level, option) in wanted else NOTIFY), (level, option)
            elif kind is not Kind.SUPERVISOR:
                assert answer == NOTIFY


@BOTH
@EVERY_KIND
@pytest.mark.parametrize("request_number", [0x8912, 0x890B, 0x894C, 0x400454CA, 0x5412, 0x541C, 0x8933, 0x5437, 0x540E])
def test_no_interface_tunnel_or_terminal_is_controlled(machine: str, kind: Kind, request_number: int) -> None:
    assert run(machine, kind, "ioctl", 0, request_number) == NOTIFY
    assert run(machine, kind, "ioctl", 0, (1 << 32) | request_number) == NOTIFY


@BOTH
@EVERY_KIND
def test_everybody_may_ask_what_a_descriptor_is(machine: str, kind: Kind) -> None:
    for request_number in (termios.TCGETS, termios.TIOCGWINSZ, termios.FIONBIO, termios.FIOCLEX, 0x802C542A):
        assert run(machine, kind, "ioctl", 0, request_number) == ALLOW


@BOTH
def test_only_the_watcher_answers_for_a_filter(machine: str) -> None:
    """Otherwise an intruder in the supervisor could install a filter of their own and let everything pass."""
    above = tuple(build_filter(MACHINES[machine], call_policy(Kind.SUPERVISOR), Refusal.TRACE))
    for request_number in (0xC0502100, 0xC0182101, 0x40082102, 0x40182103, 0x40082104):  # all of seccomp's own
        assert run(machine, above, "ioctl", 0, request_number) == TRACE
        for kind in PROGRAMS:
            assert run(machine, kind, "ioctl", 0, request_number) == NOTIFY
    for request_number in (0xC0502100, 0xC0182101):
        assert run(machine, Kind.WATCHER, "ioctl", 0, request_number) == ALLOW
    cuda = call_policy(Kind.SUPERVISOR, engine=Kind.ENGINE_CUDA)
    assert run(machine, tuple(build_filter(MACHINES[machine], cuda, Refusal.TRACE)), "ioctl", 0, 0xC0182101) == TRACE


@BOTH
@pytest.mark.parametrize("kind", LISTED)
def test_descriptors_send_no_signals_and_limits_are_ones_own(machine: str, kind: Kind) -> None:
    for command in (fcntl.F_SETOWN, fcntl.F_SETSIG, fcntl.F_NOTIFY, fcntl.F_SETLEASE, 15):  # 15: F_SETOWN_EX
        assert run(machine, kind, "fcntl", 3, command) == NOTIFY
    assert run(machine, kind, "fcntl", 3, fcntl.F_SETLKW) == ALLOW
    assert run(machine, kind, "prlimit64", 0, 7) == ALLOW
    assert run(machine, kind, "prlimit64", 4711, 7) == NOTIFY
    for option in (8, 22, 24, 35, 59):  # keepcaps, seccomp, capabilities, memory map, dispatch
        assert run(machine, kind, "prctl", option) == NOTIFY
    assert [run(machine, kind, "prctl", 4, dumpable) for dumpable in (0, 1, 2)] == [ALLOW, NOTIFY, NOTIFY]
    assert run(machine, kind, "prctl", 15) == ALLOW


@BOTH
@pytest.mark.parametrize("kind", [Kind.WEB, Kind.ENGINE_CUDA])
@settings(max_examples=30)
@given(pid=st.integers(0, 2**32 - 1))
def test_signals_go_to_one_process_at_a_time(machine: str, kind: Kind, pid: int) -> None:
    assert run(machine, kind, "kill", pid, 15) == (ALLOW if 0 < pid < 2**31 else NOTIFY)


@BOTH
@EVERY_KIND
def test_refuses_foreign_abis(machine: str, kind: Kind) -> None:
    for arch in {I386, ARM, 0, *(other.audit_arch for name, other in MACHINES.items() if name != machine)}:
        assert run(machine, kind, 0, arch=arch) == NOTIFY


@EVERY_KIND
def test_refuses_x32_calls(kind: Kind) -> None:
    for number in (0x40000000, 0x40000000 + 42, 2**32 - 1):
        assert run("x86_64", kind, number) == NOTIFY


@BOTH
def test_cuda_may_what_nobody_calls_dangerous(machine: str) -> None:
    dangerous = {name for danger in DANGERS for name in danger.calls.split()}
    for name, number in MACHINES[machine].numbers.items():
        if name not in dangerous and name not in QUIET and name != "prlimit64":
            assert run(machine, Kind.ENGINE_CUDA, number, *[ANY] * 6) == ALLOW, name
    for request_number in (0xC020462A, 0x30000001, 0x19):  # of /dev/nvidiactl ('F') and /dev/nvidia-uvm
        assert run(machine, Kind.ENGINE_CUDA, "ioctl", 5, request_number) == ALLOW


@BOTH
def test_leaving_a_call_out_allows_it_and_nothing_else(machine: str) -> None:
    program = program_of(machine, Kind.RECORDER, "setsockopt")
    assert run(machine, program, "setsockopt", 3, 41, 57) == ALLOW
    assert run(machine, program, "connect") == NOTIFY


@BOTH
def test_a_pretence_answers_its_calls_alone_and_leaves_the_rest_to_the_filter(machine: str) -> None:
    success = 0x00050000  # an errno of 0: skipped, and answered as done
    program = tuple(build_refusals(MACHINES[machine], ("bind", "listen"), success))
    for name in MACHINES[machine].numbers:
        wanted = success if name in ("bind", "listen") else ALLOW
        assert run(machine, program, name, *[ANY] * 6) == wanted
    assert run(machine, program, "bind", arch=I386) == ALLOW  # the first filter refuses it


def test_every_name_in_the_policy_is_a_system_call() -> None:
    for name in {*QUIET, *(name for danger in DANGERS for name in danger.calls.split())} | {
        name for kind in Kind for name in names_of(kind)
    }:
        assert name in X86_64, name
    assert danger_of("connect") == "reach somebody by a socket"
    assert danger_of("32-bit call 102") is not None
    assert danger_of("sched_rr_get_interval") is None


@pytest.mark.parametrize(
    ("header", "pattern", "table"),
    [
        ("x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+)\s+(\d+)", X86_64),
        ("asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+)\s+(\d+)", AARCH64),
    ],
)
def test_numbers_are_those_of_the_hosts_headers(header: str, pattern: str, table: dict[str, int]) -> None:
    path = Path("/usr/include", header)
    require(path.exists(), f"{path} (linux-libc-dev)")
    known = {name: int(number) for name, number in re.findall(pattern, path.read_text())}
    known["newfstatat"] = known.get("newfstatat", known.get("fstatat", 79))
    assert {name: number for name, number in table.items() if name in known} == {
        name: known[name] for name in table if name in known
    }
    assert len(known.keys() & table.keys()) > 300
