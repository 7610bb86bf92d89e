"""The signing key: signer/audit.key, which only a signer may open, and keys/audit.pub, with which others verify.

A new key takes effect when the ledger names it (ledger.py). Until then it waits as audit.key.new, so that a power cut
at any instant leaves either the old key in force or the new one: `settle_key` finishes or undoes what was begun.

audit.pub is rewritten in place, because processes that may read only this file are confined to its inode.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from appliance.audit.note import CheckpointError, Signer, load_verifier
from appliance.plain_file import read_plain


class KeyUnreadableError(CheckpointError):
    """The operating system does not give the key at present; it may be all right."""


_KEY, _STAGED, _PUBLIC = "signer/audit.key", "signer/audit.key.new", "keys/audit.pub"


def has_key(state_dir: Path) -> bool:
    """Whether anything of a signing key is there."""
    return any((state_dir / name).exists() for name in (_KEY, _PUBLIC))


def load_any_signer(state_dir: Path, origin: str) -> Signer | None:
    """The private key, also where audit.pub does not match; None when there is no usable one."""
    try:
        return _load(state_dir / _KEY, origin)
    except KeyUnreadableError:
        raise
    except CheckpointError:
        return None


def load_signer(state_dir: Path, origin: str) -> Signer:
    """The log's signing key.

    Raises:
        KeyUnreadableError: it cannot be read now.
        CheckpointError: it is missing, is no key, or audit.pub is not its public half.
    """
    signer = _load(state_dir / _KEY, origin)
    if str(load_verifier(state_dir / "keys")) != str(signer.verifier):
        raise CheckpointError("state/keys/audit.pub does not belong to state/signer/audit.key")
    return signer


def stage_key(state_dir: Path, origin: str) -> Signer:
    """Make a key that waits to be named by the ledger.

    Raises:
        CheckpointError: it cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = state_dir / _STAGED
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(path, pem, 0o600)
        sync_directory(path.parent)
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be written: {exc.strerror}") from exc
    return Signer(origin, key)


def settle_key(state_dir: Path, origin: str, in_force: str | None) -> None:
    """Put the waiting key in force if it is the one called `in_force`, else remove it.

    Raises:
        CheckpointError: a file cannot be written.
    """
    staged = state_dir / _STAGED
    if not staged.exists():
        return
    try:
        signer = _load(staged, origin)
    except CheckpointError:  # half written: nothing can name it
        signer = None
    try:
        if signer is None or str(signer.verifier) != in_force:
            staged.unlink()
        else:
            publish_key(state_dir, signer)
            os.replace(staged, state_dir / _KEY)
        sync_directory(staged.parent)
    except OSError as exc:
        raise CheckpointError(f"{staged}: cannot be put in force: {exc.strerror}") from exc


def publish_key(state_dir: Path, signer: Signer) -> None:
    """Make audit.pub the public half of `signer`."""
    try:
        (state_dir / _PUBLIC).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(state_dir / _PUBLIC, f"{signer.verifier}\n".encode(), 0o600)
    except OSError as exc:
        raise CheckpointError(f"{state_dir / _PUBLIC}: cannot be written: {exc.strerror}") from exc


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load(path: Path, origin: str) -> Signer:
    try:
        key = load_pem_private_key(read_plain(path), None)
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path}: the signing key is missing") from exc
    except OSError as exc:
        raise KeyUnreadableError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, TypeError) as exc:
        raise CheckpointError(f"{path}: cannot be used: {exc}") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise CheckpointError(f"{path}: not an Ed25519 key")
    return Signer(origin, key)


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, mode)
    try:
        os.write(descriptor, data)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
