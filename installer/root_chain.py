"""Metadata in its one spelling, and whether every root is signed by itself and by the one before.

This is a part of `installer.trust`, which numbers the checks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError, SerializationError
from tuf.api.serialization.json import JSONSerializer

from installer.archive import root_name
from installer.errors import (
    MalformedMetadataError,
    MixedMetadataError,
    SignatureError,
    UnknownKeyError,
)
from installer.signers import count_signers, fits, require_sound

CANONICAL = JSONSerializer(compact=True)
MAX_VERSION = 2**53  # what every reader of JSON keeps; a version that is a time has 14 digits
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ED25519_DIGITS = 128
_ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493  # RFC 8032, section 5.1


def parse_root(data: bytes) -> Metadata[Root]:
    """The operator's root file. It must be signed by itself, so that a truncated or wrong file shows at once.

    Only its signed content counts: a mail program may have added a byte order mark, a newline or carriage returns.
    """
    metadata = _parse("the given root file", data.removeprefix(_BYTE_ORDER_MARK))
    if not isinstance(metadata.signed, Root):
        raise MalformedMetadataError("the given root file is TUF metadata of another role")
    if not is_signed(metadata.signed, metadata):
        raise SignatureError("the given root file is not signed by enough of its own keys")
    require_sound(metadata.signed, "the given root")
    return metadata


def parse_canonical(name: str, data: bytes) -> Metadata[Any]:
    """Check 1: the bytes are metadata, in its one spelling."""
    metadata = _parse(name, data)
    one_spelling = all(_is_one_spelling(s.signature) for s in metadata.signatures.values())
    in_order = list(metadata.signatures) == sorted(metadata.signatures)
    unsigned = [metadata.unrecognized_fields, *(s.unrecognized_fields for s in metadata.signatures.values())]
    if metadata.to_bytes(CANONICAL) != data or not one_spelling or not in_order or any(unsigned):
        raise MalformedMetadataError(f"{name} is not in the one spelling of this format")
    if type(metadata.signed.version) is not int or metadata.signed.version > MAX_VERSION:
        raise MalformedMetadataError(f"{name} has a version that is no number from 1 to {MAX_VERSION}")
    role = name.rsplit("/", 1)[1].removesuffix(".json").rsplit(".", 1)[-1]
    if metadata.signed.type != role:
        raise MixedMetadataError(f"{name} holds metadata of the role {metadata.signed.type}")
    return metadata


def _parse(what: str, data: bytes) -> Metadata[Any]:
    """Metadata that can be serialised again and whose signatures are text; python-tuf leaves both unchecked.

    Raises:
        MalformedMetadataError: it is none.
    """
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        metadata.to_bytes(CANONICAL)
        is_text = all(isinstance(s.signature, str) and isinstance(s.keyid, str) for s in metadata.signatures.values())
        _ = metadata.signed_bytes
    except (DeserializationError, SerializationError, RecursionError) as exc:
        raise MalformedMetadataError(f"{what} is not TUF metadata") from exc
    if not is_text:
        raise MalformedMetadataError(f"{what} is not TUF metadata")
    return metadata


def _is_one_spelling(signature: str) -> bool:
    """Whether it is lower-case and, for Ed25519, its second half is smaller than the order of the group.

    RFC 8032 demands the latter and OpenSSL checks it. The Ed25519 in Python that the kit uses does not, so that every
    signature would have a second form.
    """
    if not re.fullmatch(r"[0-9a-f]+", signature):
        return False
    if len(signature) != _ED25519_DIGITS:
        return True
    scalar = bytes.fromhex(signature[_ED25519_DIGITS // 2 :])
    return int.from_bytes(scalar, "little") < _ED25519_ORDER


def verify_root_chain(roots: Sequence[Metadata[Root]], trusted: Metadata[Root]) -> None:
    """Check 2: the archive's roots, version 1 first, are one chain, and the operator's root is one of them.

    The operator's root may be newer than the chain. Then the caller must refuse the archive.
    """
    anchor = trusted.signed.version
    if anchor <= len(roots):
        _require_anchor(roots[anchor - 1], trusted)
    for version, metadata in enumerate(roots, start=1):
        name = root_name(version)
        if metadata.signed.version != version:
            raise MixedMetadataError(f"{name} says it is version {metadata.signed.version}")
        if version > 1:
            _require_root_signed(name, roots[version - 2].signed, metadata)  # first: the new root is not trusted yet
        _require_root_signed(name, metadata.signed, metadata)
        require_sound(metadata.signed, name)
        _require_no_others(name, [r.signed for r in roots[max(0, version - 2) : version]], metadata)


def _require_root_signed(name: str, by: Root, metadata: Metadata[Root]) -> None:
    signers = count_signers([by], metadata)
    if not signers.is_enough:
        raise SignatureError(f"{name} is not signed by enough keys of root {by.version}: {signers}")


def _require_no_others(name: str, counting: Sequence[Root], metadata: Metadata[Root]) -> None:
    """Every signature counts for something, so that nobody can add one on the way."""
    for keyid in metadata.signatures:
        keys = [root.keys[keyid] for root in counting if keyid in root.roles[Root.type].keyids and keyid in root.keys]
        if not any(fits(key, metadata) for key in keys):
            raise MalformedMetadataError(f"{name} has a signature that counts for nothing")


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
