"""What is damaged in an installed release, compared with a verified archive: the sink by which a repair reads it.

The archive may have expired, and the site may have accepted a newer one since: a release stays what it is. It must then
be the very release that the receipt names. Without a usable receipt the archive must pass as if it were installed.
"""

from __future__ import annotations

import hashlib
import os

from installer.accepted import read_copies
from installer.archive import Sha256Hex
from installer.directories import own_directories
from installer.errors import NoReleaseError, OtherPythonError, ReleaseConflictError
from installer.formats.manifest import Difference, Entry, Manifest, compare_data
from installer.formats.release import Release
from installer.prefix import check_file_system
from installer.preflight import check_platform, check_space, needed_bytes, this_host
from installer.progress import Progress
from installer.receipt import usable_receipt
from installer.site import Site
from installer.store import Staging, blob_path, is_blob
from installer.trust import VerifiedMetadata, verify_metadata
from installer.verify import blob_sizes


class DamagedBlobs:
    """A sink that keeps only the blobs that the release needs and the store has not."""

    def __init__(self, site: Site, root: bytes, progress: Progress) -> None:
        self._site, self._root, self._progress = site, root, progress
        self.staging = Staging(site, lambda release, metadata: None)
        self.differences: tuple[Difference, ...] = ()
        self.needed: dict[Sha256Hex, int] = {}
        self._takes = False

    def prepare(self, release: Release, metadata: VerifiedMetadata) -> None:
        """Find out what is damaged, before the first blob is read."""
        check_platform(release, this_host())
        check_file_system(self._site.prefix)
        _require_the_same_release(self._site, release.version, metadata, self._root)
        _require_its_python(self._site, release)
        self._progress.stage("Comparing the installed release")
        directory = self._site.release(release.version)
        opened = own_directories(directory)
        against = Manifest(signed_files(metadata), "")
        damaged = compare_data(str(directory), against, hash_all=True)
        self.differences = (*opened, *damaged)
        paths = {difference.path for difference in damaged}
        targets = [target for target in metadata.targets if target.path in paths]
        self.needed = {
            target.sha256: target.size_bytes for target in targets
            if not is_blob(blob_path(self._site, target.sha256), target.sha256)
        }  # fmt: skip
        check_space(self._site.prefix, needed_bytes(metadata.targets, sum(self.needed.values())))
        self._progress.stage("Verifying the archive", sum(blob_sizes(metadata.targets).values()))
        self.staging.prepare(release, metadata)

    def recall(self, digest: Sha256Hex) -> bool:
        return digest not in self.needed or self.staging.recall(digest)

    def begin(self, digest: Sha256Hex) -> None:
        self._takes = digest in self.needed
        if self._takes:
            self.staging.begin(digest)

    def write(self, chunk: bytes) -> None:
        if self._takes:
            self.staging.write(chunk)

    def accept(self) -> None:
        if self._takes:
            self.staging.accept()


def _require_the_same_release(site: Site, version: str, metadata: VerifiedMetadata, root: bytes) -> None:
    """Refuse an archive that is not what lies in the release's place."""
    release = site.release(version)
    if release.is_symlink() or not release.is_dir():
        raise NoReleaseError(f"release {version}, which the archive holds, does not lie here: install it")
    known = usable_receipt(release)
    if known is None:
        # nothing says that this release was ever accepted
        verify_metadata(metadata.members, root, site.trust, kept=read_copies(site))
    elif known.contents_sha256 != metadata.contents:
        raise ReleaseConflictError(f"the archive holds another release {version} than the one that is installed")


def _require_its_python(site: Site, release: Release) -> None:
    """Refuse another version of Python than the one that the release was installed for, unless that is gone.

    Raises:
        OtherPythonError: the command goes on in the right one.
    """
    known = usable_receipt(site.release(release.version))
    if known is None or not os.access(known.interpreter, os.X_OK):
        return
    python = ".".join(known.python.split(".")[:2])
    if python in release.target.pythons and python != this_host().python:
        raise OtherPythonError((python,), f"CPython {this_host().python}")


def signed_files(metadata: VerifiedMetadata) -> dict[str, Entry]:
    """Every file of the release but its environment, as the archive's metadata lists it."""
    files = {target.path: Entry(target.size_bytes, target.sha256) for target in metadata.targets}
    members = metadata.members.items()
    return files | {name: Entry(len(data), hashlib.sha256(data).hexdigest()) for name, data in members}
