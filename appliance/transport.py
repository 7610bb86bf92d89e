"""How requests reach the appliance: decided once, from the settings and the listening socket.

TLS everywhere except on loopback, which no wire carries. Plain HTTP on another address only if the operator has set it.
This module imports nothing heavy, because the supervisor decides.
"""

from __future__ import annotations

import base64
import hashlib
import socket
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from appliance.config import Config
from appliance.site_address import is_loopback


class Transport(StrEnum):
    """How requests arrive. The programs get the value as APPLIANCE_TRANSPORT."""

    LOOPBACK = "loopback"  # plain HTTP on this host, for its people or a proxy on it
    CERTIFICATE = "certificate"  # TLS with the organisation's certificate
    LOCAL_AUTHORITY = "local-authority"  # TLS with a certificate from the site's own authority
    PLAIN = "plain"  # plain HTTP on a network, because the operator set tls.plain_http

    @property
    def scheme(self) -> str:
        return "https" if self in (Transport.CERTIFICATE, Transport.LOCAL_AUTHORITY) else "http"


@dataclass(frozen=True)
class CertificateFiles:
    """A certificate with its chain, and its private key, as PEM files."""

    certificate: Path
    key: Path


def host_of(listener: socket.socket) -> str | None:
    """The address that a socket listens on; None for a Unix socket."""
    return None if listener.family == socket.AF_UNIX else str(listener.getsockname()[0])


def transport_of(config: Config, host: str | None) -> Transport:
    """How requests come to a listener on `host`; None: a Unix socket, for a proxy on this host."""
    if config.tls_certificate is not None:
        return Transport.CERTIFICATE
    if host is None or is_loopback(host):
        return Transport.LOOPBACK
    return Transport.PLAIN if config.tls_plain_http else Transport.LOCAL_AUTHORITY


def certificate_files(config: Config, transport: Transport) -> CertificateFiles | None:
    """The files of the certificate; None without TLS."""
    if transport is Transport.LOCAL_AUTHORITY:
        return local_files(config)
    if transport is Transport.CERTIFICATE and config.tls_certificate is not None and config.tls_key is not None:
        return CertificateFiles(config.tls_certificate, config.tls_key)
    return None


def local_files(config: Config) -> CertificateFiles:
    """The files of the certificate that the site makes for itself."""
    return CertificateFiles(config.tls_dir / "server.pem", config.tls_dir / "server.key")


def pem_fingerprint(pem: str) -> str:
    """SHA-256 of the first certificate's DER form, in pairs with colons, as browsers show it."""
    body = pem.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END CERTIFICATE-----")[0]
    return hashlib.sha256(base64.b64decode(body)).digest().hex(":").upper()


def authority_certificate(config: Config) -> Path:
    """The certificate of the site's own authority, which browsers and clients must trust."""
    return config.tls_dir / "authority.pem"
