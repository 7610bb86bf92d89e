"""Work that changes the process that does it for ever, such as confining itself, done in a child of the test's."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from typing import Any


def in_child(work: Callable[[int], Any]) -> Any:
    """What ``work`` returns in a forked child, by way of JSON.

    Args:
        work: is given the descriptor that carries its result, for work that closes what nobody asks it to keep.
    Raises:
        RuntimeError: the child ended without a result; what it raised stands on stderr.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            result = work(write_end)
            with os.fdopen(write_end, "w") as stream:
                json.dump(result, stream)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as stream:
        text = stream.read()
    status = os.waitpid(pid, 0)[1]
    if not text:
        raise RuntimeError(f"the child ended without a result, with status {status:#x}")
    return json.loads(text)
