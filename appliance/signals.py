"""What signals from outside do to the appliance's processes: one or two end a process, the others do nothing.

By default most signals end or stop a process. gunicorn gives some of them meanings that this appliance must not have:
it would change the number of its workers, reload its configuration, or start a second server. The signals by which the
kernel or the C library reports a fault of the process or the end of a child keep their meaning, so the signal of a
fault kills, as SIGKILL does. So do 32 and 33, which the C library uses itself.
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
    """Ignore all signals that this process should not get; execve(2) passes this on to the next program."""
    for number in signal.valid_signals() - _OF_THE_KERNEL - set(meant):
        signal.signal(number, signal.SIG_IGN)


def how_ended(code: int) -> str:
    """What ended a process, in words, by its ``os.waitstatus_to_exitcode``."""
    return f"exit status {code}" if code >= 0 else f"signal {name_of(-code)}"


def name_of(number: int) -> str:
    """The name of a signal, such as SIGTERM. Without a name, as most real-time signals, it is SIG and a number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
