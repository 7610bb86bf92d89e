"""Verifies an archive in one pass, while its bytes are copied: signed metadata first, then every target against it.

`verify_archive` is the only way from a file to a `VerifiedArchive`: for `installer verify`, for `installer install`,
and for the bundler, which checks what it has just written. It calls the sink's `accept` for a blob only after the
digest matched. The sink must keep the blob in quarantine until the whole call has returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from installer.accepted import Place
from installer.archive import ArchiveReader, ByteStream, Sha256Hex, target_name
from installer.errors import (
    ArchiveError,
    BaseNeededError,
    DigestMismatchError,
    LimitError,
    ReleaseDescriptorError,
    TrustError,
)
from installer.formats.release import DESCRIPTOR, MAX_DESCRIPTOR_BYTES, Release
from installer.hashing import running_digest
from installer.media.delta import Delta, read_delta
from installer.media.stream import VolumeStream
from installer.progress import SILENT, Progress
from installer.release import parse_release
from installer.targets import Target
from installer.trust import VerifiedMetadata, verify_metadata


class BlobSink(Protocol):
    """Where the bytes of targets go while they are verified."""

    def prepare(self, release: Release, metadata: VerifiedMetadata) -> None:
        """Called once: metadata and release.json are verified, and no blob has come. Refuse here what cannot fit."""

    def recall(self, digest: Sha256Hex) -> bool:
        """Called after `prepare` for each blob that a delta leaves out: whether it is here, with these very bytes."""

    def begin(self, digest: Sha256Hex) -> None:
        """The bytes of this blob follow."""

    def write(self, chunk: bytes) -> None:
        """The next bytes of the blob, not yet verified."""

    def accept(self) -> None:
        """The blob is complete, and its digest matches."""


class DiscardingSink:
    """Keeps nothing and misses nothing: verification of the file alone."""

    def prepare(self, release: Release, metadata: VerifiedMetadata) -> None: ...

    def recall(self, digest: Sha256Hex) -> bool:
        return True

    def begin(self, digest: Sha256Hex) -> None: ...

    def write(self, chunk: bytes) -> None: ...

    def accept(self) -> None: ...


@dataclass(frozen=True)
class VerifiedArchive:
    """An archive whose every byte was read and is what trusted keys signed. A delta lacks some blobs of the release."""

    release: Release
    metadata: VerifiedMetadata
    delta: Delta | None = None  # what it leaves out, and the sink had; None: it is whole

    @property
    def size_bytes(self) -> int:
        """Bytes of the distinct targets."""
        return sum(blob_sizes(self.metadata.targets).values())


def verify_archive(
    stream: ByteStream,
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
        MediaError: the archive cannot be read to its end. What the sink has accepted is verified, and worth keeping.
        ArchiveError, TrustError: the file is refused. Discard what the sink holds: it is not verified.
        whatever the sink raises.
    """
    trust = partial(
        verify_metadata, root=root, trust_dir=trust_dir,
        kept=kept, allow_downgrade=allow_downgrade, allow_expired=allow_expired,
    )  # fmt: skip
    try:
        return _verify(stream, trust, sink, progress)
    except (ArchiveError, TrustError):
        if isinstance(stream, VolumeStream):
            stream.require_intact()  # a damaged copy of one volume is named as such
        raise


def _verify(
    stream: ByteStream, trust: Callable[[dict[str, bytes]], VerifiedMetadata], sink: BlobSink, progress: Progress
) -> VerifiedArchive:
    reader = ArchiveReader(stream)
    metadata = trust(reader.read_metadata())
    order = blob_order(metadata.targets)
    delta = read_delta(reader, list(order))
    left_out = frozenset(delta.absent if delta else ())
    paths = {target.path: target for target in metadata.targets}
    if DESCRIPTOR not in paths:
        raise ReleaseDescriptorError("the signed metadata lists no release.json")
    later = {target_name(digest): None for digest in order}
    first, *rest = ((digest, size) for digest, size in order.items() if digest not in left_out)
    if first[1] > MAX_DESCRIPTOR_BYTES:
        raise LimitError("the size of release.json", MAX_DESCRIPTOR_BYTES, first[1])
    descriptor = b"".join(_verified_chunks(reader, *first, later, SILENT))
    release = parse_release(descriptor, paths)
    sink.prepare(release, metadata)
    if delta is not None:
        _recall(delta, metadata, sink, progress)
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
    return VerifiedArchive(release, metadata, delta)


def _recall(delta: Delta, metadata: VerifiedMetadata, sink: BlobSink, progress: Progress) -> None:
    """Require that the sink has every blob that the delta leaves out.

    Raises:
        BaseNeededError: it lacks some.
    """
    sizes, lacking = blob_sizes(metadata.targets), set()
    for digest in delta.absent:
        if not sink.recall(digest):
            lacking.add(digest)
        progress.bytes_done(sizes[digest])
    if lacking:
        first = next(target.path for target in metadata.targets if target.sha256 in lacking)
        raise BaseNeededError(str(delta.base), len(lacking), first)


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
    with running_digest() as running:
        for chunk in reader.open_member(name, size, later):
            running.update(chunk)
            progress.bytes_done(len(chunk))
            yield chunk
        found = running.hexdigest()
    if found != digest:
        raise DigestMismatchError(name, digest, found)
