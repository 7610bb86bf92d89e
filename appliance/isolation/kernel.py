"""The few system calls and constants that isolation needs and Python does not offer, through ctypes.

Numbers are the kernel's (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h; Linux 6.18); once
assigned they never change. Only 64-bit little-endian x86_64 and aarch64 are known; without a table nothing starts.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from typing import Any

from appliance.errors import ApplianceError


class SilenceError(ApplianceError):
    """A way out could not be closed, or was found open: nothing may start."""


@dataclass(frozen=True)
class Machine:
    """One ABI of the kernel: its name for auditing and its system call numbers."""

    audit_arch: int  # AUDIT_ARCH_* of linux/audit.h, what seccomp_data.arch holds
    has_x32: bool  # numbers with bit 30 set are a second ABI (x86 only)
    numbers: dict[str, int]


# name: (x86_64, aarch64)
_NUMBERS = {
    "ioctl": (16, 29),
    "socket": (41, 198),
    "connect": (42, 203),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "bind": (49, 200),
    "listen": (50, 201),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "ptrace": (101, 117),
    "capset": (126, 91),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "init_module": (175, 105),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265),
    "sendmmsg": (307, 269),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "finit_module": (313, 273),
    "seccomp": (317, 277),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    # From 424 on every architecture shares its numbers.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "clone3": (435, 435),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "open_tree_attr": (467, 467),
}

MACHINES = {
    "x86_64": Machine(0xC000003E, True, {name: pair[0] for name, pair in _NUMBERS.items()}),
    "aarch64": Machine(0xC00000B7, False, {name: pair[1] for name, pair in _NUMBERS.items()}),
}
NEWEST_KNOWN_CALL = 469  # file_setattr, Linux 6.17: what was read before this filter was written

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
# NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. clone(2) cannot ask for NEWTIME.
CLONE_NEW_ANY = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | CLONE_NEWUSER | 0x20000000 | CLONE_NEWNET

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def machine() -> Machine:
    """The ABI of this process.

    Raises:
        SilenceError: there is no table for it.
    """
    found = MACHINES.get(platform.machine())
    if found is None or sys.maxsize < 2**32 or sys.byteorder != "little":
        raise SilenceError(f"silence cannot be enforced on this processor ({platform.machine()}): no system call table")
    return found


def syscall(number: int | str, *args: Any) -> int:
    """One system call by number or by name; integers are passed as longs, ctypes objects and bytes as pointers.

    Raises:
        OSError: the kernel's refusal.
    """
    if isinstance(number, str):
        number = machine().numbers[number]
    values = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = int(_libc.syscall(ctypes.c_long(number), *values))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def prctl(option: int, *args: int) -> int:
    """prctl(2) with unused arguments zero, as the newer options demand.

    Raises:
        OSError: the kernel's refusal.
    """
    padded = [ctypes.c_ulong(arg) for arg in (*args, 0, 0, 0, 0)[:4]]
    result = int(_libc.prctl(ctypes.c_int(option), *padded))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
