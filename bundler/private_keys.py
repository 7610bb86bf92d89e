"""Private keys as files: PKCS#8 in PEM, encrypted with a passphrase or plain; and the public half that goes beside it.

An encrypted key is PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC (RFC 8018), which `openssl pkey` reads. The library
derives with 2,048 rounds, which is too few for a key that people attack at home; so the wrapping is written here, with
the library's own functions for the cryptography.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, SSlibKey

from bundler.errors import KeysError
from installer.signers import ED25519, KEY_NAME, NAME_FIELD

Secret = Callable[[], str]  # asks for the passphrase or PIN of a keys directory; called only if one is needed
PUBLIC_SUFFIX = ".pub"
SHORTEST_PASSPHRASE = 12  # characters
_ROUNDS = 600_000  # OWASP Password Storage Cheat Sheet (2023) for PBKDF2-HMAC-SHA256
_PBES2 = bytes.fromhex("06092a864886f70d01050d")  # the object identifiers as DER
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("06082a864886f70d02090500")  # with its NULL parameter
_LABEL = "ENCRYPTED PRIVATE KEY"
_AES_256_CBC = bytes.fromhex("060960864801650304012a")


def make_signer(name: str | None = None) -> CryptoSigner:
    """A new Ed25519 key. Its name, if it has one, goes into the roots that trust it."""
    return _named_signer(Ed25519PrivateKey.generate(), name)


def write_private(path: Path, signer: CryptoSigner, passphrase: str | None) -> None:
    """Write a new key file, mode 0600, encrypted unless the passphrase is None.

    Raises:
        KeysError: the passphrase is too short.
        FileExistsError: the file is there already.
    """
    key = load_pem_private_key(signer.private_bytes, None)
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    data = signer.private_bytes if passphrase is None else _pem(_encrypted(plain, passphrase))
    write_new(path, data, mode=0o600)


def read_private(path: Path, name: str | None, secret: Secret | None) -> CryptoSigner:
    """Open a key file.

    Raises:
        KeysError: it can be read by others, needs a passphrase that nobody gives, or is no Ed25519 key.
    """
    if path.stat().st_mode & 0o077:
        raise KeysError(f"{path} can be read by others; set its mode to 0600")
    data = path.read_bytes()
    try:
        try:
            key = load_pem_private_key(data, None)
        except TypeError:  # it is encrypted
            if secret is None:
                raise KeysError(f"{path} is encrypted: give --passphrase-file, or run this in a terminal") from None
            key = load_pem_private_key(data, secret().encode())
    except ValueError as exc:
        wrong = "the passphrase does not open it" if _LABEL.encode() in data else "it is not a private key in PEM"
        raise KeysError(f"{path} cannot be used: {wrong}") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise KeysError(f"{path} is not an Ed25519 key; archives are signed with no other kind")
    return _named_signer(key, name)


def is_encrypted(path: Path) -> bool:
    """Whether a key file needs a passphrase."""
    return _LABEL.encode() in path.read_bytes()


def write_public(path: Path, key: SSlibKey) -> None:
    """Write the public half, to be given to whoever makes the root."""
    write_new(path, encode_canonical(key.to_dict()).encode() + b"\n", mode=0o644)  # type: ignore[union-attr]


def read_public(path: Path) -> SSlibKey:
    """Read a public half.

    Raises:
        KeysError: it is none.
    """
    try:
        data = json.loads(path.read_bytes())
        name, public = data.get(NAME_FIELD), bytes.fromhex(data["keyval"]["public"])
        if data["keytype"] != ED25519 or not (name is None or KEY_NAME.fullmatch(name)):
            raise ValueError(data["keytype"])
        return public_key(Ed25519PublicKey.from_public_bytes(public), name)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise KeysError(f"{path} is not the public half of a key that `bundler keygen` made") from exc


def public_key(key: Ed25519PublicKey, name: str | None) -> SSlibKey:
    """The key as roots list it: its id is the digest of the key alone, so one key has one id."""
    known = SSlibKey.from_crypto(key)
    return SSlibKey(known.keyid, known.keytype, known.scheme, known.keyval, {NAME_FIELD: name} if name else {})


def _named_signer(key: Ed25519PrivateKey, name: str | None) -> CryptoSigner:
    return CryptoSigner(key, public_key(key.public_key(), name))


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that must not exist yet, and make it durable."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _encrypted(plain: bytes, passphrase: str) -> bytes:
    """EncryptedPrivateKeyInfo (RFC 5958) of a PKCS#8 structure."""
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise KeysError(f"the passphrase has {len(passphrase)} characters; at least {SHORTEST_PASSPHRASE} are needed")
    salt, vector = secrets.token_bytes(16), secrets.token_bytes(16)
    key = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), salt, _ROUNDS)
    padder, cipher = PKCS7(AES.block_size).padder(), Cipher(AES(key), CBC(vector)).encryptor()
    hidden = cipher.update(padder.update(plain) + padder.finalize()) + cipher.finalize()
    rounds = _der(0x02, _ROUNDS.to_bytes(3, "big"))
    derivation = _der(0x30, _PBKDF2, _der(0x30, _der(0x04, salt), rounds, _der(0x30, _HMAC_SHA256)))
    encryption = _der(0x30, _AES_256_CBC, _der(0x04, vector))
    return _der(0x30, _der(0x30, _PBES2, _der(0x30, derivation, encryption)), _der(0x04, hidden))


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    length = bytes([len(body)]) if len(body) < 128 else bytes([0x81, len(body)])  # nothing here reaches 256 bytes
    return bytes([tag]) + length + body


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {_LABEL}-----", *lines, f"-----END {_LABEL}-----", ""]).encode()
