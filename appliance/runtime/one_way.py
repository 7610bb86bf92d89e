"""Pipes that keep a program to the end that it was given.

A process that holds one end of an ordinary pipe can open the other end through /proc/self/fd. Code in a web worker
could then read, and so swallow, what its siblings print or what gunicorn reports about ended workers. No rule on files
covers a pipe, because it has no path. But it has a mode, which the programs cannot change.
"""

from __future__ import annotations

import os


def one_way_pipe() -> tuple[int, int]:
    """Like ``os.pipe``, return the reading and the writing end; nobody can open either again."""
    read_end, write_end = os.pipe()
    os.fchmod(write_end, 0)
    return read_end, write_end
