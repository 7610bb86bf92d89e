"""Who signed a metadata file, counted by keys, and whether a root's keys can be counted at all.

A threshold of two means two different keys. So a root must not list one key under two ids, and all its keys must be
Ed25519, for which two spellings of one key can be told from two keys.

The names of people are signed text: a root may give each of its keys a name. They appear in messages only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from installer.errors import MalformedMetadataError, RevokedKeyError, SignatureError, UnknownKeyError, UnsoundRootError

ED25519 = "ed25519"
NAME_FIELD = "name"  # of a key, in a root
KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}")
NO_SIGNATURE = "00" * 64  # stands where somebody has still to sign; see docs/archive-format.md
_KEY_BYTES = 32
_FIELD_PRIME = 2**255 - 19  # RFC 8032, section 5.1
_ORDER_8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022
# y of the points of order 1, 2, 4 and 8. A signature by such a key can be made by anybody, and fits every text.
_SMALL_ORDER = {0, 1, _FIELD_PRIME - 1, _ORDER_8, _FIELD_PRIME - _ORDER_8}


@dataclass(frozen=True)
class Signers:
    """Who signed one metadata file, by the newest root. Each key is given as `key_name` names it."""

    role: str
    threshold: int
    signed: tuple[str, ...]
    missing: tuple[str, ...]  # trusted, and without a signature here
    unfitting: tuple[str, ...]  # trusted, and with a signature for other contents
    revoked: tuple[tuple[str, int], ...]  # key, and the version of the root that revoked it

    @property
    def is_enough(self) -> bool:
        return len(self.signed) >= self.threshold

    def __str__(self) -> str:
        """For example: `2 of 3 needed signatures; signed by alice (0f3a9c21), bob (77aa01be); missing: carol (..)`."""
        parts = [f"{len(self.signed)} of {self.threshold} needed signatures"]
        if self.signed:
            parts.append(f"signed by {', '.join(self.signed)}")
        if self.unfitting:
            parts.append(f"the signature does not fit of {', '.join(self.unfitting)}")
        if not self.is_enough and self.missing:
            parts.append(f"not signed by {', '.join(self.missing)}")
        return "; ".join(parts)


def key_name(key: Key) -> str:
    """The key's name, if its root gives one that cannot forge output, and the beginning of its id."""
    name = key.unrecognized_fields.get(NAME_FIELD)
    is_plain = isinstance(name, str) and KEY_NAME.fullmatch(name) is not None
    keyid = ascii(key.keyid[:8])[1:-1]
    return f"{name} ({keyid})" if is_plain else f"key {keyid}"


def require_sound(root: Root, what: str) -> None:
    """Refuse a root whose thresholds do not count different keys.

    Raises:
        UnsoundRootError: a key is no Ed25519 key, is one for which anybody can sign, or stands under two ids; or a
            role has fewer keys than it needs, or a number of them that is no number.
        MalformedMetadataError: a key's name could forge output.
    """
    owners: dict[bytes, str] = {}
    for keyid, key in root.keys.items():
        public = _public_bytes(key, what)
        if owners.setdefault(public, keyid) != keyid:
            raise UnsoundRootError(
                f"{what} lists one key under two ids ({owners[public][:8]} and {keyid[:8]}), so one person could meet "
                "a threshold of two: ask the sender for a root that counts keys"
            )
        name = key.unrecognized_fields.get(NAME_FIELD)
        if name is not None and not (isinstance(name, str) and KEY_NAME.fullmatch(name)):
            raise MalformedMetadataError(f"{what} gives a key a name of other characters than letters, digits, ._@-")
    for name in (Root.type, Targets.type, Snapshot.type, Timestamp.type):
        role = root.roles[name]
        if type(role.threshold) is not int:
            raise UnsoundRootError(f"{what} demands {role.threshold} signatures for {name}, which is no number")
        known = {keyid for keyid in role.keyids if keyid in root.keys}
        if len(known) < role.threshold:
            raise UnsoundRootError(f"{what} demands {role.threshold} signatures for {name} and lists {len(known)} keys")


