"""Certificates of the server: whether one can be used, for how long, and what is wrong with it, in one sentence each.

Covers: files that are missing, unreadable or not PEM, a key that has a passphrase or is open to others, a key that
belongs to another certificate, and a certificate that is not yet valid or has expired. Does not cover: whether clients
trust the issuer, which only they know, and revocation.
"""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from appliance.errors import ApplianceError
from appliance.plain_file import read_plain
from appliance.transport import CertificateFiles

WARN_BEFORE: Final = timedelta(days=30)


class CertificateError(ApplianceError):
    """A certificate or its key cannot be used."""


@dataclass(frozen=True)
class Certificate:
    """A certificate. Its times are aware, in UTC."""

    path: Path
    names: tuple[str, ...]
    begins: datetime
    ends: datetime
    fingerprint: str  # SHA-256 of its DER form, as browsers show it
    issuer: str

    def problem(self, now: datetime) -> str | None:
        """What is wrong now or will be within 30 days; None if all is well."""
        if now < self.begins:
            return f"the certificate {self.path} is not valid before {_date(self.begins)}; is the clock right?"
        if now >= self.ends:
            return f"the certificate {self.path} expired on {_date(self.ends)}; browsers and clients refuse it"
        if self.ends - now <= WARN_BEFORE:
            days = (self.ends - now).days
            return f"the certificate {self.path} expires on {_date(self.ends)}, in {days} days"
        return None

    def is_valid(self, now: datetime) -> bool:
        """Whether ``now`` lies within its period of validity."""
        return self.begins <= now < self.ends


def load_certificate(path: Path) -> Certificate:
    """The first certificate of a PEM file, the server's own.

    Raises:
        CertificateError: there is none that can be read.
    """
    return _described(_parsed(path), path)


def load_pair(files: CertificateFiles) -> Certificate:
    """A server's certificate, checked against its key.

    Raises:
        CertificateError: (1) a file cannot be read, (2) other users can read the key, (3) it is not a PEM certificate,
            (4) the key has a passphrase or is no key, (5) the key belongs to another certificate.
    """
    parsed = _parsed(files.certificate)  # (1) (3)
    key_pem = _read(files.key)  # (1)
    if stat.S_IMODE(files.key.stat().st_mode) & 0o007:  # (2)
        raise CertificateError(f"{files.key} is open to every user of this host; close it with: chmod 600 {files.key}")
    if b"ENCRYPTED" in key_pem:  # (4)
        raise CertificateError(
            f"{files.key} has a passphrase, which nobody can type here; "
            f"remove it with: openssl pkey -in {files.key} -out KEY"
        )
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with _junk_is_said(f"{files.key} is not a private key in PEM form"):
        public = load_pem_private_key(key_pem, password=None).public_key().public_bytes(*form)
    with _junk_is_said(f"{files.certificate} holds a certificate whose key cannot be read"):
        is_its_own = public == parsed.public_key().public_bytes(*form)
    if not is_its_own:  # (5)
        raise CertificateError(
            f"{files.key} does not belong to the first certificate in {files.certificate}; "
            "the server's own certificate comes first, its issuers after it"
        )
    return _described(parsed, files.certificate)


def now_utc() -> datetime:
    return datetime.now(UTC)


def _parsed(path: Path) -> x509.Certificate:
    pem = _read(path)
    with _junk_is_said(f"{path} holds no certificate in PEM form"):
        return x509.load_pem_x509_certificates(pem)[0]


@contextmanager
def _junk_is_said(sentence: str) -> Iterator[None]:
    """Translate errors of the parser, which raises several kinds and reads some fields only on access.

    Raises:
        CertificateError: with the sentence.
    """
    try:
        yield
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError, x509.InvalidVersion) as exc:
        raise CertificateError(sentence) from exc


def _described(parsed: x509.Certificate, path: Path) -> Certificate:
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        listed = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        listed = []
    with _junk_is_said(f"{path} holds a damaged certificate"):
        return Certificate(
            path=path,
            names=tuple(listed),
            begins=parsed.not_valid_before_utc,
            ends=parsed.not_valid_after_utc,
            fingerprint=parsed.fingerprint(hashes.SHA256()).hex(":").upper(),
            issuer=parsed.issuer.rfc4514_string(),
        )


def general_names(names: tuple[str, ...]) -> list[x509.GeneralName]:
    """Host names and addresses in the form that a certificate lists."""
    listed: list[x509.GeneralName] = []
    for name in names:
        try:
            listed.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            listed.append(x509.DNSName(name.lower()))
    return listed


def _read(path: Path) -> bytes:
    try:
        return read_plain(path)
    except OSError as exc:
        raise CertificateError(f"{path}: cannot be read: {exc.strerror}") from exc


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")
