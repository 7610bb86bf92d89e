"""The web worker's side of the reader: a file's name and bytes go out, its text comes back or a refusal.

Thread-safe: each file has a socket pair of its own. What comes back is checked (`wire.decode_answer`), because a file
may have taken the reader over.
"""

from __future__ import annotations

import socket
import time
from typing import Protocol

from appliance.attachments.wire import (
    ReadFile,
    ReadRequest,
    Refusal,
    WireError,
    decode_answer,
    encode,
    longest_answer_bytes,
)
from appliance.audit.event import check_storable
from appliance.doorbell import ring

_RECEIVE_BYTES = 256 * 1024
_TIMEOUT_S = 90.0  # for one file to have its turn and be read; the reader ends each after `Bounds.whole_s`


class Reads(Protocol):
    """Whatever reads files."""

    def read(self, name: str, data: bytes, *, max_chars: int) -> ReadFile | Refusal:
        """The text of a file, or why there is none."""


class FileReader:
    """Rings the reader's doorbell. One instance serves all threads of a worker."""

    def __init__(self, doorbell: socket.socket, *, timeout_s: float = _TIMEOUT_S) -> None:
        """``doorbell``: the web's end of the supervisor's pair. The caller closes it."""
        self._doorbell, self._timeout_s = doorbell, timeout_s

    def read(self, name: str, data: bytes, *, max_chars: int) -> ReadFile | Refusal:
        """The text of a file, or why there is none."""
        request = encode(ReadRequest(name, len(data), max_chars))
        try:
            with ring(self._doorbell) as stream:
                return self._exchange(stream, request, data, max_chars)
        except TimeoutError:
            return Refusal("out_of_time")
        except BlockingIOError:
            return Refusal("reader_busy")
        except (OSError, ValueError, WireError):
            return Refusal("reader_ended")

    def _exchange(self, stream: socket.socket, request: bytes, data: bytes, max_chars: int) -> ReadFile | Refusal:
        deadline_s = time.monotonic() + self._timeout_s
        stream.settimeout(self._timeout_s)
        try:
            stream.sendall(request)
            stream.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have answered before it had read everything
        answer = bytearray()
        while not answer.endswith(b"\n"):
            stream.settimeout(max(deadline_s - time.monotonic(), 0.001))
            piece = stream.recv(_RECEIVE_BYTES)
            answer += piece
            if not piece or len(answer) > longest_answer_bytes(max_chars):
                return Refusal("reader_ended")
        found = decode_answer(bytes(answer), max_chars)
        if isinstance(found, ReadFile):
            check_storable(found.text)
        return found
