"""The system call filter that makes a process and all its descendants silent, on every kernel in use.

It is a list of refusals, each with its reason, plus one rule for what nobody has seen yet: a system call newer than
this filter is answered ENOSYS, as an older kernel would. A refusal is EPERM. Calls of a foreign ABI (32-bit, x32),
whose numbers mean other things, kill the process.

What it covers: opening any socket that is not a Unix stream or packet one, naming any peer, and every call known to do
such work on one's behalf or to borrow another process's, namespace's or terminal's ways out.
What it does not: files. A process may still write where its user may; see docs/silence.md.

Source: seccomp(2), linux/filter.h (classic BPF), linux/seccomp.h. Classic BPF sees a call's number and its arguments,
never what a pointer leads to; so datagram sockets are refused outright (sendmsg names a peer behind a pointer).
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Collection

from appliance.isolation.kernel import CLONE_NEW_ANY, NEWEST_KNOWN_CALL, Machine, SilenceError, machine, syscall

RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
MSG_FASTOPEN = 0x20000000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # type into the terminal, as if the person at it did
X32_BIT = 0x40000000
_SOCK_TYPE_MASK = 0xF  # the rest of socket(2)'s type is SOCK_CLOEXEC and SOCK_NONBLOCK

REFUSED_OUTRIGHT = (
    # Naming a peer, or opening a second door. Our processes talk through pairs made with socketpair.
    *("connect", "bind"),
    # Does any of the above on one's behalf, unseen by this filter.
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    # Another namespace's network, and the mounts (NFS, CIFS) that would use it.
    *("setns", "unshare"),
    *("mount", "umount2", "pivot_root", "open_tree", "open_tree_attr", "move_mount"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "open_by_handle_at"),
    # Another process's memory or sockets.
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"),
    # The kernel's own helpers: request_key("dns_resolver", ..) makes it run a resolver outside every namespace.
    *("add_key", "request_key", "keyctl"),
    # Code inside the kernel, and the usual ways to take it over.
    *("bpf", "perf_event_open", "userfaultfd", "init_module", "finit_module", "kexec_load", "kexec_file_load"),
)

_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, k
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGS_OFFSET = 0, 4, 16  # struct seccomp_data
_EPERM, _ENOSYS = RET_ERRNO | errno.EPERM, RET_ERRNO | errno.ENOSYS


def build_filter(target: Machine, *, leave_out: Collection[str] = ()) -> list[_Instruction]:
    """The program for one ABI. ``leave_out`` names calls, "32-bit" or "x32" to leave unfiltered, for tests."""
    program: list[_Instruction] = []
    # 1. Only the native ABI: the numbers below mean other calls in any other.
    if "32-bit" not in leave_out:
        program = [
            (_LOAD, 0, 0, _ARCH_OFFSET),
            (_JUMP_EQUAL, 1, 0, target.audit_arch),
            (_RETURN, 0, 0, RET_KILL_PROCESS),
        ]
    program.append((_LOAD, 0, 0, _NUMBER_OFFSET))
    if target.has_x32 and "x32" not in leave_out:
        program += [(_JUMP_AT_LEAST, 0, 1, X32_BIT), (_RETURN, 0, 0, RET_KILL_PROCESS)]
    # 2. Calls that did not exist when this was written.
    program += [(_JUMP_AT_LEAST, 0, 1, NEWEST_KNOWN_CALL + 1), (_RETURN, 0, 0, _ENOSYS)]
    # 3. Each refusal is a block that returns, so the number is still loaded when the next block compares it.
    refusals = {name: [(_RETURN, 0, 0, _EPERM)] for name in REFUSED_OUTRIGHT}
    refusals["clone3"] = [(_RETURN, 0, 0, _ENOSYS)]  # its flags lie behind a pointer; libc falls back to clone
    refusals["clone"] = _refuse_any_bit(0, CLONE_NEW_ANY)
    refusals["socket"] = refusals["socketpair"] = _allow_unix_streams()
    refusals["sendto"] = _refuse_any_bit(3, MSG_FASTOPEN, then=_refuse_not_null(4))
    refusals["sendmsg"] = _refuse_any_bit(2, MSG_FASTOPEN)
    refusals["sendmmsg"] = _refuse_any_bit(3, MSG_FASTOPEN)
    refusals["ioctl"] = [
        _load_argument(1),
        (_JUMP_EQUAL, 1, 0, TIOCSTI),
        (_JUMP_EQUAL, 0, 1, TIOCLINUX),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, RET_ALLOW),
    ]
    for name, block in refusals.items():
        if name not in leave_out:
            program += [(_JUMP_EQUAL, 0, len(block), target.numbers[name]), *block]
    return [*program, (_RETURN, 0, 0, RET_ALLOW)]


def build_pretence(target: Machine, calls: Collection[str]) -> list[_Instruction]:
    """The program of ``pretend``."""
    success = RET_ERRNO  # with errno 0: the kernel skips the call and returns 0
    checks = [
        instruction
        for name in calls
        for instruction in ((_JUMP_EQUAL, 0, 1, target.numbers[name]), (_RETURN, 0, 0, success))
    ]
    return [
        (_LOAD, 0, 0, _ARCH_OFFSET),
        (_JUMP_EQUAL, 0, len(checks) + 1, target.audit_arch),  # a foreign ABI is the first filter's to kill
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        *checks,
        (_RETURN, 0, 0, RET_ALLOW),
    ]


def pretend(calls: Collection[str]) -> None:
    """Have the kernel answer success to these calls of this process, without doing them.

    For a library that gives up when a call is refused which it can do without. Of filters that refuse with an errno the
    newest one's errno counts, so this changes what a refused call says, never what is done.

    Raises:
        SilenceError: the kernel refuses it.
    """
    _install(build_pretence(machine(), calls))


def install_filter(*, leave_out: Collection[str] = ()) -> None:
    """Put every thread of this process, and every process it will start, under the filter, for ever.

    ``no_new_privs`` must be set. Filters add up: a second one can only refuse more.

    Raises:
        SilenceError: the kernel refuses it, or has no seccomp.
    """
    _install(build_filter(machine(), leave_out=leave_out))


def _install(program: list[_Instruction]) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    set_mode_filter, all_threads = 1, 1
    try:
        thread = syscall("seccomp", set_mode_filter, all_threads, header)
    except OSError as exc:
        raise SilenceError(
            f"the kernel refuses the system call filter ({exc.strerror}), without which nothing may start; it needs "
            "CONFIG_SECCOMP_FILTER, and inside a container or service a profile that allows seccomp(2)"
        ) from exc
    if thread != 0:
        raise SilenceError(f"the system call filter could not be put on thread {thread}")


def _load_argument(index: int, *, high: bool = False) -> _Instruction:
    """Load 32 bits of an argument; both ABIs are little-endian. The kernel ignores the high half of an int."""
    return (_LOAD, 0, 0, _ARGS_OFFSET + 8 * index + (4 if high else 0))


def _refuse_any_bit(index: int, bits: int, *, then: list[_Instruction] | None = None) -> list[_Instruction]:
    rest = then or [(_RETURN, 0, 0, RET_ALLOW)]
    return [_load_argument(index), (_JUMP_ANY_BIT, 0, 1, bits), (_RETURN, 0, 0, _EPERM), *rest]


def _refuse_not_null(index: int) -> list[_Instruction]:
    return [
        _load_argument(index),
        (_JUMP_EQUAL, 0, 2, 0),
        _load_argument(index, high=True),
        (_JUMP_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, RET_ALLOW),
    ]


def _allow_unix_streams() -> list[_Instruction]:
    """Unix stream and packet sockets: without connect, a pair of one's own. (A Unix raw socket is a datagram one.)"""
    return [
        _load_argument(0),
        (_JUMP_EQUAL, 0, 4, int(socket.AF_UNIX)),
        _load_argument(1),
        (_AND, 0, 0, _SOCK_TYPE_MASK),
        (_JUMP_EQUAL, 2, 0, int(socket.SOCK_STREAM)),
        (_JUMP_EQUAL, 1, 0, int(socket.SOCK_SEQPACKET)),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, RET_ALLOW),
    ]
