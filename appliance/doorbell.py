"""The pair of sockets through which web workers hand their turns to the engine; the supervisor keeps both ends."""

from __future__ import annotations

import os
import select
import socket


class Doorbell:
    """One pair, under descriptors that stay the same when it is replaced.

    Whoever holds an end can shut it for all who hold it: the engine then reads an end of input, and so does every
    engine after it. Only a new pair helps, and only those who are started with it.
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
        """Put a new pair in the place of the old one; what has inherited the old one keeps that."""
        for new, old in zip(_pair(), (self.web_end, self.engine_end), strict=True):
            with new:
                os.dup2(new.fileno(), old.fileno(), inheritable=False)


def is_shut(doorbell: socket.socket) -> bool:
    """Whether nobody can ring any more. An empty message only looks like the end of the input."""
    poll = select.poll()
    poll.register(doorbell, select.POLLRDHUP)
    return bool(poll.poll(0))


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
