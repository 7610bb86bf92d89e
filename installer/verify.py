"""Verifies an archive in one pass, while its bytes are copied: signed metadata first, then every target against it.

`verify_archive` is the only way from a file to a `VerifiedArchive`: for `installer verify`, for `installer install`,
and for the bundler, which checks what it has just written. It calls the sink's `accept` for a blob only after the
digest matched. The sink must keep the blob in quarantine until the whole call has returned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from installer.accepted import Place
from installer.archive import ArchiveReader, Sha256Hex, target_name
from installer.errors import DigestMismatchError, LimitError, ReleaseDescriptorError
from installer.formats.release import DESCRIPTOR, MAX_DESCRIPTOR_BYTES, Release
from installer.progress import SILENT, Progress
from installer.release import parse_release
from installer.targets import Target
from installer.trust import VerifiedMetadata, verify_metadata


class BlobSink(Protocol):
    """Where the bytes of targets go while they are verified."""

    def prepare(self, release: Release, metadata: VerifiedMetadata) -> None:
        """Called once: metadata and release.json are verified, and no blob has come. Refuse here what cannot fit."""

    def begin(self, digest: Sha256Hex) -> None:
        """The bytes of this blob follow."""

    def write(self, chunk: bytes) -> None:
        """The next bytes of the blob, not yet verified."""

    def accept(self) -> None:
        """The blob is complete, and its digest matches."""


class DiscardingSink:
    """Keeps nothing: verification only."""

    def prepare(self, release: Release, metadata: VerifiedMetadata) -> None: ...

    def begin(self, digest: Sha256Hex) -> None: ...

    def write(self, chunk: bytes) -> None: ...

    def accept(self) -> None: ...


@dataclass(frozen=True)
class VerifiedArchive:
    """An archive whose every byte was read and is what trusted keys signed."""

    release: Release
    metadata: VerifiedMetadata

    @property
    def size_bytes(self) -> int:
        """Bytes of the distinct targets."""
        return sum(blob_sizes(self.metadata.targets).values())


def verify_archive(
    stream: BinaryIO,
    root: bytes,
    *,
    sink: BlobSink,
    trust_dir: Path | None = None,
    kept: Sequence[Place] = (),
    allow_downgrade: bool = False,
    allow_expired: bool = False,
    progress: Progress = SILENT,
) -> VerifiedArchive:
    """Read `stream` from front to back and verify all of it.

    Args:
        root: the operator's root metadata.
        trust_dir, kept, allow_downgrade, allow_expired: see `verify_metadata`.
        progress: told the bytes of targets, not the stage: the caller names it.
    Raises:
        ArchiveError, TrustError: the file is refused. Discard what the sink holds: it is not verified.
        whatever the sink raises.
    """
    reader = ArchiveReader(stream)
    metadata = verify_metadata(
        reader.read_metadata(), root, trust_dir,
        kept=kept, allow_downgrade=allow_downgrade, allow_expired=allow_expired,
    )  # fmt: skip
    order = blob_order(metadata.targets)
    paths = {target.path: target for target in metadata.targets}
    if DESCRIPTOR not in paths:
        raise ReleaseDescriptorError("the signed metadata lists no release.json")
    later = {target_name(digest): None for digest in order}
    first, *rest = order.items()
    if first[1] > MAX_DESCRIPTOR_BYTES:
        raise LimitError("the size of release.json", MAX_DESCRIPTOR_BYTES, first[1])
    descriptor = b"".join(_verified_chunks(reader, *first, later, SILENT))
    release = parse_release(descriptor, paths)
    sink.prepare(release, metadata)
    progress.bytes_done(len(descriptor))
    sink.begin(first[0])
    sink.write(descriptor)
    sink.accept()
    for digest, size in rest:
        sink.begin(digest)
        for chunk in _verified_chunks(reader, digest, size, later, progress):
            sink.write(chunk)
        sink.accept()
    reader.finish()
    return VerifiedArchive(release, metadata)


def blob_sizes(targets: tuple[Target, ...]) -> dict[Sha256Hex, int]:
    """Size in bytes of each distinct blob."""
    return {target.sha256: target.size_bytes for target in targets}


def blob_order(targets: tuple[Target, ...]) -> dict[Sha256Hex, int]:
    """Blobs and their sizes in the order of the archive: release.json's, then ascending by digest."""
    sizes = blob_sizes(targets)
    first = next((target.sha256 for target in targets if target.path == DESCRIPTOR), "")
    return {digest: sizes[digest] for digest in sorted(sizes, key=lambda d: (d != first, d))}


def _verified_chunks(
    reader: ArchiveReader, digest: Sha256Hex, size: int, later: dict[str, None], progress: Progress
) -> Iterator[bytes]:
    """The chunks of one blob. It ends normally only if the digest matches."""
    name = target_name(digest)
    running = hashlib.sha256()
    for chunk in reader.open_member(name, size, later):
        running.update(chunk)
        progress.bytes_done(len(chunk))
        yield chunk
    if running.hexdigest() != digest:
        raise DigestMismatchError(name, digest, running.hexdigest())
