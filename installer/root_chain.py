"""Metadata in its one spelling, and whether every root is signed by itself and by the one before.

This is a part of `installer.trust`, which numbers the checks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from installer.archive import root_name
from installer.errors import (
    MalformedMetadataError,
    MixedMetadataError,
    SignatureError,
    UnknownKeyError,
)
from installer.signers import require_sound

CANONICAL = JSONSerializer(compact=True)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def parse_root(data: bytes) -> Metadata[Root]:
    """The operator's root file. It must be signed by itself, so that a truncated or wrong file shows at once.

    Only its signed content counts: a mail program may have added a byte order mark, a newline or carriage returns.
    """
    try:
        metadata = Metadata[Root].from_bytes(data.removeprefix(_BYTE_ORDER_MARK))
        if not isinstance(metadata.signed, Root):
            raise MalformedMetadataError("the given root file is TUF metadata of another role")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except (DeserializationError, RecursionError) as exc:
        raise MalformedMetadataError("the given root file is not TUF root metadata") from exc
    except tuf_errors.UnsignedMetadataError as exc:
        raise SignatureError("the given root file is not signed by enough of its own keys") from exc
    require_sound(metadata.signed, "the given root")
    return metadata


def parse_canonical(name: str, data: bytes) -> Metadata[Any]:
    """Check 1: the bytes are metadata, in its one spelling."""
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        canonical = metadata.to_bytes(CANONICAL)
    except (DeserializationError, RecursionError) as exc:
        raise MalformedMetadataError(f"{name} is not TUF metadata") from exc
    lower = all(re.fullmatch(r"[0-9a-f]+", s.signature) for s in metadata.signatures.values())
    if canonical != data or not lower or list(metadata.signatures) != sorted(metadata.signatures):
        raise MalformedMetadataError(f"{name} is not in the one spelling of this format")
    role = name.rsplit("/", 1)[1].removesuffix(".json").rsplit(".", 1)[-1]
    if metadata.signed.type != role:
        raise MixedMetadataError(f"{name} holds metadata of the role {metadata.signed.type}")
    return metadata


def verify_root_chain(roots: Sequence[Metadata[Root]], trusted: Metadata[Root]) -> None:
    """Check 2: the archive's roots, version 1 first, are one chain, and the operator's root is one of them.

    The operator's root may be newer than the chain. Then the caller must refuse the archive.
    """
    anchor = trusted.signed.version
    if anchor <= len(roots):
        _require_anchor(roots[anchor - 1], trusted)
    for version, metadata in enumerate(roots, start=1):
        name = root_name(version)
        signers = [metadata.signed] if version == 1 else [metadata.signed, roots[version - 2].signed]
        if metadata.signed.version != version:
            raise MixedMetadataError(f"{name} says it is version {metadata.signed.version}")
        if not all(is_signed(signer, metadata) for signer in signers):
            raise SignatureError(f"{name} is not signed by enough of the chain's keys")
        require_sound(metadata.signed, name)


def _require_anchor(found: Metadata[Root], trusted: Metadata[Root]) -> None:
    """The root of the operator's version is the operator's."""
    if found.signed_bytes == trusted.signed_bytes:
        return
    name = root_name(trusted.signed.version)
    if set(trusted.signed.roles[Root.type].keyids).isdisjoint(found.signatures):
        raise UnknownKeyError("the archive's root metadata is signed by keys that the given root does not know")
    if not is_signed(trusted.signed, found):
        raise SignatureError(f"{name} is not what its signatures were made for")
    raise MixedMetadataError(f"{name} differs from the given root of the same version")


def continues(root: Metadata[Root], before: Metadata[Root]) -> bool:
    """Whether `root` is the next version after `before`, signed by the keys of both."""
    return (
        root.signed.version == before.signed.version + 1
        and is_signed(before.signed, root)
        and is_signed(root.signed, root)
    )


def is_signed(root: Root, metadata: Metadata[Any]) -> bool:
    """Whether enough keys of `root` signed the metadata."""
    try:
        root.verify_delegate(metadata.signed.type, metadata.signed_bytes, metadata.signatures)
    except tuf_errors.UnsignedMetadataError:
        return False
    return True


def root_version(name: str) -> int:
    """The version in a root's member name."""
    return int(name.rsplit("/", 1)[1].split(".", 1)[0])