def _public_bytes(key: Key, what: str) -> bytes:
    try:
        public = bytes.fromhex(key.keyval["public"])
    except (KeyError, TypeError, ValueError):
        public = b""
    y = int.from_bytes(public, "little") & ~(1 << 255)
    if (key.keytype, key.scheme) != (ED25519, ED25519) or len(public) != _KEY_BYTES or y >= _FIELD_PRIME:
        raise UnsoundRootError(f"{what} lists {key.keyid[:8]!a}, which is no Ed25519 key; this format has no others")
    if y in _SMALL_ORDER:
        raise UnsoundRootError(
            f"{what} lists {key.keyid[:8]!a}, for which anybody can sign: ask the sender for another"
        )
    return public


def count_signers(roots: Sequence[Root], metadata: Metadata[Any]) -> Signers:
    """Count the signatures of `metadata` by the last of `roots`; the earlier ones tell which keys were revoked."""
    role_name, newest = metadata.signed.type, roots[-1]
    role = newest.roles[role_name]
    found: dict[str, list[str]] = {"signed": [], "missing": [], "unfitting": []}
    for keyid in role.keyids:
        key = newest.keys.get(keyid)
        if key is None:
            continue
        kind = "missing" if keyid not in metadata.signatures else "signed" if fits(key, metadata) else "unfitting"
        found[kind].append(key_name(key))
    revoked = []
    for keyid in metadata.signatures:
        before = None if keyid in role.keyids else _last_trusted(roots, role_name, keyid)
        if before is not None and fits(before[0], metadata):
            revoked.append((key_name(before[0]), before[1]))
    return Signers(
        role=role_name,
        threshold=role.threshold,
        signed=tuple(found["signed"]),
        missing=tuple(found["missing"]),
        unfitting=tuple(found["unfitting"]),
        revoked=tuple(revoked),
    )


def _last_trusted(roots: Sequence[Root], role: str, keyid: str) -> tuple[Key, int] | None:
    """The key, if an earlier root trusts it for the role, and the version of the root that no longer does."""
    for place in range(len(roots) - 2, -1, -1):
        if keyid in roots[place].roles[role].keyids and keyid in roots[place].keys:
            return roots[place].keys[keyid], roots[place + 1].version
    return None


def fits(key: Key, metadata: Metadata[Any]) -> bool:
    """Whether the signature under the id of this key is its signature of what the metadata says."""
    try:
        key.verify_signature(metadata.signatures[key.keyid], metadata.signed_bytes)
    except UnverifiedSignatureError:
        return False
    return True


def require_signed(name: str, roots: Sequence[Root], metadata: Metadata[Any]) -> None:
    """Refuse metadata that too few keys of the last root signed, and say whose signature is missing or was revoked.

    Raises:
        RevokedKeyError: a key that a later root revoked signed it.
        UnknownKeyError: only keys signed it that no root of the chain knows.
        SignatureError: a signature does not fit, or signatures are missing.
    """
    signers = count_signers(roots, metadata)
    if signers.is_enough:
        return
    if signers.revoked:
        key, version = signers.revoked[0]
        raise RevokedKeyError(
            f"{name} is signed by {key}, and this key was revoked by root {version}: ask the sender for an archive "
            "that is signed with today's keys, which also repairs a release with the same contents; if this one is "
            "younger than the revocation, tell them where it came from"
        )
    if signers.unfitting:
        raise SignatureError(f"{name} is not what the signature of {signers.unfitting[0]} was made for")
    is_foreign = any(signature.signature != NO_SIGNATURE for signature in metadata.signatures.values())
    if not signers.signed and is_foreign:
        raise UnknownKeyError(f"{name} is signed by no key that the root trusts for this role ({signers})")
    raise SignatureError(f"{name} lacks signatures, so the archive is not finished: {signers}")
