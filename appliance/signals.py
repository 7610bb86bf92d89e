"""What signals from outside do to the appliance's processes: one or two end a process, the others do nothing.

By default most signals end or stop a process, and a program that manages others gives some a meaning that nobody wants
here: gunicorn would change the number of its workers, load its configuration again, or start a second server. Signals
by which the kernel or the C library reports a fault of the process itself, or the end of a child, keep their meaning:
sending one of the former kills, as SIGKILL does. So do 32 and 33, which the C library keeps for itself.
"""

from __future__ import annotations

import signal
from collections.abc import Collection
from typing import Final

_OF_THE_KERNEL: Final = frozenset({
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS, signal.SIGABRT,
    signal.SIGPIPE, signal.SIGCHLD, signal.SIGCONT, signal.SIGKILL, signal.SIGSTOP,
})  # fmt: skip


def ignore_all_but(meant: Collection[signal.Signals]) -> None:
    """Ignore signals that nobody is meant to send to this process; execve(2) passes that on."""
    for number in signal.valid_signals() - _OF_THE_KERNEL - set(meant):
        signal.signal(number, signal.SIG_IGN)


def how_ended(code: int) -> str:
    """What ended a process, in words, by its ``os.waitstatus_to_exitcode``."""
    return f"exit status {code}" if code >= 0 else f"signal {name_of(-code)}"


def name_of(number: int) -> str:
    """SIGTERM, say; SIG and the number for a signal without a name, such as most of the real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
