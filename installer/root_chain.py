"""Metadata in its one spelling, and whether every root is signed by itself and by the one before.

This is a part of `installer.trust`, which numbers the checks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from installer.archive import root_name
from installer.errors import (
    MalformedMetadataError,
    MixedMetadataError,
    OlderVersionError,
    SignatureError,
    UnknownKeyError,
)

CANONICAL = JSONSerializer(compact=True)


def parse_root(data: bytes) -> Metadata[Root]:
    """The operator's root file. It must be signed by itself, so that a truncated or wrong file shows at once."""
    try:
        metadata = Metadata[Root].from_bytes(data)
        if not isinstance(metadata.signed, Root):
            raise MalformedMetadataError("the given root file is TUF metadata of another role")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except DeserializationError as exc:
        raise MalformedMetadataError("the given root file is not TUF root metadata") from exc
    except tuf_errors.UnsignedMetadataError as exc:
        raise SignatureError("the given root file is not signed by its own keys") from exc
    return metadata


def parse_canonical(name: str, data: bytes) -> Metadata[Any]:
    """Check 1: the bytes are metadata, in its one spelling."""
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        canonical = metadata.to_bytes(CANONICAL)
    except (DeserializationError, RecursionError) as exc:
        raise MalformedMetadataError(f"{name} is not TUF metadata") from exc
    lower = all(re.fullmatch(r"[0-9a-f]+", s.signature) for s in metadata.signatures.values())
    if canonical != data or not lower:
        raise MalformedMetadataError(f"{name} is not in the one spelling of this format")
    role = name.rsplit("/", 1)[1].removesuffix(".json").rsplit(".", 1)[-1]
    if metadata.signed.type != role:
        raise MixedMetadataError(f"{name} holds metadata of the role {metadata.signed.type}")
    return metadata


def verify_root_chain(
    roots: list[Metadata[Root]], members: Mapping[str, bytes], trusted: Metadata[Root], trusted_bytes: bytes
) -> None:
    """Check 2. The updater also checks the roots newer than the trusted one; only this checks the older ones."""
    anchor = trusted.signed.version
    if anchor > len(roots):
        raise OlderVersionError(f"the archive ends at root version {len(roots)}, the given root is version {anchor}")
    signed_here = roots[anchor - 1]
    if members[root_name(anchor)] != trusted_bytes:
        known = set(trusted.signed.roles[Root.type].keyids)
        if known.isdisjoint(signed_here.signatures):
            raise UnknownKeyError("the archive's root metadata is signed by keys that the given root does not know")
        if not is_signed(trusted.signed, signed_here):
            raise SignatureError(f"{root_name(anchor)} is not what its signatures were made for")
        raise MixedMetadataError(f"{root_name(anchor)} differs from the given root of the same version")
    for version, metadata in enumerate(roots, start=1):
        signers = [metadata.signed] if version == 1 else [metadata.signed, roots[version - 2].signed]
        if metadata.signed.version != version:
            raise MixedMetadataError(f"{root_name(version)} says it is version {metadata.signed.version}")
        if not all(is_signed(signer, metadata) for signer in signers):
            raise SignatureError(f"{root_name(version)} is not signed by enough of the chain's keys")


def is_signed(root: Root, metadata: Metadata[Any]) -> bool:
    try:
        root.verify_delegate(metadata.signed.type, metadata.signed_bytes, metadata.signatures)
    except tuf_errors.UnsignedMetadataError:
        return False
    return True


def root_version(name: str) -> int:
    return int(name.rsplit("/", 1)[1].split(".", 1)[0])
