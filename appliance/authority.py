"""The site's own certificate authority, for sites without a certificate of their organisation.

The first start makes a key that signs for this site only, and a certificate that people install once. The authority
signs the server's certificate for thirteen months, and signs a new one 30 days before its end or when its names change.
The authority itself lasts ten years, and for that time nobody has to install anything again.

    state/signer/tls-authority.key  the authority's key, which only the recorder reads
    state/tls/authority.pem         its certificate, to be given to browsers and clients
    state/tls/server.pem, .key      the server's certificate and key, which the web processes read
"""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.certificates import (
    WARN_BEFORE,
    Certificate,
    CertificateError,
    general_names,
    load_pair,
)
from appliance.config import Config
from appliance.plain_file import read_plain
from appliance.transport import authority_certificate, local_files

AUTHORITY_LIFE: Final = timedelta(days=3650)
SERVER_LIFE: Final = timedelta(days=397)  # the longest life that browsers accept
_CLOCK_SKEW: Final = timedelta(days=1)  # allows for clients whose clock is slow


def names_of(config: Config, host_name: str) -> tuple[str, ...]:
    """The names that people may type to reach this site."""
    listened = () if config.listen_host in ("0.0.0.0", "::") else (config.listen_host,)  # noqa: S104 - comparing
    named = (address.host for address in config.site_addresses)
    always = ("localhost", "127.0.0.1", "::1")
    return tuple(dict.fromkeys((host_name.lower(), *named, *config.tls_names, *listened, *always)))


def keep_certificate(config: Config, now: datetime, host_name: str | None = None) -> Certificate:
    """Make what is missing, renew what is due, and return the server's certificate.

    Raises:
        CertificateError: it cannot be made, or the authority's key and certificate do not belong together.
    """
    files = local_files(config)
    names = names_of(config, host_name or socket.gethostname())
    authority, key = _authority(config, now, names[0])
    try:
        present = load_pair(files)
        is_ours = present.issuer == authority.subject.rfc4514_string()
        if is_ours and present.ends - now > WARN_BEFORE and present.begins <= now and set(present.names) == set(names):
            return present
    except CertificateError:  # there is none, or a stop between the two writes below left an old key
        pass
    server_key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign_server(authority, key, server_key, names, now)
    _write(files.key, _private_pem(server_key))
    _write(files.certificate, certificate.public_bytes(Encoding.PEM))
    return load_pair(files)


def _authority(config: Config, now: datetime, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The authority, which is made if there is none. Its key is written first, so no certificate ever lacks its key.

    Raises:
        CertificateError
    """
    key_path, path = config.signer_dir / "tls-authority.key", authority_certificate(config)
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write(key_path, _private_pem(key))
        _write(path, _sign_authority(key, name, now).public_bytes(Encoding.PEM))
    try:
        loaded = load_pem_private_key(read_plain(key_path), password=None)
        authority = x509.load_pem_x509_certificate(read_plain(path))
    except (OSError, ValueError, TypeError) as exc:
        raise CertificateError(f"{key_path} or {path} cannot be read: {exc}") from exc
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != authority.public_key():
        raise CertificateError(
            f"{key_path} does not belong to {path}; bring the right key back, or remove both files: "
            "then a new authority is made and must be given to all browsers and clients"
        )
    return authority, loaded


def _sign_authority(key: ec.EllipticCurvePrivateKey, name: str, now: datetime) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"gpt-oss appliance on {name}"[:64])])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    public = key.public_key()
    return (
        _begin(subject, subject, public, now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def _sign_server(
    authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey,
    names: tuple[str, ...], now: datetime,
) -> x509.Certificate:  # fmt: skip
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    public = key.public_key()
    return (
        _begin(subject, authority.subject, public, now, SERVER_LIFE)
        .add_extension(x509.SubjectAlternativeName(general_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _begin(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    begins = now - _CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + life)
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes) -> None:
    """Write a file whole and then put it in its place, closed to other users.

    Raises:
        CertificateError
    """
    fresh = path.with_suffix(".new")
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(fresh, path)
    except OSError as exc:
        raise CertificateError(f"{path}: cannot be written: {exc.strerror}") from exc
