"""What a signal from outside means to the appliance's processes: one or two tell a process to end, the others nothing.

By default most signals end a process or stop it, and a program that manages others gives some a meaning that nobody
wants here: gunicorn would change the number of its workers, load its configuration again, or start a second server.
Left alone are the signals by which the kernel or the C library reports a fault of the process itself, and the end of a
child: whoever sends those kills, as with SIGKILL. So do 32 and 33, which the C library keeps for itself.
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
    """Ignore what nobody is meant to send to this process; programs that it becomes inherit that (execve(2))."""
    for number in signal.valid_signals() - _OF_THE_KERNEL - set(meant):
        signal.signal(number, signal.SIG_IGN)


def how_ended(code: int) -> str:
    """What ended a process, in words, by its ``os.waitstatus_to_exitcode``. Not every signal has a name."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal SIG{-code}"
