"""How tests wait: for something that another thread or process does, and never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

HELD_S: Final = 60.0  # after this a wait has failed: long enough for a loaded machine, and no test hangs
_POLL_S: Final = 0.01
Found = TypeVar("Found")


def wait_for(
    condition: Callable[[], Found],
    *,
    within_s: float = HELD_S,
    alive: Callable[[], bool] = lambda: True,
    said: Callable[[], object] = lambda: "",
) -> Found:
    """Call ``condition`` until it gives something true, and return that.

    Args:
        alive: whether it can still come true: the program that is waited for runs.
        said: what to show if it does not.
    """
    deadline_s = time.monotonic() + within_s
    while not (found := condition()):
        assert alive(), said()
        assert time.monotonic() < deadline_s, f"not within {within_s} s; {said()}"
        time.sleep(_POLL_S)
    return found
