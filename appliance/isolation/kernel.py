"""The few system calls and constants that isolation needs and Python lacks, through ctypes.

It knows 64-bit little-endian x86_64 and aarch64 only; nothing starts on a processor without a table of calls.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from typing import Any

from appliance.errors import ApplianceError
from appliance.isolation.calls import AARCH64, X86_64


class SilenceError(ApplianceError):
    """A way out could not be closed, or was found open: nothing may start."""


@dataclass(frozen=True)
class Machine:
    """One ABI of the kernel: its name for auditing and its system call numbers."""

    audit_arch: int  # AUDIT_ARCH_* of linux/audit.h, what seccomp_data.arch holds
    has_x32: bool  # numbers with bit 30 set are a second ABI (x86 only)
    numbers: dict[str, int]


MACHINES = {
    "x86_64": Machine(0xC000003E, True, X86_64),
    "aarch64": Machine(0xC00000B7, False, AARCH64),
}

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
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
    """Make one system call, by number or by name; integers are passed as longs, ctypes objects and bytes as pointers.

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


def name_process(name: str) -> None:
    """Set the name of this process in process lists; the kernel keeps at most 15 bytes of it."""
    _libc.prctl(ctypes.c_int(_PR_SET_NAME), ctypes.c_char_p(name.encode()), 0, 0, 0)


def prctl(option: int, *args: int) -> int:
    """Call prctl(2) with all unused arguments zero, as the newer options demand.

    Raises:
        OSError: the kernel's refusal.
    """
    padded = [ctypes.c_ulong(arg) for arg in (*args, 0, 0, 0, 0)[:4]]
    result = int(_libc.prctl(ctypes.c_int(option), *padded))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
