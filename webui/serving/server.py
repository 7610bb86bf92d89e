"""The server on its listeners: accepts connections, checks their deadlines, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

from webui.serving.answer import WsgiApp
from webui.serving.connection import Connection
from webui.serving.crowd import Crowd
from webui.serving.limits import ACCEPTS_AT_ONCE, Limits
from webui.serving.pool import Pool
from webui.serving.shared import Serving

_BACKLOG = 1024
_LAST_LOOKS_S = 0.02


class _Listener(socket.socket):
    """A listener that blocks nobody, even if another process makes it blocking.

    All workers share its flags, so a worker that was taken over can make it blocking. Every worker's loop would then
    stand still until the next person connects. So `accept` runs only if somebody has connected, and makes the listener
    non-blocking each time.
    """

    def accept(self) -> tuple[socket.socket, Any]:
        somebody = select.poll()
        somebody.register(self, select.POLLIN)
        if not somebody.poll(0):
            raise BlockingIOError
        self.setblocking(False)
        return super().accept()


class Server:
    """Everything between a listening socket and a WSGI application."""

    def __init__(
        self, app: WsgiApp, limits: Limits, *, threads: int, tls: Callable[[], ssl.SSLContext | None],
        is_exempt: Callable[[str], bool], is_multiprocess: bool = False, clock_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Args: tls: the context for a new connection, None for plain HTTP; is_exempt: says whether an address may have
        any number of connections."""
        pool = Pool(threads=threads, streams=limits.streams, waiting=limits.waiting_requests)
        crowd: Crowd[Connection] = Crowd(limits)
        self._serving = Serving(app, limits, crowd, pool, clock_s, tls, is_exempt, is_multiprocess)
        self._listening: list[asyncio.Server] = []
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self, listeners: Iterable[socket.socket]) -> None:
        """Accept connections from now on."""
        loop = asyncio.get_running_loop()
        for shared in listeners:
            listener = _Listener(fileno=os.dup(shared.fileno()))
            make = lambda: Connection(self._serving)  # noqa: E731
            if listener.family == socket.AF_UNIX:
                self._listening.append(await loop.create_unix_server(make, sock=listener, backlog=ACCEPTS_AT_ONCE))
            else:
                self._listening.append(await loop.create_server(make, sock=listener, backlog=ACCEPTS_AT_ONCE))
            # asyncio accepts `backlog` connections at once, before it hands over the first of them. More may queue in
            # the kernel, where they take no file descriptor.
            listener.listen(_BACKLOG)
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self, *, answer_s: float, record_s: float) -> None:
        """Accept no more connections, and end the open ones.

        Args:
            answer_s: how long running requests may still take.
            record_s: how long their threads then have to notice the end and to record it.
        """
        self._serving.is_stopping = True
        for listening in self._listening:
            listening.close()
        for connection in self._serving.crowd:
            connection.stop()
        await self._until_answered(answer_s)
        self._serving.is_ending = True
        for connection in self._serving.crowd:
            connection.stop_waiting()
        await self._until_answered(record_s)
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
        for connection in self._serving.crowd:
            connection.give_way()

    async def _until_answered(self, limit_s: float) -> None:
        """Wait until all connections have ended, at most for `limit_s`."""
        deadline_s = time.monotonic() + limit_s
        while len(self._serving.crowd) and time.monotonic() < deadline_s:
            await asyncio.sleep(_LAST_LOOKS_S)

    async def _sweep(self) -> None:
        while True:
            self._serving.crowd.look_at_deadlines(self._serving.clock_s())
            await asyncio.sleep(self._serving.limits.tick_s)
