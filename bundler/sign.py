"""Signs an archive's metadata: which files the release contains, and until when the signatures hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from tuf.api.metadata import MetaFile, Snapshot, TargetFile, Targets, Timestamp

from bundler.keys import SigningKeys, signed_bytes
from bundler.ledger import Signing
from installer.archive import SNAPSHOT, TARGETS, TIMESTAMP, root_name
from installer.targets import Target


def sign_targets(keys: SigningKeys, targets: Sequence[Target], signing: Signing) -> dict[str, bytes]:
    """Sign the targets: the archive's metadata members, in the archive's order. All three roles share the version."""
    files = {t.path: TargetFile(t.size_bytes, {"sha256": t.sha256}, t.path) for t in targets}
    common: dict[str, Any] = {"version": signing.version, "expires": signing.expires}
    targets_bytes = signed_bytes(Targets(**common, targets=files), keys.signers[Targets.type])
    snapshot = Snapshot(**common, meta={"targets.json": _meta(signing.version, targets_bytes)})
    snapshot_bytes = signed_bytes(snapshot, keys.signers[Snapshot.type])
    timestamp = Timestamp(**common, snapshot_meta=_meta(signing.version, snapshot_bytes))
    return {
        **{root_name(n): data for n, data in enumerate(keys.roots, start=1)},
        TIMESTAMP: signed_bytes(timestamp, keys.signers[Timestamp.type]),
        SNAPSHOT: snapshot_bytes,
        TARGETS: targets_bytes,
    }


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})
