"""The socket pair through which web workers hand their turns to the engine, and another for files to the reader.

The supervisor keeps both ends of each.
"""

from __future__ import annotations

import array
import os
import select
import socket
from typing import Final

RING_BYTE: Final = b"\x01"  # what comes with the descriptor


class Doorbell:
    """A socket pair whose descriptors keep their numbers when the pair is replaced.

    Any process that holds an end can shut it for all holders. The engine then reads the end of its input, and so does
    every later engine. Only a new pair mends this, and only for processes that start with it.
    """

    def __init__(self) -> None:
        self.web_end, self.engine_end = _pair()

    @property
    def fds(self) -> tuple[int, int]:
        return self.web_end.fileno(), self.engine_end.fileno()

    def is_shut(self) -> bool:
        """Whether the engine's end would read the end of input."""
        return is_shut(self.engine_end)

    def replace(self) -> None:
        """Put a new pair in the place of the old one. Processes that inherited the old pair keep it."""
        for new, old in zip(_pair(), (self.web_end, self.engine_end), strict=True):
            with new:
                os.dup2(new.fileno(), old.fileno(), inheritable=False)


def ring(doorbell: socket.socket) -> socket.socket:
    """Hand one end of a new pair to whoever answers the doorbell. The value is our end; the caller closes it.

    Raises:
        BlockingIOError: the doorbell's queue is full.
        OSError: somebody shut the doorbell, or too many descriptors are under way.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with theirs:  # socket.send_fds takes flags and ignores them, so a full queue would block
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))]
            doorbell.sendmsg([RING_BYTE], rights, socket.MSG_DONTWAIT)
    except OSError:
        ours.close()
        raise
    return ours


def is_shut(doorbell: socket.socket) -> bool:
    """Whether the doorbell can no longer ring. Unlike a read, this does not mistake an empty message for that."""
    poll = select.poll()
    poll.register(doorbell, select.POLLRDHUP)
    return bool(poll.poll(0))


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
