"""Hands an answer's bytes from its thread to the event loop, and limits how many may be on their way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol


class ClientGoneError(Exception):
    """The connection is closed, so no more of the answer can be delivered."""


class Loop(Protocol):
    """The connection, as seen from here. Its methods run on the event loop."""

    def deliver(self, data: bytes) -> None: ...

    def finish(self, *, keeps: bool) -> None: ...

    def abort(self) -> None: ...


class Delivery:
    """One for each connection. The thread uses ``send``, ``finish`` and ``fail``, the event loop everything else."""

    def __init__(self, connection: Loop, most_bytes: int) -> None:
        """Args: most_bytes: how much a thread may hand over before the transport has taken it."""
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._handed_bytes = 0  # handed over, and not yet with the transport
        self._is_full = self._is_lost = self._is_gone = False

    def send(self, data: bytes) -> None:
        """Deliver `data`. Waits while the client does not read.

        Raises:
            ClientGoneError: the connection is closed.
        """
        with self._changed:
            self._changed.wait_for(self._has_room)
            if self._is_lost:
                raise ClientGoneError
            self._handed_bytes += len(data)
        self._on_loop(self._deliver, data)

    def finish(self, *, keeps: bool) -> None:
        """The answer is complete. Args: keeps: another request may follow on this connection."""
        self._on_loop(lambda: self._connection.finish(keeps=keeps))

    def fail(self) -> None:
        """The answer ends incomplete, and the client must see that."""
        self._on_loop(self._connection.abort)

    def is_gone(self) -> bool:
        """Whether the client has closed the connection."""
        return self._is_gone

    @property
    def is_full(self) -> bool:
        """Whether the kernel takes no more for now, because the client does not read."""
        return self._is_full

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._is_lost

    def note_full(self, is_full: bool) -> None:
        with self._changed:
            self._is_full = is_full
            self._changed.notify_all()

    def note_gone(self) -> None:
        """Nobody waits for the answer. It can still be sent."""
        self._is_gone = True

    def note_lost(self) -> None:
        with self._changed:
            self._is_gone = self._is_lost = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._is_lost or not (self._is_full or self._handed_bytes > self._most_bytes)

    def _deliver(self, data: bytes) -> None:
        with self._changed:
            self._handed_bytes -= len(data)
            self._changed.notify_all()
        self._connection.deliver(data)

    def _on_loop(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError as exc:  # the loop is closed: the server has stopped
            raise ClientGoneError from exc
