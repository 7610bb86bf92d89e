"""Reads the beginning of an archive: its signed metadata and release.json, and none of the blobs behind them."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from installer.accepted import read_copies
from installer.archive import ByteStream, Sha256Hex
from installer.formats.release import Release
from installer.progress import SILENT, Progress
from installer.site import Site
from installer.trust import VerifiedMetadata
from installer.verify import DiscardingSink, verify_archive


class HeadSink(DiscardingSink):
    """Keeps what an archive says of itself, and no bytes of it."""

    def __init__(self) -> None:
        self.head: tuple[Release, VerifiedMetadata] | None = None

    def prepare(self, release: Release, metadata: VerifiedMetadata) -> None:
        self.head = (release, metadata)


class _Enough(Exception):
    """The head has been read."""


class _FirstBlob(HeadSink):
    def recall(self, digest: Sha256Hex) -> bool:
        raise _Enough

    def begin(self, digest: Sha256Hex) -> None:
        raise _Enough


def read_head(
    stream: ByteStream,
    root: bytes,
    site: Site | None,
    *,
    whole: bool = False,
    allowed: Collection[str] = (),
    progress: Progress = SILENT,
) -> tuple[Release, VerifiedMetadata]:
    """The release and its verified metadata.

    Args:
        site: refuse what this site would refuse; None: compare with the root alone.
        whole: verify all blobs as well.
        allowed: see `installer.install.install`.
    Raises:
        ArchiveError, TrustError: the archive is refused.
    """
    sink = HeadSink() if whole else _FirstBlob()
    with suppress(_Enough):
        verify_archive(
            stream, root, sink=sink, trust_dir=None if site is None else site.trust,
            kept=() if site is None else read_copies(site), allow_downgrade="downgrade" in allowed,
            allow_expired="expired" in allowed, progress=progress,
        )  # fmt: skip
    if sink.head is None:
        raise RuntimeError("internal error: an archive ended before its first blob")
    return sink.head
