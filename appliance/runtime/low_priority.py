"""Work that gives way to everything else on this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

_LOWEST: Final = 19
_THIS_THREAD: Final = 0  # the calling one; the filter allows no other value


def run_last() -> None:
    """Let the calling thread run only when no other wants to. The filter of a confined process may refuse this."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, _THIS_THREAD, _LOWEST)
