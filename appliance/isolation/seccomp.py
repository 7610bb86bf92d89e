"""The system call filter that makes a process and all its descendants silent, on every kernel in use.

This module compiles the policy of a kind of process (policy.py): the filter allows the listed calls and refuses all
others. It answers ENOSYS to a call that is newer than the table, as an older kernel would. It refuses the calls of a
foreign ABI (32-bit, x32), because their numbers mean other things.

Filters add up, and of two verdicts the kernel takes the harsher: ERRNO, then NOTIFY, TRACE, ALLOW. Of two equally harsh
ones it takes the newer. So the supervisor's
own filter, which all programs inherit, refuses by TRACE (without a tracer: ENOSYS), and a program's filter by NOTIFY,
which reaches the watcher. docs/decisions/0005 says why.

What it covers: opening any socket, naming any peer, and every known call that does this on a process's
behalf or borrows the way out of another process, namespace or terminal. What it does not cover: files; see
docs/silence.md.

Source: seccomp(2), linux/filter.h (classic BPF), linux/seccomp.h. Classic BPF sees a call's number and its arguments,
never what a pointer points to. So datagram sockets are refused outright (sendmsg names a peer behind a pointer).
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum

from appliance.isolation.calls import NEWEST_KNOWN_CALL
from appliance.isolation.kernel import Machine, SilenceError, machine, syscall
from appliance.isolation.policy import QUIET
from appliance.isolation.rules import CallPolicy, Only, Rules

RET_ERRNO, RET_ALLOW = 0x00050000, 0x7FFF0000
X32_BIT = 0x40000000
_SET_MODE_FILTER = 1
_ALL_THREADS, _NEW_LISTENER = 1, 8  # SECCOMP_FILTER_FLAG_TSYNC, _NEW_LISTENER


class Refusal(IntEnum):
    """How a filter refuses a call."""

    ERRNO = RET_ERRNO | errno.EPERM  # for a process without a watcher
    OWN = RET_ERRNO | errno.ENOANO  # for a proof: no other filter gives this answer, and of two errors the newer counts
    NOTIFY = 0x7FC00000  # the caller waits for the watcher's answer; without one it is ENOSYS
    TRACE = 0x7FF00000  # ENOSYS; the NOTIFY of a program's own filter overrides it


Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, k
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGS_OFFSET = 0, 4, 16  # struct seccomp_data
_ALLOW: Instruction = (_RETURN, 0, 0, RET_ALLOW)
_NOT_IMPLEMENTED: Instruction = (_RETURN, 0, 0, RET_ERRNO | errno.ENOSYS)


def build_filter(
    target: Machine, policy: CallPolicy, refusal: Refusal, *, leave_out: Collection[str] = ()
) -> list[Instruction]:
    """The program for one ABI. ``leave_out`` names calls, "32-bit" or "x32" to leave unfiltered, for tests."""
    refuse: Instruction = (_RETURN, 0, 0, refusal)
    program: list[Instruction] = []
    # 1. Only the native ABI: in another ABI the numbers below mean other calls.
    if "32-bit" not in leave_out:
        program += [(_LOAD, 0, 0, _ARCH_OFFSET), (_JUMP_EQUAL, 1, 0, target.audit_arch), refuse]
    program.append((_LOAD, 0, 0, _NUMBER_OFFSET))
    if target.has_x32 and "x32" not in leave_out:
        program += [(_JUMP_AT_LEAST, 0, 1, X32_BIT), refuse]
    # 2. Calls newer than the table, and calls that libraries only try.
    program += [(_JUMP_AT_LEAST, 0, 1, NEWEST_KNOWN_CALL + 1), _NOT_IMPLEMENTED]
    for name in sorted(QUIET - set(leave_out)):
        program += _for_number(target, name, [_NOT_IMPLEMENTED])
    # 3. Calls limited by arguments. Each block returns, so the number is still loaded for the next block.
    allowed = {name: rules for name, rules in policy.allowed.items() if name not in leave_out}
    for name, rules in allowed.items():
        if rules:
            program += _for_number(target, name, [*_any_of(rules), refuse])
    # 4. Calls with any arguments: the refused ones if all others are allowed, else the allowed ones.
    if policy.others:
        for name in sorted(policy.refused - set(leave_out)):
            program += _for_number(target, name, [refuse])
        return [*program, _ALLOW]
    whole = [name for name, rules in allowed.items() if not rules] + [name for name in leave_out]
    for first, last in _ranges(target.numbers[name] for name in whole if name in target.numbers):
        program += [(_JUMP_AT_LEAST, 0, 2, first), (_JUMP_AT_LEAST, 1, 0, last + 1), _ALLOW]
    return [*program, refuse]


def build_refusals(target: Machine, calls: Collection[str], answer: int) -> list[Instruction]:
    """A program that gives one answer to these calls and leaves all others to the filters installed before it."""
    checks = [step for name in calls for step in _for_number(target, name, [(_RETURN, 0, 0, answer)])]
    return [
        (_LOAD, 0, 0, _ARCH_OFFSET),
        (_JUMP_EQUAL, 0, len(checks) + 1, target.audit_arch),  # the first filter refuses a foreign ABI
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        *checks,
        _ALLOW,
    ]


def pretend(calls: Collection[str]) -> None:
    """Have the kernel report success for these calls of this process without executing them.

    This serves a library that gives up when such a call is refused, although it does not need its effect. The call has
    no effect, so no refusal is reported.

    Raises:
        SilenceError: the kernel refuses it.
    """
    success = RET_ERRNO  # with errno 0: the kernel skips the call and returns 0
    _install(build_refusals(machine(), calls, success), _ALL_THREADS)


def refuse_also(calls: Collection[str]) -> None:
    """Refuse these calls, too, from now on.

    Raises:
        SilenceError: the kernel refuses it.
    """
    _install(build_refusals(machine(), calls, Refusal.ERRNO), _ALL_THREADS)


def install_filter(policy: CallPolicy, refusal: Refusal, *, leave_out: Collection[str] = ()) -> None:
    """Put every thread of this process, and every process it will start, under the filter, for ever.

    ``no_new_privs`` must be set. Filters add up: a second one can only refuse more.

    Raises:
        SilenceError: the kernel refuses it, or has no seccomp.
    """
    _install(build_filter(machine(), policy, refusal, leave_out=leave_out), _ALL_THREADS)


def install_watched_filter(policy: CallPolicy, *, leave_out: Collection[str] = ()) -> int:
    """Do the same for a process of one thread; return the descriptor at which its refused calls wait for an answer.

    Raises:
        SilenceError: the kernel refuses it: it is older than Linux 5.0, or another process outside watches already.
    """
    return _install(build_filter(machine(), policy, Refusal.NOTIFY, leave_out=leave_out), _NEW_LISTENER)


def _install(program: Sequence[Instruction], flags: int) -> int:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    try:
        answer = syscall("seccomp", _SET_MODE_FILTER, flags, header)
    except OSError as exc:
        raise SilenceError(
            f"the kernel refuses the system call filter ({exc.strerror}), without which nothing may start; it needs "
            "CONFIG_SECCOMP_FILTER, and inside a container or service a profile that allows seccomp(2)"
        ) from exc
    if flags == _ALL_THREADS and answer != 0:
        raise SilenceError(f"the system call filter could not be put on thread {answer}")
    return answer


def _for_number(target: Machine, name: str, block: list[Instruction]) -> list[Instruction]:
    """The block for one call; empty if the processor has no such call."""
    number = target.numbers.get(name)
    return [] if number is None else [(_JUMP_EQUAL, 0, len(block), number), *block]


def _any_of(rules: Rules) -> list[Instruction]:
    """ALLOW if every condition of one rule holds; otherwise go on to the next instruction."""
    program: list[Instruction] = []
    for rule in rules:
        steps: list[Instruction] = [_ALLOW]
        for condition in reversed(rule):
            steps = [*_test(condition, if_not=len(steps)), *steps]
        program += steps
    return program


def _test(condition: Only, *, if_not: int) -> list[Instruction]:
    """Go on if the condition holds, otherwise jump over ``if_not`` instructions. Both ABIs are little-endian."""
    offset = _ARGS_OFFSET + 8 * condition.argument + (4 if condition.high else 0)
    load: list[Instruction] = [(_LOAD, 0, 0, offset)]
    if condition.mask != 0xFFFF_FFFF:
        load.append((_AND, 0, 0, condition.mask))
    values = condition.values
    if condition.unless:  # every value jumps away
        return [*load, *((_JUMP_EQUAL, len(values) - 1 - at + if_not, 0, value) for at, value in enumerate(values))]
    last = len(values) - 1
    return [
        *load,
        *((_JUMP_EQUAL, last - at, 0 if at < last else if_not, value) for at, value in enumerate(values)),
    ]


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The numbers as runs without a gap, each given by its first and last number."""
    runs: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
