"""The engine's sockets: it takes turns from the doorbell, reads one request from each, writes events and never waits.

One thread runs ``ConnectionLoop.run``; ``Connection.send`` may be called from any thread. A client that reads more
slowly than the model writes is given up once ``MAX_UNSENT_BYTES`` wait for it, so that it costs the others nothing.

A hostile client costs the others nothing, either. It may keep the socket that it hands over and so change the flags of
the engine's copy; therefore each read and write asks by a flag of its own not to block. Only a connected Unix stream is
accepted. There are at most ``MAX_CONNECTIONS``. When they are used up, the oldest one without a request is closed for a
new one.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable

from appliance.doorbell import is_shut
from appliance.engine.wire import MAX_LINE_BYTES, Record, encode
from appliance.turns.engine import Status, Tokens, TokenText
from appliance.turns.events import Done, Failed

MAX_UNSENT_BYTES = 1 << 20
MAX_CONNECTIONS = 512  # half of the files that a process may usually open
_RECEIVE_BYTES = 1 << 16
_LAST_RECORDS = (Done, Failed, Status, Tokens, TokenText)  # after these the engine closes the connection


class Connection:
    """One client. The loop's lock guards ``unsent``, ``ending`` and ``gone``; only the loop's thread uses the rest."""

    def __init__(self, loop: ConnectionLoop, stream: socket.socket) -> None:
        self.stream = stream
        self.received = bytearray()
        self.asked = False  # its request has arrived
        self.unsent = bytearray()
        self.ending = False  # nothing comes after ``unsent``
        self.gone = False  # the client left, broke the protocol, or is too slow
        self._loop = loop

    def send(self, record: Record) -> None:
        """Queue a record. What answers a request for good ends the connection when it has been written."""
        self._loop.queue(self, encode(record), last=isinstance(record, _LAST_RECORDS))


class ConnectionLoop:
    """Serves one doorbell. The callbacks run in the loop's thread and must not block."""

    def __init__(
        self,
        doorbell: socket.socket,
        *,
        on_request: Callable[[Connection, bytes], None],
        on_gone: Callable[[Connection], None],
        on_abandoned: Callable[[], None],
    ) -> None:
        """
        Args:
            on_request: called with each client and its one line.
            on_gone: called with each client that left before its last record was written.
            on_abandoned: called when nobody can ring the doorbell any more.
        """
        self._doorbell = doorbell
        self._on_request = on_request
        self._on_gone = on_gone
        self._on_abandoned = on_abandoned
        self._lock = threading.Lock()
        self._touched: set[Connection] = set()  # may have something to write; held under _lock
        self._open: set[Connection] = set()
        self._silent: dict[Connection, None] = {}  # open, but without a request so far; the oldest first
        self._stop_at: float | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._doorbell, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until ``stop``."""
        try:
            while not self._is_over():
                timeout_s = None if self._stop_at is None else max(0.0, self._stop_at - time.monotonic())
                for key, events in self._selector.select(timeout_s):
                    if key.fileobj is self._doorbell:
                        self._accept()
                    elif key.data is None:
                        self._write_touched()
                    else:
                        self._serve(key.data, events)
        finally:
            for connection in list(self._open):
                self._close(connection)

    def stop(self, farewell_s: float) -> None:
        """End ``run`` when everything queued has been written, or after ``farewell_s``."""
        self._stop_at = time.monotonic() + farewell_s
        self._wake()

    def close(self) -> None:
        """Free what the loop holds, after ``run`` has ended and no connection is in use."""
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def queue(self, connection: Connection, line: bytes, *, last: bool) -> None:
        """See ``Connection.send``."""
        with self._lock:
            if connection.gone or connection.ending:
                return
            connection.unsent += line
            connection.ending = last
            wake = not self._touched  # otherwise the loop has been woken already
            self._touched.add(connection)
        if wake:
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes the loop as well
            os.write(self._wake_write, b"\0")

    def _is_over(self) -> bool:
        if self._stop_at is None:
            return False
        with self._lock:
            writing = any(connection.unsent for connection in self._open)
        return not writing or time.monotonic() >= self._stop_at

    def _accept(self) -> None:
        try:
            payload, descriptors, _flags, _address = socket.recv_fds(self._doorbell, 1, 1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not payload and is_shut(self._doorbell):
            self._selector.unregister(self._doorbell)
            self._on_abandoned()
            return
        for descriptor in descriptors:  # none, if this process has no free descriptor
            stream = _as_turn(descriptor)
            if stream is not None:
                self._take(stream)

    def _take(self, stream: socket.socket) -> None:
        """Serve a new client, if there is room."""
        if len(self._open) >= MAX_CONNECTIONS:
            silent = next(iter(self._silent), None)
            if silent is None:
                stream.close()
                return
            self._close(silent)
        connection = Connection(self, stream)
        self._open.add(connection)
        self._silent[connection] = None
        self._selector.register(stream, selectors.EVENT_READ, connection)

    def _serve(self, connection: Connection, events: int) -> None:
        if events & selectors.EVENT_READ and connection in self._open:  # may be closed since select() returned
            self._read(connection)
        if events & selectors.EVENT_WRITE and connection in self._open:
            self._write(connection)

    def _read(self, connection: Connection) -> None:
        try:
            piece = connection.stream.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if connection.asked and piece and connection.ending:  # the rest of a request that is being refused or answered
            return
        if connection.asked or not piece:  # more than one request, or closed
            self._give_up(connection)
            return
        line, newline, rest = piece.partition(b"\n")
        connection.received += line + newline
        if newline and not rest:
            self._has_asked(connection)
            self._on_request(connection, bytes(connection.received))
            connection.received.clear()
        elif newline or len(connection.received) > MAX_LINE_BYTES:
            self._has_asked(connection)
            connection.send(Failed("bad_request", "The request is too long or not one line."))

    def _has_asked(self, connection: Connection) -> None:
        connection.asked = True
        self._silent.pop(connection, None)

    def _write_touched(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, _RECEIVE_BYTES)
        with self._lock:
            touched, self._touched = self._touched & self._open, set()
        for connection in touched:
            self._write(connection)

    def _write(self, connection: Connection) -> None:
        """Write what the socket takes. If something is left, wait for room, unless the client is too far behind."""
        with self._lock:
            data = bytes(connection.unsent)
        try:
            sent = connection.stream.send(data, socket.MSG_DONTWAIT) if data else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._give_up(connection)
            return
        with self._lock:
            del connection.unsent[:sent]
            left, ending = len(connection.unsent), connection.ending
        if left > MAX_UNSENT_BYTES:
            self._give_up(connection)
        elif ending and not left:
            self._close(connection)
        else:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if left else 0)
            self._selector.modify(connection.stream, wanted, connection)

    def _give_up(self, connection: Connection) -> None:
        self._close(connection)
        self._on_gone(connection)

    def _close(self, connection: Connection) -> None:
        with self._lock:
            connection.gone = True
            connection.unsent.clear()
        self._open.discard(connection)
        self._silent.pop(connection, None)
        self._selector.unregister(connection.stream)
        connection.stream.close()


def _as_turn(descriptor: int) -> socket.socket | None:
    """The stream that was handed over. Anything else is closed: a file, a pipe, a listener, a TCP connection."""
    try:
        stream = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None
    listens = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if stream.family == socket.AF_UNIX and stream.type == socket.SOCK_STREAM and not listens:
        return stream
    stream.close()
    return None
