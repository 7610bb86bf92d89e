"""Work that only a process of its own may do, because it cannot be undone in this one."""

from __future__ import annotations

import os
from collections.abc import Callable


def errno_of_child(work: Callable[[], object]) -> int:
    """Do this in a child that ends afterwards; 0, or the errno of the OSError that it met (255: it failed otherwise).

    Work that becomes another program ends as that does: its exit status, negative for a signal.
    """
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            work()
            code = 0
        except OSError as exc:
            code = exc.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
