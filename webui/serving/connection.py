"""One connection: its state, and the deadline of each state.

    OPENING    nothing has come, or the TLS handshake goes on        handshake_s
    HEAD       a request's head is expected or arriving              head_s; idle_s before its first byte
    BODY       its body is arriving                                  least_bytes_per_s in each window_s
    ANSWERING  it has a thread, or waits for one                     the client reads least_bytes_per_s in each window_s
    CLOSING    the last answer is on its way                         the same, then linger_s

The next request of a pipeline waits until the client has read the previous answer, so no client can make a thread wait
for a reader. Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from enum import Enum, auto
from functools import partial
from typing import cast

import h11

from appliance.addresses import network_of
from webui.serving.answer import Answer
from webui.serving.delivery import Delivery
from webui.serving.environ import make_environ, peers_of
from webui.serving.heads import Head, RefusedRequestError
from webui.serving.inbox import Arrival, Inbox
from webui.serving.pace import Pace
from webui.serving.refusals import https_only, refusal
from webui.serving.shared import Serving
from webui.serving.wire import PlainWire, TlsWire, Wire, wire_for

_log = logging.getLogger(__name__)
_BUSY = "Too many requests wait for an answer. Try again in a moment."
_NOT_READ_AHEAD_BYTES = 64 * 1024  # later requests, while one is being answered


class State(Enum):
    """See the module's table."""

    OPENING = auto()
    HEAD = auto()
    BODY = auto()
    ANSWERING = auto()
    CLOSING = auto()


