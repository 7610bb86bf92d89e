"""The bytes of a connection: plain, or through TLS. Both react to what arrives and never block.

TLS is OpenSSL over two memory buffers (`ssl.SSLObject`). asyncio's own TLS transport is not used: it keeps 256 KiB per
connection, does not say that the peer has closed while nothing is read, and cannot answer a browser that speaks plain
HTTP to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Protocol

_TLS_HANDSHAKE_RECORD = 0x16  # RFC 8446 section 5.1: the first byte of every TLS connection
_READ_BYTES = 64 * 1024


class Wire(Protocol):
    """What a connection needs for its bytes."""

    is_ended: bool  # the peer sends no more
    is_open: bool  # requests can be read
    written_bytes: int  # handed to the transport

    def feed(self, data: bytes) -> bytes: ...

    def write(self, data: bytes) -> None: ...

    def end(self) -> None: ...


class PlainWire:
    """Bytes as they are."""

    is_ended = False
    is_open = True

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.written_bytes = 0

    def feed(self, data: bytes) -> bytes:
        return data

    def write(self, data: bytes) -> None:
        self.written_bytes += len(data)
        self._transport.write(data)

    def end(self) -> None:
        """Say that nothing more is sent."""
        if self._transport.can_write_eof():
            self._transport.write_eof()


class TlsWire:
    """Bytes through TLS as the server."""

    def __init__(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        self._transport = transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_ended = False
        self.is_open = False
        self.written_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """The plain bytes that `data` brings, once the handshake is over.

        Raises:
            ssl.SSLError: it is no TLS, or no TLS that we speak. OpenSSL's alert to the peer has been sent.
        """
        self._incoming.write(data)
        try:
            if not self.is_open:
                self._tls.do_handshake()
                self.is_open = True
            return self._decrypted()
        except ssl.SSLWantReadError:
            return b""
        finally:
            self._flush()

    def write(self, data: bytes) -> None:
        """Encrypt and send.

        Raises:
            ssl.SSLError: the peer has broken the connection.
        """
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        self._flush()

    def end(self) -> None:
        """Send TLS's notice of the end, without which the peer cannot tell the end from a cut, and then TCP's."""
        with contextlib.suppress(ssl.SSLError):  # usually the peer's notice has not come yet, and it need not
            self._tls.unwrap()
        self._flush()
        self._transport.write_eof()

    def _decrypted(self) -> bytes:
        pieces = []
        try:
            while piece := self._tls.read(_READ_BYTES):
                pieces.append(piece)
            self.is_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_ended = True
        return b"".join(pieces)

    def _flush(self) -> None:
        if self._outgoing.pending and not self._transport.is_closing():
            data = self._outgoing.read()
            self.written_bytes += len(data)
            self._transport.write(data)


def wire_for(first: bytes, transport: asyncio.Transport, context: ssl.SSLContext | None) -> Wire:
    """TLS if the server offers it and the client begins it. Args: first: the first bytes of a connection."""
    if context is not None and first[0] == _TLS_HANDSHAKE_RECORD:  # no HTTP request begins so
        return TlsWire(transport, context)
    return PlainWire(transport)
