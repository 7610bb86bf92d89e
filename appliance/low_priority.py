"""Work that gives way to everything else on this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

_LOWEST: Final = 19
_THIS_THREAD: Final = 0  # to the kernel; the filter lets nobody name another


def run_last() -> None:
    """Let the calling thread run when no other wants to. A confined process may not be allowed to ask."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, _THIS_THREAD, _LOWEST)
