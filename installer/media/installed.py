"""A release that is installed in a site, read like an archive's contents."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from installer.errors import DigestMismatchError, LimitError, MixedMetadataError, NoReleaseError
from installer.formats.release import DESCRIPTOR, Release
from installer.media.contents import MAX_FILE_BYTES
from installer.release import parse_release
from installer.site import Site
from installer.targets import Target
from installer.trust import verify_kept_metadata

_METADATA = "metadata"


@dataclass(frozen=True)
class InstalledContents:
    """The signed files of an installed release."""

    directory: Path
    release: Release
    targets: tuple[Target, ...]

    def read(self, path: str) -> bytes | None:
        """The contents of a file, compared with its signed digest; None if the release does not have it.

        Raises:
            DigestMismatchError: the file was changed or cannot be read.
        """
        target = next((target for target in self.targets if target.path == path), None)
        return None if target is None else _read(self.directory, target)


def open_installed(site: Site, root: bytes) -> InstalledContents:
    """The current release of a site.

    Raises:
        NoReleaseError: there is none.
        ArchiveError, TrustError: what lies there is not signed by keys that the root trusts.
    """
    version = site.pointed("current")
    if version is None:
        raise NoReleaseError(f"no release is installed in {site.prefix}, so there is nothing to compare with")
    directory = site.release(version)
    if not os.path.lexists(directory / _METADATA):
        raise MixedMetadataError(
            f"{version} has no signed list of its files (a version before 0.2.0 kept none): compare the archives on "
            "the connected side with `bundler diff`"
        )
    try:
        names = sorted(os.listdir(directory / _METADATA))
        members = {f"{_METADATA}/{name}": (directory / _METADATA / name).read_bytes() for name in names}
    except OSError as exc:
        raise MixedMetadataError(f"the signed metadata of {version} cannot be read: {exc.strerror}") from exc
    targets = verify_kept_metadata(members, root)
    described = [target for target in targets if target.path == DESCRIPTOR]
    if not described:
        raise MixedMetadataError(f"the signed metadata of {version} lists no {DESCRIPTOR}")
    release = parse_release(_read(directory, described[0]), [target.path for target in targets])
    return InstalledContents(directory, release, targets)


def _read(directory: Path, target: Target) -> bytes:
    if target.size_bytes > MAX_FILE_BYTES:
        raise LimitError(f"the size of {target.path}", MAX_FILE_BYTES, target.size_bytes)
    try:
        with (directory / target.path).open("rb") as file:
            data = file.read(target.size_bytes + 1)
    except OSError as exc:
        raise DigestMismatchError(target.path, target.sha256, f"nothing: {exc.strerror}") from exc
    if (actual := hashlib.sha256(data).hexdigest()) != target.sha256:
        raise DigestMismatchError(target.path, target.sha256, actual)
    return data
