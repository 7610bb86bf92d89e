"""One request in its thread: calls the WSGI application, has h11 frame the answer, and hands it to the connection.

An answer with a length is handed over whole, so its thread is free before the client has read it. An answer without a
length is a stream: each piece is handed over at once, and the pool does not count its thread (`webui.serving.pool`). An
answer that is too long for memory is handed over like a stream.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from types import TracebackType
from typing import Any

import h11

from webui.serving.delivery import ClientGoneError, Delivery
from webui.serving.pool import Pool
from webui.serving.refusals import beginning_of, refusal

_log = logging.getLogger(__name__)

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Answer:
    """One request and its answer."""

    def __init__(
        self, app: WsgiApp, environ: dict[str, Any], parser: h11.Connection, delivery: Delivery, *, pool: Pool,
        keeps: bool, in_memory_bytes: int,
    ) -> None:  # fmt: skip
        """Args: parser: the request's; only this thread uses it from now on. keeps: another request may follow."""
        self._app, self._environ, self._parser, self._delivery, self._pool = app, environ, parser, delivery, pool
        self._keeps, self._in_memory_bytes = keeps, in_memory_bytes
        self._response: h11.Response | None = None
        self._is_begun = False  # the head is framed
        self._is_seen = False  # the client may have read some of it
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0

    def run(self) -> None:
        """Answer in every case, also when the application fails."""
        try:
            try:
                self._deliver(self._app(self._environ, self._start_response))
            except ClientGoneError:
                raise
            except Exception:
                _log.exception("the application failed")
                self._fail()
            else:
                self._delivery.finish(keeps=self._keeps and self._parser.our_state is h11.DONE)
        except ClientGoneError:
            with contextlib.suppress(ClientGoneError):
                self._delivery.fail()

    def _deliver(self, chunks: Iterable[bytes]) -> None:
        try:
            pieces = iter(chunks)
            if self._takes_in(pieces):
                with self._pool.streaming():
                    for chunk in pieces:
                        self._frame(chunk)
                        self._flush()
        finally:
            with contextlib.suppress(AttributeError):
                chunks.close()  # type: ignore[attr-defined]
        self._frame(b"")
        self._add(self._parser.send(h11.EndOfMessage()))
        self._flush()

    def _takes_in(self, pieces: Iterator[bytes]) -> bool:
        """Collect the answer. True: it must be streamed, and there is more of it."""
        for chunk in pieces:
            self._frame(chunk)
            if self._unsent and (self._is_stream() or self._unsent_bytes > self._in_memory_bytes):
                self._flush()
                return True
        return False

    def _is_stream(self) -> bool:
        return self._response is not None and not any(name == b"content-length" for name, _ in self._response.headers)

    def _frame(self, chunk: bytes) -> None:
        if not self._is_begun and (chunk or self._response is not None):
            self._begin()
        if chunk and self._has_body():
            self._add(self._parser.send(h11.Data(chunk)))

    def _begin(self) -> None:
        if self._response is None:
            raise RuntimeError("the application answered without start_response")
        self._is_begun = True
        self._add(self._parser.send(self._response))

    def _has_body(self) -> bool:
        status = 0 if self._response is None else self._response.status_code
        return self._environ["REQUEST_METHOD"] != "HEAD" and status not in (204, 304)

    def _add(self, framed: bytes | None) -> None:
        if framed:
            self._unsent.append(framed)
            self._unsent_bytes += len(framed)

    def _flush(self) -> None:
        data, self._unsent, self._unsent_bytes = b"".join(self._unsent), [], 0
        if data:
            self._is_seen = True
            self._delivery.send(data)

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """PEP 3333's start_response."""
        if exc_info is not None and self._is_seen:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._response is not None and exc_info is None:
            raise RuntimeError("the application called start_response twice")
        if self._is_begun:
            raise RuntimeError("the application changed its answer after the head was framed")
        code, _, reason = status.partition(" ")
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        if not any(name.lower() == b"date" for name, _ in fields):
            fields.append((b"Date", formatdate(usegmt=True).encode()))
        if not self._keeps:
            fields.append((b"Connection", b"close"))
        self._response = h11.Response(status_code=int(code), reason=reason.encode("latin-1"), headers=fields)
        return self._write

    def _write(self, chunk: bytes) -> None:
        self._frame(chunk)
        self._flush()

    def _fail(self) -> None:
        """Say that the server failed. If the client has read some of the answer, cut it off instead."""
        if self._is_seen:
            self._delivery.fail()
            return
        asked = beginning_of(self._environ["REQUEST_METHOD"], self._environ["RAW_URI"])
        self._delivery.send(refusal(500, "The server could not complete this.", asked=asked))
        self._delivery.finish(keeps=False)
