"""Blobs by digest: the quarantine that they are copied into, the store, and the releases that link to them.

`Staging` is the sink of `verify_archive`. Blobs lie in the site's `.incoming` until the whole archive is verified. Then
`commit` renames them into the store, and `assemble` hard-links a release from it. A killed run leaves complete blobs
behind, which the next run hashes again and reuses.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from installer.archive import CHUNK_BYTES, Sha256Hex
from installer.disk_writer import DiskWriter
from installer.durable import remove_tree, sync_directory
from installer.errors import PrefixError
from installer.formats.release import Release
from installer.site import Site
from installer.targets import Target
from installer.trust import VerifiedMetadata
from installer.verify import blob_sizes

_BLOB_MODE = 0o444
Preflight = Callable[[Release, VerifiedMetadata], None]


class Staging:
    """Copies blobs into quarantine while they are verified.

    Args:
        preflight: called with the verified release before the first byte is written; raises if the host cannot take it.
    """

    def __init__(self, site: Site, preflight: Preflight) -> None:
        self._site = site
        self._preflight = preflight
        self._digest: Sha256Hex | None = None
        self._writer = DiskWriter()  # no file is open between begin and accept if the blob is here already
        self._staged: list[Sha256Hex] = []
        self.reused = 0

    def prepare(self, release: Release, metadata: VerifiedMetadata) -> None:
        self._preflight(release, metadata)
        self._site.incoming.mkdir(exist_ok=True)
        for partial in self._site.incoming.glob("*.part"):
            remove_tree(partial)  # whatever somebody put there

    def recall(self, digest: Sha256Hex) -> bool:
        """Whether the blob is in the store or in quarantine already, judged by its digest."""
        if is_blob(blob_path(self._site, digest), digest):
            self.reused += 1
        elif is_blob(self._site.incoming / digest, digest):
            self.reused += 1
            self._staged.append(digest)
        else:
            return False
        return True

    def begin(self, digest: Sha256Hex) -> None:
        self._digest = digest
        if not self.recall(digest):
            self._writer.open(self._partial(digest))

    def write(self, chunk: bytes) -> None:
        if self._writer.is_open:
            self._writer.write(chunk)

    def accept(self) -> None:
        if not self._writer.is_open or self._digest is None:
            return
        self._writer.close(_BLOB_MODE)
        # A crash may leave a blob with its name and without its bytes. The next run hashes what it finds here.
        self._partial(self._digest).replace(self._site.incoming / self._digest)
        self._staged.append(self._digest)

    @property
    def was_needed(self) -> bool:
        """Whether a blob came that the store lacked, or had damaged."""
        return bool(self._staged)

    def commit(self) -> None:
        """Move the staged blobs into the store. Call only after `verify_archive` has returned.

        Raises:
            OSError: the disk could not keep a blob.
        """
        self._writer.wait()
        self._writer.stop()
        for digest in self._staged:
            path = blob_path(self._site, digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_tree(path)  # a rename cannot replace a directory by a file
            (self._site.incoming / digest).replace(path)
        for directory in {blob_path(self._site, digest).parent for digest in self._staged}:
            sync_directory(directory)
        remove_tree(self._site.incoming)

    def suspend(self) -> None:
        """Keep the complete blobs in quarantine for the next run, because the medium could not be read to its end."""
        self._writer.stop()
        if self._digest is not None:
            self._partial(self._digest).unlink(missing_ok=True)
        if self._site.incoming.is_dir():
            _remove_if_empty(self._site.incoming)

    def discard(self) -> None:
        """Remove the quarantine with everything in it."""
        self._writer.stop()
        remove_tree(self._site.incoming)

    def _partial(self, digest: Sha256Hex) -> Path:
        return self._site.incoming / f"{digest}.part"


def blob_path(site: Site, digest: Sha256Hex) -> Path:
    """Where the store keeps this blob."""
    return site.store / digest[:2] / digest


def is_blob(path: Path, digest: Sha256Hex) -> bool:
    """Whether `path` is a file as `Staging` makes them, with exactly the bytes of this digest; reads all of them.

    Also False if somebody else could write the file, because they may still have it open, or if the disk cannot read
    it. The archive's bytes then replace it.
    """
    running = hashlib.sha256()
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not _is_as_staged(os.fstat(file.fileno())):
                return False
            while chunk := file.read(CHUNK_BYTES):
                running.update(chunk)
    except OSError:
        return False
    return running.hexdigest() == digest


def _is_as_staged(status: os.stat_result) -> bool:
    return (
        stat.S_ISREG(status.st_mode)
        and stat.S_IMODE(status.st_mode) == _BLOB_MODE
        and status.st_uid in (0, os.geteuid())
    )


def missing_bytes(site: Site, targets: tuple[Target, ...]) -> int:
    """Bytes of blobs that are neither in the store nor in quarantine, judged by size and mode alone."""
    total = 0
    for digest, size in blob_sizes(targets).items():
        here = [path.lstat() for path in (blob_path(site, digest), site.incoming / digest) if os.path.lexists(path)]
        if not any(_is_as_staged(status) and status.st_size == size for status in here):
            total += size
    return total


def assemble(site: Site, version: str, targets: tuple[Target, ...]) -> Path:
    """Make the release's directory from hard links to the store's blobs.

    Returns:
        `Site.unfinished`. It has neither its receipt nor its final name, so it does not count as installed.
    Raises:
        PrefixError: the file system has no hard links.
    """
    release = site.unfinished(version)
    remove_tree(release)
    release.parent.mkdir(exist_ok=True)
    make_directories(release, release)
    for target in targets:
        path = release / target.path
        make_directories(release, path.parent)
        try:
            os.link(blob_path(site, target.sha256), path)
        except OSError as exc:
            if exc.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise PrefixError(f"the file system of {site.prefix} has no hard links; choose another prefix") from exc
            raise
    for directory, _, _ in os.walk(release):
        sync_directory(Path(directory))
    return release


def make_directories(release: Path, directory: Path) -> None:
    """Make ``directory`` below the release, with mode 0755 whatever the umask is."""
    if directory.is_dir():
        return
    if directory != release:
        make_directories(release, directory.parent)
    directory.mkdir()
    directory.chmod(0o755)


def collect_garbage(site: Site) -> None:
    """Remove blobs that no release links to, and directories of the store that are left empty.

    Whatever else lies in the store stays: `installer status` names it.
    """
    if not site.store.is_dir():
        return
    for directory in _plain_directories(site.store):
        for blob in list(directory.iterdir()):
            status = blob.lstat()
            if is_blob_name(blob.name) and stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                blob.unlink()
        _remove_if_empty(directory)
    _remove_if_empty(site.store)
    _remove_if_empty(site.store.parent)


def is_blob_name(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", name) is not None


def _plain_directories(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir() and not path.is_symlink()]


def _remove_if_empty(directory: Path) -> None:
    if not os.listdir(directory):
        directory.rmdir()
