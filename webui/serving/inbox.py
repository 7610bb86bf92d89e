"""The bytes that a client has sent and the server has not used yet: requests in a row, each a head and then a body.

It says how far the present request has arrived. `webui.serving.connection` decides what follows from that, and has the
deadlines.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

import h11

from webui.serving.heads import END_OF_HEAD, Head, RefusedRequestError, check_beginning, parse_head
from webui.serving.limits import Limits

# Each chunk costs the event loop some 15 microseconds, however small it is, so many small ones would delay everybody.
_FREE_CHUNKS, _LEAST_CHUNK_BYTES = 256, 256
_MOST_EMPTY_LINES = 8
_BEGINNING_BYTES = 256  # of a request, for the form of a refusal


class Arrival(Enum):
    """How far a body has arrived."""

    PARTIAL = auto()
    WHOLE = auto()
    TOO_LARGE = auto()


class Inbox:
    """The bytes of one connection. `head`, `body` and `parser` belong to the present request, once its head is read;
    `beginning` is what has come of it first."""

    def __init__(self, limits: Limits, note_body: Callable[[int], None]) -> None:
        """Args: note_body: is told how many bytes were added to a body."""
        self._limits, self._note_body = limits, note_body
        self._unread = bytearray()
        self._searched_bytes = 0  # so many bytes of _unread do not hold the end of the head
        self._chunks = 0
        self.beginning = b""
        self.body = bytearray()
        self.head: Head
        self.parser: h11.Connection

    def __len__(self) -> int:
        """Bytes that are not read yet."""
        return len(self._unread)

    def add(self, received: bytes) -> None:
        self._unread += received

    def clear(self) -> None:
        self._unread.clear()

    def read_head(self) -> bool:
        """Take the next head out; False if it is not whole yet.

        Raises:
            RefusedRequestError: this server does not take the head, or what has come of it can never become one.
        """
        self._skip_empty_lines()
        self.beginning = bytes(self._unread[:_BEGINNING_BYTES])
        end = self._unread.find(END_OF_HEAD, max(0, self._searched_bytes - len(END_OF_HEAD) + 1)) + len(END_OF_HEAD)
        if end < len(END_OF_HEAD) or end > self._limits.head_bytes:
            check_beginning(self._unread, self._limits.head_bytes, checked_bytes=self._searched_bytes)
            self._searched_bytes = len(self._unread)
            return False
        raw = bytes(self._unread[:end])
        del self._unread[:end]
        self._searched_bytes = 0
        self.parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes)
        self.head = parse_head(raw, self.parser)
        self.body, self._chunks = bytearray(), 0
        return True

    def read_body(self) -> Arrival:
        """Move what has arrived into `body`.

        Raises:
            RefusedRequestError: the body is not framed as HTTP wants it.
        """
        try:
            if self._unread:
                self.parser.receive_data(bytes(self._unread))
                self._unread.clear()
            while isinstance(event := self.parser.next_event(), h11.Data):
                self.body += event.data
                self._chunks += event.chunk_start
                self._check_chunks()
                if len(self.body) > self._limits.body_bytes:
                    return Arrival.TOO_LARGE
                self._note_body(len(event.data))
        except h11.RemoteProtocolError as exc:
            raise RefusedRequestError(exc.error_status_hint, "The body cannot be read as it was sent.") from exc
        if not isinstance(event, h11.EndOfMessage):
            return Arrival.PARTIAL
        self._unread += self.parser.trailing_data[0]
        return Arrival.WHOLE

    def take_body(self) -> bytearray:
        """Hand the body out and forget it."""
        body, self.body = self.body, bytearray()
        return body

    def _skip_empty_lines(self) -> None:
        """Skip a few empty lines, which are allowed before a request (RFC 9112 section 2.2)."""
        for _ in range(_MOST_EMPTY_LINES):
            if self._unread[:2] == b"\r\n":
                del self._unread[:2]
                self._searched_bytes = max(0, self._searched_bytes - 2)

    def _check_chunks(self) -> None:
        whole = self._chunks - 1  # the last one may be incomplete
        if whole > _FREE_CHUNKS and len(self.body) < whole * _LEAST_CHUNK_BYTES:
            raise RefusedRequestError(400, "The chunks of the body are too small.")
