"""A TUF repository in memory, with which tests change whatever a thief or a careless sender could change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from installer.archive import SNAPSHOT, TARGETS, TIMESTAMP, root_name
from installer.root_chain import CANONICAL
from installer.trust import ROOT_VERSION, SIGNED_DIGEST, VerifiedMetadata, signed_digest
from tests.installer.archives import NOW

DIGEST = "ab" * 32
LATER = NOW + timedelta(days=9)


class Repository:
    """A TUF repository in memory. Tests can change whatever an attacker or a careless sender could change."""

    def __init__(self, *, threshold: int = 1, root_expires: datetime = LATER) -> None:
        self.signers = {role: [CryptoSigner.generate_ed25519() for _ in range(threshold)]
                        for role in ("root", "targets", "snapshot", "timestamp")}  # fmt: skip
        root = Root(version=1, expires=root_expires, consistent_snapshot=False)
        for role, signers in self.signers.items():
            for signer in signers:
                root.add_key(signer.public_key, role)
            root.roles[role].threshold = threshold
        self.root = root
        self.roots = [self.sign(root, "root")]

    def sign(self, signed: Any, role: str, signers: list[CryptoSigner] | None = None) -> bytes:
        metadata: Metadata[Any] = Metadata(signed)
        for signer in sorted(signers or self.signers[role], key=lambda s: s.public_key.keyid):
            metadata.sign(signer, append=True)
        return metadata.to_bytes(CANONICAL)

    def members(
        self, version: int = 1, *, paths: dict[str, str] | None = None, length: int = 3,
        expires: dict[str, datetime] | None = None, change: Callable[[Any], None] = lambda signed: None,
    ) -> dict[str, bytes]:  # fmt: skip
        dates = {"targets": LATER, "snapshot": LATER, "timestamp": LATER, **(expires or {})}
        files = {p: TargetFile(length, {"sha256": d}, p) for p, d in (paths or {"release.json": DIGEST}).items()}
        targets = Targets(version=version, expires=dates["targets"], targets=files)
        change(targets)
        targets_bytes = self.sign(targets, "targets")
        snapshot = Snapshot(
            version=version,
            expires=dates["snapshot"],
            meta={"targets.json": named(targets_bytes)},
            unrecognized_fields={ROOT_VERSION: len(self.roots)},
        )
        change(snapshot)
        snapshot_bytes = self.sign(snapshot, "snapshot")
        timestamp = Timestamp(version=version, expires=dates["timestamp"], snapshot_meta=named(snapshot_bytes))
        change(timestamp)
        return {
            **{root_name(n): data for n, data in enumerate(self.roots, start=1)},
            TIMESTAMP: self.sign(timestamp, "timestamp"), SNAPSHOT: snapshot_bytes, TARGETS: targets_bytes,
        }  # fmt: skip

    def rotate(self, *roles: str, signed_by_old: bool = True) -> None:
        """Replace the keys of these roles (of none: root); the new root is signed by the old root keys, too."""
        before = self.signers["root"]
        root = Root.from_dict(self.root.to_dict())
        root.version += 1
        for role in roles or ("root",):
            fresh = [CryptoSigner.generate_ed25519() for _ in self.signers[role]]
            for keyid in list(root.roles[role].keyids):
                root.revoke_key(keyid, role)
            for signer in fresh:
                root.add_key(signer.public_key, role)
            self.signers = self.signers | {role: fresh}
        by = {signer.public_key.keyid: signer for signer in [*self.signers["root"], *(before if signed_by_old else [])]}
        self.roots.append(self.sign(root, "root", list(by.values())))
        self.root = root

    def stolen(self, *roles: str) -> Repository:
        """What a thief of the keys of these roles can sign with: the sender's roots, and other keys for the rest."""
        thief = Repository()
        thief.roots, thief.root = list(self.roots), self.root
        thief.signers = {r: (self.signers if r in roles else thief.signers)[r] for r in thief.signers}
        return thief


def named(data: bytes) -> MetaFile:
    """How the file that lists it names this metadata."""
    metadata: Metadata[Any] = Metadata.from_bytes(data)
    return MetaFile(metadata.signed.version, unrecognized_fields={SIGNED_DIGEST: signed_digest(metadata)})


def forwarded(repository: Repository, members: dict[str, bytes], version: int) -> dict[str, bytes]:
    """What a thief of the timestamp key alone can make of an archive."""
    timestamp = Timestamp(version=version, expires=LATER, snapshot_meta=named(members[SNAPSHOT]))
    return members | {TIMESTAMP: repository.sign(timestamp, "timestamp")}


def accept(verified: VerifiedMetadata, directory: Path) -> Path:
    for name, data in verified.accepted.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory
