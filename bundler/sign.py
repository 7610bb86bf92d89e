"""Signing keys and TUF metadata: who may say what a release contains, and until when.

A keys directory (0700) holds one Ed25519 private key per role (PEM, PKCS#8, 0600), `root.json` (public: the operator
on the isolated side needs it, by another way than the archive) and `signed.json`, a ledger of what was signed under
which version. The ledger is why the same contents give the same bytes: they get the version and expiry date they had
the first time, and other contents get the next version, which is what lets a site refuse an older archive.

Not covered: keys in hardware, thresholds above one, and rotation; the metadata and the installer already allow for
them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import Error as SecureSystemsLibError
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from bundler.errors import KeysError
from installer.archive import SNAPSHOT, TARGETS, TIMESTAMP, root_name
from installer.trust import CANONICAL, Target, contents_digest

ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)
ROOT = "root.json"
LEDGER = "signed.json"


@dataclass(frozen=True)
class SigningKeys:
    """The directory's keys, each checked to be the one that root.json trusts for its role."""

    directory: Path
    roots: tuple[bytes, ...]  # the chain, version 1 first; the last is root.json
    signers: dict[str, Signer]


@dataclass(frozen=True)
class Signing:
    """What the ledger decided for some contents."""

    version: int
    expires: datetime


def generate_keys(directory: Path, *, expires: datetime) -> Path:
    """Make one key per role and the root metadata that trusts them.

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
        _write_new(directory / ROOT, _signed(root, signers[Root.type]), mode=0o644)
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


def decide_signing(
    keys: SigningKeys, targets: Sequence[Target], *, lifetime_end: datetime, version: int | None, now: datetime
) -> Signing:
    """Version and expiry for these contents: those of the ledger if it knows them and they last, else the next ones.

    Args:
        lifetime_end: expiry for contents that the ledger does not know.
        version: use exactly this version and `lifetime_end`, whatever the ledger says.
    Raises:
        KeysError: the ledger is unreadable, or knows other contents under `version`.
    """
    contents = contents_digest(targets)
    with _ledger(keys.directory) as entries:
        if version is not None:
            if any(e.version == version and e.contents != contents for e in entries):
                raise KeysError(f"version {version} was already signed with these keys for other contents")
            signing = Signing(version, lifetime_end)
        else:
            for known in entries:
                if known.contents == contents and datetime.fromisoformat(known.expires) > now:
                    return Signing(known.version, datetime.fromisoformat(known.expires))
            signing = Signing(1 + max((e.version for e in entries), default=0), lifetime_end)
        entry = _Entry(contents, signing.expires.isoformat(), signing.version)
        if entry not in entries:
            entries.append(entry)
    return signing


def sign_targets(keys: SigningKeys, targets: Sequence[Target], signing: Signing) -> dict[str, bytes]:
    """The archive's metadata members, in the archive's order. All three roles share the version."""
    files = {t.path: TargetFile(t.size_bytes, {"sha256": t.sha256}, t.path) for t in targets}
    common: dict[str, Any] = {"version": signing.version, "expires": signing.expires}
    targets_bytes = _signed(Targets(**common, targets=files), keys.signers[Targets.type])
    snapshot = Snapshot(**common, meta={"targets.json": _meta(signing.version, targets_bytes)})
    snapshot_bytes = _signed(snapshot, keys.signers[Snapshot.type])
    timestamp = Timestamp(**common, snapshot_meta=_meta(signing.version, snapshot_bytes))
    return {
        **{root_name(n): data for n, data in enumerate(keys.roots, start=1)},
        TIMESTAMP: _signed(timestamp, keys.signers[Timestamp.type]),
        SNAPSHOT: snapshot_bytes,
        TARGETS: targets_bytes,
    }


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def _signed(signed: Root | Targets | Snapshot | Timestamp, signer: Signer) -> bytes:
    metadata: Metadata[Any] = Metadata(signed)
    metadata.sign(signer)
    return metadata.to_bytes(CANONICAL)


@dataclass(frozen=True)
class _Entry:
    """One line of the ledger."""

    contents: str  # see contents_digest
    expires: str  # ISO 8601
    version: int


def _parse_ledger(data: bytes) -> list[_Entry]:
    """Raises ValueError or TypeError if the file is not what `_ledger` writes."""
    entries = [_Entry(**entry) for entry in json.loads(data)]
    for entry in entries:
        if not isinstance(entry.version, int) or datetime.fromisoformat(entry.expires).tzinfo is None:
            raise ValueError(f"not an entry: {entry}")
    return entries


@contextmanager
def _ledger(directory: Path) -> Iterator[list[_Entry]]:
    """The ledger's entries; appended ones are on disk when the block ends. Held under a lock of the directory."""
    path = directory / LEDGER
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = _parse_ledger(path.read_bytes()) if path.exists() else []
        known = len(entries)
        yield entries
        if len(entries) > known:
            fresh = directory / f".{LEDGER}.new"
            fresh.write_text(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n")
            fresh.replace(path)
    except (ValueError, TypeError, OSError) as exc:
        raise KeysError(f"the ledger {path} cannot be used: {exc}") from exc
    finally:
        os.close(lock)


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def utc(date: datetime) -> datetime:
    """The same instant in UTC without microseconds, which is all that TUF dates can say."""
    return date.astimezone(UTC).replace(microsecond=0)