class Connection(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, serving: Serving) -> None:
        self._serving, self._limits = serving, serving.limits
        self._delivery = Delivery(self, self._limits.answer_bytes)
        self._state = State.OPENING
        self.source, self.is_exempt = "", False
        self.due_s = serving.clock_s() + self._limits.handshake_s
        self._wire: Wire | None = None  # None until the first byte tells which
        self._context: ssl.SSLContext | None = None
        self._inbox = Inbox(self._limits, partial(serving.crowd.note_body, self))
        self._is_begun = False  # something of the next request has come
        self._pace = Pace(self._limits.least_bytes_per_s * self._limits.window_s)

    # From asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._peers = peers_of(self._transport)
        self.source = network_of(self._peers.client_host)
        self.is_exempt = self._serving.is_exempt(self._peers.client_host)
        if not self._serving.crowd.admit(self):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._state is State.CLOSING:
            return
        try:
            received = self._wire_for(data).feed(data)
        except ssl.SSLError as exc:
            _log.debug("no TLS with %s: %s", self.source, exc)
            self._transport.abort()
            return
        if self._state is State.OPENING and self._wire is not None and self._wire.is_open:
            self._await_head(self._limits.head_s)
        if received:
            if self._state is State.HEAD and not self._is_begun:
                self._is_begun = True
                self._await_head(self._limits.head_s)
            self._inbox.add(received)
            self._advance()
        if self._wire is not None and self._wire.is_ended:
            self._note_end()

    def eof_received(self) -> bool:
        self._note_end()
        return self._state is State.ANSWERING  # what was asked is still answered

    def pause_writing(self) -> None:
        self._delivery.note_full(True)
        self._limit_reading()

    def resume_writing(self) -> None:
        self._delivery.note_full(False)
        self._advance()
        if not self._is_far_ahead():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._serving.crowd.leave(self)
        self._delivery.note_lost()

    # From the crowd and the server.

    def give_way(self) -> None:
        self._transport.abort()

    def look_at_deadlines(self, now_s: float) -> None:
        """Act on the deadline that has passed, and set the next one."""
        if self._state in (State.OPENING, State.HEAD):
            self._end_waiting()
        elif self._state is State.BODY:
            self._look_at_body(now_s)
        elif not self._is_read_fast_enough() or (self._state is State.CLOSING and not self._pace.unread_bytes):
            self._transport.abort()
        else:
            self.due_s = now_s + self._limits.window_s

    def stop(self) -> None:
        """The server stops. A request that is being answered gets its answer; everything else ends."""
        if self._state is not State.ANSWERING:
            self._close()

    def stop_waiting(self) -> None:
        """The server cannot wait any longer, so the answer is to end."""
        self._delivery.note_gone()

    # From the delivery.

    def deliver(self, data: bytes) -> None:
        if self._delivery.is_lost or self._wire is None:
            return
        try:
            self._wire.write(data)
        except ssl.SSLError:
            self._transport.abort()

    def finish(self, *, keeps: bool) -> None:
        if self._delivery.is_lost or self._state is not State.ANSWERING:
            return
        if not keeps or self._delivery.is_gone() or self._serving.is_stopping:
            self._close()
            return
        self._serving.crowd.note_quiet(self)
        self._is_begun = bool(self._inbox)
        self._await_head(self._limits.head_s if self._is_begun else self._limits.idle_s)
        self._transport.resume_reading()
        self._advance()  # stops reading again if the client has not read this answer

    def abort(self) -> None:
        self._transport.abort()

    # Reading.

    def _wire_for(self, data: bytes) -> Wire:
        if self._wire is None:
            self._context = self._serving.tls()
            self._wire = wire_for(data, self._transport, self._context)
        return self._wire

    def _await_head(self, wait_s: float) -> None:
        self._state = State.HEAD
        self.due_s = self._serving.clock_s() + wait_s

    def _advance(self) -> None:
        """Read heads and bodies as far as they have arrived."""
        try:
            while self._inbox and not self._delivery.is_full:
                if self._state is State.HEAD:
                    reads_on = self._read_head()
                else:
                    reads_on = self._state is State.BODY and self._read_body()
                if not reads_on:
                    break
        except RefusedRequestError as exc:
            self._refuse(exc.status, exc.sentence)
        self._limit_reading()

    def _limit_reading(self) -> None:
        if self._is_far_ahead():
            self._transport.pause_reading()

    def _is_far_ahead(self) -> bool:
        """Whether the client has sent so much ahead that reading must pause. While a request is being answered, reading
        goes on as long as possible, because only reading shows that the client has left."""
        if self._state is State.ANSWERING:
            return len(self._inbox) > _NOT_READ_AHEAD_BYTES
        return self._delivery.is_full and self._state is not State.CLOSING

    def _read_head(self) -> bool:
        if not self._inbox.read_head():
            return False
        if self._context is not None and isinstance(self._wire, PlainWire):
            self._answer_and_close(https_only(self._inbox.head))
            return False
        self._begin_body(self._inbox.head)
        return True

    def _begin_body(self, head: Head) -> None:
        self._state = State.BODY
        self._pace.begin_body()
        self.due_s = self._serving.clock_s() + self._limits.window_s
        if head.length is not None and head.length > self._limits.body_bytes:
            self._begin_answer(head, is_read=False)
        elif head.length == 0:
            self._read_body()
        elif head.expects_continue and not self._inbox:
            self.deliver(self._inbox.parser.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")

    def _read_body(self) -> bool:
        arrival = self._inbox.read_body()
        if arrival is not Arrival.PARTIAL:
            self._begin_answer(self._inbox.head, is_read=arrival is Arrival.WHOLE)
        return arrival is Arrival.WHOLE

    def _begin_answer(self, head: Head, *, is_read: bool) -> None:
        """Give the request to a thread. A chunked request is the last one of its connection, so a proxy and this server
        need not agree on where it ends."""
        keeps = is_read and head.length is not None and not self._serving.is_stopping
        self._state = State.ANSWERING
        self.due_s = self._serving.clock_s() + self._limits.window_s
        self._serving.crowd.note_busy(self)
        body = self._inbox.take_body()
        environ = make_environ(
            head, body if is_read else b"", self._peers, scheme="https" if isinstance(self._wire, TlsWire) else "http",
            is_multiprocess=self._serving.is_multiprocess, is_gone=self._delivery.is_gone,
            is_ending=lambda: self._serving.is_ending,
        )  # fmt: skip
        if not is_read:
            environ["CONTENT_LENGTH"] = str(head.length or len(body))
        answer = Answer(
            self._serving.app, environ, self._inbox.parser, self._delivery, pool=self._serving.pool, keeps=keeps,
            in_memory_bytes=self._limits.answer_bytes,
        )  # fmt: skip
        if not self._serving.pool.submit(self.source, answer.run, is_exempt=self.is_exempt):
            self._refuse(503, _BUSY)

    def _note_end(self) -> None:
        """The client sends no more."""
        self._delivery.note_gone()
        if self._state in (State.OPENING, State.HEAD, State.BODY):
            self._close()

    def _end_waiting(self) -> None:
        if self._inbox:
            self._refuse(408, f"The request did not arrive within {self._limits.head_s:g} seconds.")
        else:
            self._close()

    def _look_at_body(self, now_s: float) -> None:
        if self._pace.is_sent(len(self._inbox.body)):
            self.due_s = now_s + self._limits.window_s
        else:
            self._refuse(408, "The body of the request arrived too slowly.")

    def _is_read_fast_enough(self) -> bool:
        written_bytes = self._wire.written_bytes if self._wire else 0
        return self._pace.is_read(written_bytes=written_bytes, unread_bytes=self._transport.get_write_buffer_size())

    def _refuse(self, status: int, sentence: str) -> None:
        self._answer_and_close(refusal(status, sentence, asked=self._inbox.beginning))

    def _answer_and_close(self, answer: bytes) -> None:
        self.deliver(answer)
        self._close()

    def _close(self) -> None:
        """Send what is left, end the connection's own side, and use nothing more that arrives."""
        if self._state is State.CLOSING or self._delivery.is_lost:
            return
        if self._wire is None or not self._wire.is_open or self._transport.is_closing():
            self._transport.abort()
            return
        self._state = State.CLOSING
        self._inbox.clear()
        self._serving.crowd.note_quiet(self)
        self._is_read_fast_enough()  # a new window
        wait_s = self._limits.window_s if self._pace.unread_bytes else self._limits.linger_s
        self.due_s = self._serving.clock_s() + wait_s
        self._transport.resume_reading()
        try:
            self._wire.end()
        except OSError:
            self._transport.abort()
