"""The web worker's side of the engine's protocol.

A turn always ends with ``Done`` or ``Failed``: a dead engine, a full doorbell and a broken line become ``Failed``,
never an exception. While nothing arrives, ``Waiting`` comes twice a second, so that the caller can notice that its own
client has gone. Leaving the ``with`` block cancels a turn that is still running. Thread-safe: each turn has its own
pair.

    with client.turn(request) as events:
        for event in events: ...
"""

from __future__ import annotations

import socket
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager

from appliance.doorbell import ring
from appliance.engine.wire import MAX_LINE_BYTES, ProtocolError, Record, StatusRequest, decode, encode
from appliance.turns.engine import Answered, EngineUnavailableError, Question, Status
from appliance.turns.events import Done, Failed, Queued, TurnEvent, Waiting, failed
from appliance.turns.request import TurnRequest

_SEND_TIMEOUT_S = 30.0  # in which an engine must read the request that it was rung for
_WAITING_S = 0.5  # so that a person whose access ends loses the answer within a second (appliance/turns/permits.py)
_RECEIVE_BYTES = 64 * 1024
_NO_ANSWER = "the engine does not answer"
_STOPPED = failed("engine_stopped")
_BUSY = failed("overloaded", retry_after_s=5.0)


class EngineClient:
    """Rings the engine's doorbell. One instance serves all threads of a worker."""

    def __init__(self, doorbell: socket.socket) -> None:
        """``doorbell``: the web's end of the supervisor's ``SOCK_SEQPACKET`` pair. The caller closes it."""
        self._doorbell = doorbell

    @contextmanager
    def turn(self, request: TurnRequest) -> Iterator[Iterator[TurnEvent]]:
        """Run one turn; the value is the iterator of its events, whose last is ``Done`` or ``Failed``."""
        with closing(self._events(request)) as events:
            yield events

    def status(self, timeout_s: float = 2.0) -> Status:
        """Ask what the engine serves and how busy it is.

        Raises:
            EngineUnavailableError: no answer within ``timeout_s``, or not a status.
        """
        answer = self._answer_to(StatusRequest(), timeout_s)
        if not isinstance(answer, Status):
            raise EngineUnavailableError(_NO_ANSWER)
        return answer

    def ask(self, question: Question, timeout_s: float = 60.0) -> Answered | Failed:
        """Ask about tokens.

        Raises:
            EngineUnavailableError: no answer within ``timeout_s``.
        """
        answer = self._answer_to(question, timeout_s)
        if not isinstance(answer, Answered | Failed):
            raise EngineUnavailableError(_NO_ANSWER)
        return answer

    def _answer_to(self, question: StatusRequest | Question, timeout_s: float) -> Record | Waiting | None:
        deadline_s = time.monotonic() + timeout_s
        try:
            with self._ring(question, timeout_s) as stream:
                stream.settimeout(max(deadline_s - time.monotonic(), 0.001))
                return next(_records(stream), None)
        except (OSError, ProtocolError) as exc:
            raise EngineUnavailableError(_NO_ANSWER) from exc

    def _events(self, request: TurnRequest) -> Generator[TurnEvent, None, None]:
        try:
            with self._ring(request, _SEND_TIMEOUT_S) as stream:
                stream.settimeout(_WAITING_S)
                for record in _records(stream):
                    if isinstance(record, Queued):
                        yield Waiting(record)
                        continue
                    if not isinstance(record, TurnEvent):
                        raise ProtocolError(f"a {type(record).__name__} is not an event")
                    yield record
                    if isinstance(record, Done | Failed):
                        return
            yield _STOPPED
        except ProtocolError as exc:
            yield Failed("engine_failed", f"The model's answer could not be read: {exc}.")
        except (BlockingIOError, TimeoutError):
            yield _BUSY
        except OSError:
            yield _STOPPED

    def _ring(self, request: TurnRequest | StatusRequest | Question, timeout_s: float) -> socket.socket:
        """Hand one end of a new pair and the request to the engine. The value is our end; the caller closes it.

        Raises:
            BlockingIOError: the doorbell's queue is full.
            OSError: the engine is gone, or did not read the request in time.
            ProtocolError: the request is too long.
        """
        line = encode(request)
        ours = ring(self._doorbell)
        try:
            ours.settimeout(timeout_s)
            ours.sendall(line)
        except OSError:
            ours.close()
            raise
        return ours


def _records(stream: socket.socket) -> Iterator[Record | Waiting]:
    """Records until the other side closes; ``Waiting`` each time the socket's timeout passes without one."""
    pending = bytearray()
    while True:
        try:
            piece = stream.recv(_RECEIVE_BYTES)
        except TimeoutError:
            yield Waiting()
            continue
        if not piece:
            return
        searched = len(pending)
        pending += piece
        while (end := pending.find(b"\n", searched)) >= 0:
            line = bytes(pending[: end + 1])
            del pending[: end + 1]
            searched = 0
            yield decode(line)
        if len(pending) > MAX_LINE_BYTES:
            raise ProtocolError("a line is longer than the limit")
