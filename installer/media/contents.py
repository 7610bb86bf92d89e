"""Looks into an archive without reading all of it: its signed list of files, and single small files by their digest.

For comparisons (`diff`, `--base`) and never for installing. The metadata must be signed, but it may have expired,
because an old archive is compared with a new one.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from installer.archive import (
    ArchiveReader,
    Sha256Hex,
    member_header,
    padding_bytes,
    root_name,
    target_name,
)
from installer.errors import AmbiguousMediaError, DigestMismatchError, LimitError, ReleaseDescriptorError
from installer.formats.release import DESCRIPTOR, Release
from installer.media.delta import Base, Delta, read_delta
from installer.media.source import PIPE, open_media
from installer.release import parse_release
from installer.targets import Target, contents_digest
from installer.trust import verify_kept_metadata
from installer.verify import blob_order, blob_sizes

MAX_FILE_BYTES = 64 << 20


class SeekableStream(Protocol):
    """An archive in a file or in volumes."""

    def read(self, count: int, /) -> bytes:
        """The next ``count`` bytes; fewer only at the end."""

    def seek(self, position: int, /) -> int:
        """Go to a position."""


@dataclass(frozen=True)
class ArchiveContents:
    """An archive's files, and where their bytes lie."""

    stream: SeekableStream
    release: Release
    targets: tuple[Target, ...]  # ascending by path
    delta: Delta | None
    places: dict[Sha256Hex, int]  # where the member of a blob begins; a delta lacks some

    @property
    def base(self) -> Base:
        """This release as the base of a delta."""
        return Base(self.release.name, self.release.version, contents_digest(self.targets))

    def read(self, path: str) -> bytes | None:
        """The contents of a file; None if the release lacks it, or a delta leaves it out.

        Raises:
            ArchiveError: the file is damaged, or too large to be kept in memory.
        """
        digest = next((target.sha256 for target in self.targets if target.path == path), None)
        if digest is None or digest not in self.places:
            return None
        return _read_blob(self.stream, self.places[digest], digest, blob_sizes(self.targets)[digest])


@contextmanager
def opened_contents(
    files: Sequence[Path], directories: Sequence[Path], root: bytes | None
) -> Iterator[ArchiveContents]:
    """The contents of the archive that these files and directories hold; see `open_media` and `open_contents`.

    Raises:
        AmbiguousMediaError: it is a pipe, in which nobody can go back.
    """
    if PIPE in files:
        raise AmbiguousMediaError("- cannot be compared, because a pipe is read once; give a file")
    with open_media(files, directories, pipe=sys.stdin.buffer, ask=None) as media:
        yield open_contents(cast(SeekableStream, media.stream), root)


def open_contents(stream: SeekableStream, root: bytes | None) -> ArchiveContents:
    """Read the metadata at the front of an archive, and release.json.

    Args:
        root: the trusted root metadata; None: the archive's own first root, which proves nothing about the sender.
    Raises:
        ArchiveError, TrustError: it is no archive, or not signed by keys that the root trusts.
    """
    reader = ArchiveReader(stream)
    members = reader.read_metadata()
    targets = verify_kept_metadata(members, members[root_name(1)] if root is None else root)
    order = blob_order(targets)
    delta = read_delta(reader, list(order))
    left_out = frozenset(delta.absent if delta else ())
    places, position = {}, reader.position
    for digest, size in order.items():
        if digest not in left_out:
            places[digest] = position
            position += len(member_header(target_name(digest), size)) + size + padding_bytes(size)
    first = next(iter(order.items()), None)
    if first is None or not any(target.path == DESCRIPTOR for target in targets):
        raise ReleaseDescriptorError("the signed metadata lists no release.json")
    release = parse_release(_read_blob(stream, places[first[0]], *first), [target.path for target in targets])
    return ArchiveContents(stream, release, targets, delta, places)


def _read_blob(stream: SeekableStream, position: int, digest: Sha256Hex, size: int) -> bytes:
    if size > MAX_FILE_BYTES:
        raise LimitError(f"the size of {target_name(digest)}", MAX_FILE_BYTES, size)
    stream.seek(position)
    data = b"".join(ArchiveReader(stream).open_member(target_name(digest), size, {}))
    if (actual := hashlib.sha256(data).hexdigest()) != digest:
        raise DigestMismatchError(target_name(digest), digest, actual)
    return data
