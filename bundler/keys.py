"""Signing keys: one Ed25519 private key per role, and the root metadata that trusts them.

A keys directory (0700) holds a private key per role (`ROLE.pem`: PKCS#8, 0600), `root.json` (public: the operator on
the isolated side needs it, by another way than the archive) and the ledger of `bundler.ledger`.

Not covered: keys in hardware, thresholds above one, and rotation. The metadata and the installer already allow them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import Error as SecureSystemsLibError
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from bundler.errors import KeysError
from installer.root_chain import CANONICAL

ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)
ROOT = "root.json"


@dataclass(frozen=True)
class SigningKeys:
    """The keys of a directory. Each was checked: root.json trusts it for its role."""

    directory: Path
    roots: tuple[bytes, ...]  # the chain, version 1 first; the last is root.json
    signers: dict[str, Signer]


def generate_keys(directory: Path, *, expires: datetime) -> Path:
    """Make one key for each role, and the root metadata that trusts these keys.

    Returns:
        the path of root.json.
    Raises:
        KeysError: the directory is not empty (keys are never overwritten) or cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise KeysError(f"{directory} is not empty; existing keys are never overwritten")
        root = Root(version=1, expires=expires, consistent_snapshot=False)
        signers = {role: CryptoSigner.generate_ed25519() for role in ROLES}
        for role, signer in signers.items():
            root.add_key(signer.public_key, role)
            _write_new(directory / f"{role}.pem", signer.private_bytes, mode=0o600)
        _write_new(directory / ROOT, signed_bytes(root, signers[Root.type]), mode=0o644)
    except OSError as exc:
        raise KeysError(f"cannot write keys to {directory}: {exc.strerror}") from exc
    return directory / ROOT


def load_keys(directory: Path) -> SigningKeys:
    """Read the keys and root chain of a directory made by `generate_keys`.

    Raises:
        KeysError: a file is missing, unreadable, open to others, or does not fit root.json.
    """
    try:
        root_bytes = (directory / ROOT).read_bytes()
        root = Metadata[Root].from_bytes(root_bytes).signed
        older = [(directory / f"{n}.root.json").read_bytes() for n in range(1, root.version)]
        signers = {role: _load_signer(directory / f"{role}.pem", root, role) for role in ROLES[1:]}
    except OSError as exc:
        raise KeysError(f"cannot read {exc.filename}: {exc.strerror}; `bundler keygen` makes keys") from exc
    except DeserializationError as exc:
        raise KeysError(f"{directory / ROOT} is not TUF root metadata") from exc
    return SigningKeys(directory, (*older, root_bytes), signers)


def _load_signer(path: Path, root: Root, role: str) -> Signer:
    if path.stat().st_mode & 0o077:
        raise KeysError(f"{path} can be read by others; set its mode to 0600")
    for keyid in root.roles[role].keyids:
        try:
            return CryptoSigner.from_priv_key_uri(f"file2:{path.absolute()}", root.keys[keyid])
        except (ValueError, SecureSystemsLibError):
            continue
    raise KeysError(f"{path} is not a private key that {ROOT} trusts for the role {role}")


def signed_bytes(signed: Root | Targets | Snapshot | Timestamp, signer: Signer) -> bytes:
    """The metadata of one role, signed by its key, in the one spelling of the archive format."""
    metadata: Metadata[Any] = Metadata(signed)
    metadata.sign(signer)
    return metadata.to_bytes(CANONICAL)


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def utc(date: datetime) -> datetime:
    """The same instant in UTC without microseconds, because TUF dates have none."""
    return date.astimezone(UTC).replace(microsecond=0)
