"""The TLS context of new connections. It is made from the certificate's files, and made again when they are replaced.

A connection keeps its context, so no stream notices a renewal. A replacement that cannot be used is logged once, and
the old certificate stays in use. TLS 1.2 and 1.3, only with forward secrecy and authenticated encryption, without
renegotiation.
Sessions are resumed by tickets. Their key is lost with the context, after a day at the latest.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from appliance.certificates import CertificateError, load_certificate, load_pair, now_utc
from appliance.transport import CertificateFiles

_log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 10.0
LONGEST_CONTEXT_S: Final = 24 * 3600.0
_TLS_1_2_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # all ciphers of TLS 1.3 are of this kind
_Stamp = tuple[tuple[int, int, int], ...]


def make_context(files: CertificateFiles) -> ssl.SSLContext:
    """A server's context with this certificate, its chain and its key.

    Raises:
        CertificateError: says in one sentence what is wrong with them.
    """
    load_pair(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS_1_2_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (ssl.SSLError, OSError) as exc:
        raise CertificateError(f"{files.certificate}: OpenSSL refuses this certificate or its key: {exc}") from exc
    return context


class Contexts:
    """The present context. Belongs to the event loop's thread."""

    def __init__(
        self, files: CertificateFiles, *, clock_s: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = now_utc,
    ) -> None:  # fmt: skip
        """Raises: CertificateError: the files cannot be used."""
        self._files, self._clock_s, self._now = files, clock_s, now
        self._stamp = _stamp_of(files)
        self._context = self._make()
        self._made_s = self._looked_s = clock_s()

    def current(self) -> ssl.SSLContext:
        """The context for a connection that begins now."""
        now_s = self._clock_s()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            stamp = _stamp_of(self._files)
            if stamp != self._stamp or now_s - self._made_s >= LONGEST_CONTEXT_S:
                self._renew(stamp, now_s)
        return self._context

    def _renew(self, stamp: _Stamp, now_s: float) -> None:
        is_replaced, self._stamp, self._made_s = stamp != self._stamp, stamp, now_s
        try:
            self._context = self._make()
        except CertificateError as exc:
            _log.error("the new certificate is not used, the one before stays in use: %s", exc)
            return
        if is_replaced:
            _log.warning("new connections use the certificate that now lies in %s", self._files.certificate)

    def _make(self) -> ssl.SSLContext:
        """Made at the start, at a renewal and once a day, so the log warns 30 days before the certificate ends."""
        context = make_context(self._files)
        problem = load_certificate(self._files.certificate).problem(self._now())
        if problem is not None:
            _log.warning("%s", problem)
        return context


def wait_for_files(
    files: CertificateFiles, *, limit_s: float, sleep: Callable[[float], None] = time.sleep, step_s: float = 0.05
) -> None:
    """Wait until another process has made the files.

    Raises:
        CertificateError: it has not made them in time.
    """
    for _ in range(int(limit_s / step_s)):
        if files.certificate.exists() and files.key.exists():
            return
        sleep(step_s)
    raise CertificateError(f"{files.certificate} was not made within {limit_s:g} s; see the recorder's messages above")


def _stamp_of(files: CertificateFiles) -> _Stamp:
    """A value that changes when a file is replaced or rewritten; zeros for a missing file."""
    found = []
    for path in (files.certificate, files.key):
        try:
            status = path.stat()
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)
