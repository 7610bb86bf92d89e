"""Turns what a process inherits from its caller into what this code expects. The caller may be hostile, or an old
init script.

Not covered: the variables of the dynamic loader (``LD_PRELOAD``), which act before the first line of our code.
`appliance/runtime/launch.py` drops other variables.
"""

from __future__ import annotations

import os
import resource
import signal
from typing import Final

from appliance.errors import ApplianceError

_DELIVERED: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)
_LEAST_FILES: Final = 128  # for the supervisor; web workers check their own needs


class InheritedError(ApplianceError):
    """The caller has set a limit that is too low to serve."""


def begin_afresh() -> None:
    """Undo what a caller may have closed, ignored, blocked or opened to others. One thread only.

    Afterwards descriptors 0, 1 and 2 are open; otherwise the next socket or lock would take their place, and programs
    would print into that. Ends of children are reported (they vanish if ``SIGCHLD`` is ignored), and signals arrive.
    An ignored SIGHUP stays ignored, because nohup asks for that. Other users cannot read new files.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for number in _DELIVERED:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o077)


def check_limits() -> None:
    """Refuse a limit under which the supervisor, or later the record, would fail with a less clear message.

    Raises:
        InheritedError: a limit is too low; the message says what to do.
    """
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
        most = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most, most))
    files, length_bytes = (resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE))
    if files != resource.RLIM_INFINITY and files < _LEAST_FILES:
        raise InheritedError(f"a process may open {files} files at once, which is too few to serve; raise ulimit -Hn")
    if length_bytes != resource.RLIM_INFINITY:
        raise InheritedError(f"no file may grow beyond {length_bytes} bytes, as the record must; drop ulimit -f")
