"""The archive format: what bytes a `.airgap` file consists of, and a reader that accepts nothing else.

An archive is an uncompressed POSIX (ustar) tar of plain files, in this order:

    metadata/1.root.json .. metadata/N.root.json     the chain of roots, without a gap
    metadata/timestamp.json, metadata/snapshot.json, metadata/targets.json
    metadata/delta.json                              only in a delta: which targets are left out (installer.media.delta)
    targets/<sha256> ..                              release.json's first, then ascending by digest, each digest once

followed by exactly two zero blocks and nothing more. Every header is the one that `member_header` makes, and padding is
zero. So an archive has one encoding only, and a changed bit anywhere in the file is refused.

The reader streams: it does not seek, and it keeps the metadata and one chunk in memory. It decides nothing about trust:
`installer.trust` and `installer.verify` do. docs/archive-format.md says the same in prose.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import NewType, Protocol

from installer.errors import (
    DuplicateMemberError,
    EscapingPathError,
    ForbiddenMemberError,
    HeaderError,
    LimitError,
    MediaError,
    MissingMemberError,
    TrailingBytesError,
    TruncatedArchiveError,
    UnexpectedMemberError,
)

Sha256Hex = NewType("Sha256Hex", str)

BLOCK_BYTES = tarfile.BLOCKSIZE
END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)
CHUNK_BYTES = 1 << 20

# Limits, checked before anything is allocated. The largest release (120b, CPU and CUDA) has about 300 targets.
MAX_TARGETS = 10_000
MAX_ROOTS = 64
MAX_METADATA_BYTES = 5_000_000
MAX_TARGET_BYTES = 1 << 32  # weight shards are at most 1 GiB

SUFFIX = ".airgap"
TIMESTAMP, SNAPSHOT, TARGETS = "metadata/timestamp.json", "metadata/snapshot.json", "metadata/targets.json"
DELTA = "metadata/delta.json"
_LAWFUL_NAME = re.compile(r"metadata/[1-9][0-9]{0,5}\.root\.json|targets/[0-9a-f]{64}")
_KINDS = {
    tarfile.LNKTYPE: "hard link", tarfile.SYMTYPE: "symbolic link", tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device", tarfile.DIRTYPE: "directory", tarfile.FIFOTYPE: "FIFO",
    tarfile.GNUTYPE_SPARSE: "sparse file", tarfile.XHDTYPE: "pax header", tarfile.XGLTYPE: "global pax header",
    tarfile.GNUTYPE_LONGNAME: "GNU long name", tarfile.GNUTYPE_LONGLINK: "GNU long link",
}  # fmt: skip


def root_name(version: int) -> str:
    """Member name of root metadata `version`."""
    return f"metadata/{version}.root.json"


def target_name(digest: Sha256Hex) -> str:
    """Member name of the target with this SHA-256."""
    return f"targets/{digest}"


def member_header(name: str, size_bytes: int) -> bytes:
    """The one header block this format has for a plain file of this name and size: mode 0644, owner 0, time 0."""
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def padding_bytes(size_bytes: int) -> int:
    """How many zero bytes follow a member of this size."""
    return -size_bytes % BLOCK_BYTES


def _is_canonical(block: bytes, name: str, size: int) -> bool:
    try:
        return size >= 0 and block == member_header(name, size)
    except ValueError:  # ustar cannot express it: not ASCII, name too long, 8 GiB or more
        return False


class ByteStream(Protocol):
    """What an archive is read from: a file, a pipe, volumes."""

    def read(self, count: int, /) -> bytes:
        """The next ``count`` bytes; fewer only at the end."""


class ArchiveReader:
    """Reads one archive from front to back: `read_metadata`, `read_delta`, each target with `open_member`, `finish`."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._seen: set[str] = set()
        self._ahead = b""  # a header that was read and belongs to the next member
        self.position = 0  # where the next member begins, after `read_delta`

    def read_metadata(self) -> dict[str, bytes]:
        """The metadata members by name, in the file's order: roots, timestamp, snapshot, targets.

        Raises:
            ArchiveError: a subclass that says which rule of the format the bytes break.
        """
        metadata: dict[str, bytes] = {}
        version = 1
        while True:
            block = self._read(BLOCK_BYTES, f"the header of {root_name(version)}")
            size = self._metadata_size(block, root_name(version))
            if size is None:
                break
            if version > MAX_ROOTS:
                raise LimitError("the number of root metadata files", MAX_ROOTS, version)
            metadata[root_name(version)] = self._read_body(root_name(version), size)
            version += 1
        if version == 1:
            raise self._wrong_header(block, root_name(1), {TIMESTAMP, SNAPSHOT, TARGETS})
        for name in (TIMESTAMP, SNAPSHOT, TARGETS):
            size = self._metadata_size(block, name)
            if size is None:
                raise self._wrong_header(block, name, {SNAPSHOT, TARGETS})
            metadata[name] = self._read_body(name, size)
            if name != TARGETS:
                block = self._read(BLOCK_BYTES, "the next header")
        return metadata

    def read_delta(self) -> bytes | None:
        """The member metadata/delta.json, which only a delta has. Call it after `read_metadata`."""
        block = self._read(BLOCK_BYTES, "the next header")
        size = self._metadata_size(block, DELTA)
        if size is None:
            self._ahead = block
            self.position -= len(block)
            return None
        return self._read_body(DELTA, size)

    def open_member(self, name: str, size_bytes: int, later: Mapping[str, object]) -> Iterator[bytes]:
        """The chunks of the member that must come next.

        Args:
            later: names that the signed metadata lists; they tell a missing member from an unlisted one.
        Raises:
            ArchiveError: another header stands here, the file ends, or the padding is not zero. The caller must not use
                what it read until the iterator has ended and the digest matches.
        """
        block = self._read(BLOCK_BYTES, f"the header of {name}")
        if block != member_header(name, size_bytes):
            raise self._wrong_header(block, name, later)
        self._seen.add(name)
        left = size_bytes
        while left:
            chunk = self._read(min(left, CHUNK_BYTES), name)
            left -= len(chunk)
            yield chunk
        self._skip_padding(name, size_bytes)

    def finish(self) -> None:
        """Require the end-of-archive blocks, then the end of the file."""
        end = self._read(len(END_OF_ARCHIVE), "the end-of-archive mark")
        if end != END_OF_ARCHIVE:
            if any(end[:BLOCK_BYTES]):
                raise self._wrong_header(end[:BLOCK_BYTES], None, {})
            raise HeaderError("the end of the archive", "its two blocks are not zero")
        if self._stream.read(1):
            raise TrailingBytesError

    def _metadata_size(self, block: bytes, name: str) -> int | None:
        """Size of metadata member `name` if `block` is its header, else None. It is not signed, so it is limited."""
        try:
            size = tarfile.TarInfo.frombuf(block, "ascii", "surrogateescape").size
        except tarfile.HeaderError:
            return None
        if not _is_canonical(block, name, size):
            return None
        if size > MAX_METADATA_BYTES:
            raise LimitError(f"the size of {name}", MAX_METADATA_BYTES, size)
        self._seen.add(name)
        return size

    def _read_body(self, name: str, size: int) -> bytes:
        body = self._read(size, name)
        self._skip_padding(name, size)
        return body

    def _skip_padding(self, name: str, size: int) -> None:
        if any(self._read(padding_bytes(size), f"the padding of {name}")):
            raise HeaderError(name, "the padding after it is not zero")

    def _read(self, count: int, where: str) -> bytes:
        ahead, self._ahead = self._ahead, b""
        try:
            data = ahead + self._stream.read(count - len(ahead))
        except OSError as exc:
            raise MediaError(
                f"{where} cannot be read from the media: {exc.strerror}; put the medium back and run the same command "
                "again, which goes on with what was verified"
            ) from exc
        if len(data) < count:
            raise TruncatedArchiveError(where)
        self.position += len(data)
        return data

    def _wrong_header(self, block: bytes, expected: str | None, later: Mapping[str, object] | set[str]) -> Exception:
        """The error for a header block that is not the expected one (None: the end was expected)."""
        where = expected or "the end of the archive"
        if expected is not None and not any(block):
            return MissingMemberError(expected, None)
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "surrogateescape")
        except tarfile.HeaderError as exc:
            return HeaderError(where, f"the tar header is damaged ({exc})")
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            return ForbiddenMemberError(info.name, _KINDS.get(info.type, f"member of type {info.type!r}"))
        if info.name.startswith("/") or ".." in info.name.split("/"):
            return EscapingPathError(info.name, "it leaves the archive's directory")
        if info.name in self._seen:
            return DuplicateMemberError(info.name)
        if not _is_canonical(block, info.name, info.size):
            return HeaderError(where, "the tar header is not in this format's one form")
        if info.name == expected:
            return HeaderError(where, f"its header says {info.size} bytes, the signed metadata says otherwise")
        in_metadata = expected is not None and expected.startswith("metadata/")
        if expected is not None and (info.name in later or (in_metadata and _LAWFUL_NAME.fullmatch(info.name))):
            return MissingMemberError(expected, info.name)
        return UnexpectedMemberError(info.name)
