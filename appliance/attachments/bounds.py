"""What a process that reads one file may use: nothing of the machine but its own memory, some time, and one socket.

The reader's kind of process has no network, no database and no files but the program's own code (policy.py, files.py).
`confine_to` takes the rest away for ever from a process that has been forked for one file: it can open no file at all,
start nothing, signal nobody, and has limits for memory and processor time.

A call that the reader itself may not make (a socket, another program) still reaches the watcher and becomes an event.
What only this further filter refuses (opening a file) fails with EPERM and is not reported.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.isolation.kernel import PR_SET_PDEATHSIG, prctl
from appliance.isolation.policy import Kind, call_policy
from appliance.isolation.seccomp import refuse_also

MIB: Final = 1024 * 1024
_CALLS_AT_ONCE: Final = 100  # a filter's jump spans 255 instructions, and each call takes two
_MOST_FILES: Final = 2**31 - 1
_AFTER_CPU_S: Final = 2  # from the signal that asks the process to end to the one that ends it
# All that a computation needs which has its input and its code in memory already.
_KEPT: Final = frozenset({
    *("read", "write", "readv", "writev", "recvfrom", "sendto", "poll", "ppoll", "close", "lseek"),
    *("brk", "mmap", "munmap", "mprotect", "mremap", "madvise", "membarrier"),
    *("futex", "set_robust_list", "rseq", "sched_yield"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall"),
    *("getrandom", "clock_gettime", "gettimeofday", "time", "times", "getrusage", "getpid", "gettid"),
    *("exit", "exit_group"),
})  # fmt: skip


@dataclass(frozen=True)
class Bounds:
    """For one file. ``whole_s`` is wall-clock time, with the arrival of the file."""

    memory_bytes: int = 512 * MIB  # beside what the reader has when it starts
    cpu_s: int = 20
    whole_s: float = 40.0


class OutOfTimeError(Exception):
    """The processor time of this process is used up."""


def confine_to(bounds: Bounds, *, held_bytes: int, keep: Collection[int]) -> None:
    """Confine this process, which has one thread and reads one file.

    Args:
        held_bytes: `address_space_bytes` of the reader, of which this process is a copy.
        keep: its only open descriptors afterwards, besides 0, 1 and 2, which lead to /dev/null.
    Raises:
        OutOfTimeError: at any later moment, in the main thread.
        SilenceError: the kernel refuses the filter.
    """
    # 1. It ends with the reader, and holds nothing of it.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    first = 3
    for kept in (*sorted(keep), _MOST_FILES):  # /proc/self, which lists them, is another directory in a copy
        os.closerange(first, kept)
        first = kept + 1
    # 2. Memory, processor time, and no file that grows.
    _limit(resource.RLIMIT_AS, held_bytes + bounds.memory_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CPU, bounds.cpu_s, bounds.cpu_s + _AFTER_CPU_S)
    signal.signal(signal.SIGXCPU, _out_of_time)
    # 3. System calls. After this, none of the lines above could be made again.
    names = sorted(call_policy(Kind.READER).allowed.keys() - _KEPT - {"seccomp"})
    for first in range(0, len(names), _CALLS_AT_ONCE):
        refuse_also(names[first : first + _CALLS_AT_ONCE])
    refuse_also(["seccomp"])


def _limit(which: int, soft: int, hard: int | None = None) -> None:
    allowed = resource.getrlimit(which)[1]
    most = soft if hard is None else hard
    if allowed != resource.RLIM_INFINITY:
        soft, most = min(soft, allowed), min(most, allowed)
    resource.setrlimit(which, (soft, most))


def address_space_bytes() -> int:
    """How much of its address space this process uses."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _out_of_time(_signal: int, _frame: object) -> None:
    raise OutOfTimeError
