"""Pipes of which a program gets one end and cannot get the other.

Whoever holds a descriptor of a pipe could otherwise open the pipe again through /proc/self/fd, in the other direction:
code in a web worker could read, and so swallow, what its siblings print or what gunicorn reports of ended workers. No
rule on files covers that, because a pipe has no path. It has a mode, which the programs cannot change.
"""

from __future__ import annotations

import os


def one_way_pipe() -> tuple[int, int]:
    """As ``os.pipe``: the reading and the writing end, which nobody can open again."""
    read_end, write_end = os.pipe()
    os.fchmod(write_end, 0)
    return read_end, write_end
