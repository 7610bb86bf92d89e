"""Root metadata: whose keys sign the archives of a sender, how many of each role, and how a root follows another.

A root is signed by as many of its own root keys as it demands, and by as many of the root keys before it. Whoever is
elsewhere signs the same file later (`bundler sign`). The new root is used only when it is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securesystemslib.exceptions import Error as SecureSystemsLibError
from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from bundler.errors import KeysError
from installer.archive import MAX_ROOTS
from installer.errors import TrustError
from installer.root_chain import CANONICAL
from installer.signers import Signers, count_signers, key_name, require_sound

ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)
RELEASE_ROLES = ROLES[1:]


@dataclass(frozen=True)
class Group:
    """The people who sign for one role: their keys, and how many of them must."""

    keys: tuple[Key, ...]
    threshold: int = 1


def first_root(groups: Mapping[str, Group], *, expires: datetime) -> Metadata[Root]:
    """Root 1, not signed yet."""
    return Metadata(_with_groups(Root(version=1, expires=expires, consistent_snapshot=False), groups))


def next_root(newest: Root, groups: Mapping[str, Group], *, expires: datetime | None = None) -> Metadata[Root]:
    """The root after `newest`, not signed yet: other people for these roles, the same for all others.

    Raises:
        KeysError: thresholds would not count different keys, or there are too many roots.
    """
    root = Root.from_dict(newest.to_dict())
    root.version += 1
    if root.version > MAX_ROOTS:
        raise KeysError(f"an archive can carry {MAX_ROOTS} roots: make new keys, and install the sites anew")
    root.expires = expires or newest.expires
    return Metadata(_with_groups(root, groups))


def _with_groups(root: Root, groups: Mapping[str, Group]) -> Root:
    for role, group in groups.items():
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for key in group.keys:
            root.add_key(key, role)
        root.roles[role].threshold = group.threshold
    try:
        require_sound(root, f"root {root.version}")
    except TrustError as exc:
        raise KeysError(f"{exc}") from exc
    return root


def group_of(root: Root, role: str) -> Group:
    """Who signs for the role."""
    return Group(tuple(root.keys[keyid] for keyid in root.roles[role].keyids), root.roles[role].threshold)


def without_key(root: Root, key: Key, instead: Key | None) -> dict[str, Group]:
    """The groups of every role that the key signs for, without it.

    Raises:
        KeysError: too few people would remain for a role.
    """
    changed = {}
    for role in ROLES:
        group = group_of(root, role)
        if key.keyid not in root.roles[role].keyids:
            continue
        rest = tuple(k for k in group.keys if k.keyid != key.keyid)
        rest += (instead,) if instead is not None and instead not in rest else ()
        if len(rest) < group.threshold:
            raise KeysError(
                f"without {key_name(key)}, {role} has {len(rest)} keys and demands {group.threshold} signatures: give "
                "the public half of another key with --replace-with"
            )
        changed[role] = Group(rest, group.threshold)
    return changed


def find_key(root: Root, wanted: str) -> Key:
    """The key of this name, or whose id begins so.

    Raises:
        KeysError: the root has none, or several.
    """
    found = [
        key for key in root.keys.values()
        if wanted and (key_name(key).startswith(f"{wanted} (") or key.keyid.startswith(wanted.lower()))
    ]  # fmt: skip
    if len(found) != 1:
        names = ", ".join(key_name(key) for key in root.keys.values())
        raise KeysError(f"root {root.version} has {len(found)} keys called {wanted!r}; its keys are {names}")
    return found[0]


def parse_draft(data: bytes) -> Metadata[Root]:
    """Root metadata that need not be signed by anybody yet.

    Raises:
        KeysError: it is none, or its thresholds do not count different keys.
    """
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        if not isinstance(metadata.signed, Root):
            raise KeysError(f"the file holds metadata of the role {metadata.signed.type}, not a root")
        require_sound(metadata.signed, f"root {metadata.signed.version}")
    except (DeserializationError, RecursionError) as exc:
        raise KeysError("the file is not root metadata") from exc
    except TrustError as exc:
        raise KeysError(f"{exc}") from exc
    return metadata


def sign_root(metadata: Metadata[Root], before: Root | None, signers: Iterable[Signer]) -> list[str]:
    """Add the signatures of those whose keys count for this root, by itself or by the root before.

    Returns:
        the names of the keys that signed.
    """
    counted = {key.keyid for root in (metadata.signed, before) if root for key in group_of(root, Root.type).keys}
    return add_signatures(metadata, [s for s in signers if s.public_key.keyid in counted])


def add_signatures(metadata: Metadata[Any], signers: Sequence[Signer]) -> list[str]:
    """Sign with each, keep the signatures in the format's order, and return the names of the keys.

    Raises:
        KeysError: a key cannot sign, for example because its token was pulled.
    """
    for signer in signers:
        try:
            metadata.signatures[signer.public_key.keyid] = signer.sign(metadata.signed_bytes)
        except (SecureSystemsLibError, ValueError, OSError) as exc:
            raise KeysError(f"{key_name(signer.public_key)} could not sign: {exc}") from exc
    metadata.signatures = dict(sorted(metadata.signatures.items()))
    return [key_name(signer.public_key) for signer in signers]


def root_signers(metadata: Metadata[Root], before: Root | None) -> list[Signers]:
    """Who signed this root: as it counts itself and, if there is one, as the root before counts."""
    return [count_signers([root], metadata) for root in (metadata.signed, before) if root is not None]


def is_complete(metadata: Metadata[Root], before: Root | None) -> bool:
    """Whether enough people signed this root."""
    return all(signers.is_enough for signers in root_signers(metadata, before))


def root_bytes(metadata: Metadata[Root]) -> bytes:
    """The root in the one spelling of the archive format."""
    return metadata.to_bytes(CANONICAL)
