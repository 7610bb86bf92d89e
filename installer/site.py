"""A site: the directory that releases are installed into, its lock, its pointers and its receipts.

The layout is in docs/architecture.md. A kill at any instant does no harm, for two reasons: a release counts as
installed only if it has its receipt.json, which is written last, and `current` changes by one rename.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from installer.errors import BusyError, InstallerError, NoReleaseError, PrefixError, StorageFullError

RECEIPT = "receipt.json"
OURS = {"store", "releases", "state", "trust", "current", "previous", "service", ".incoming"}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk, a quota or a file size limit answers


@dataclass(frozen=True)
class Receipt:
    """What was installed and checked. A release is complete if it has this file."""

    name: str
    version: str
    model: str
    metadata_version: int
    contents_sha256: str  # see installer.targets.contents_digest
    expires: str
    files: int
    size_bytes: int
    python: str
    self_test: str  # "passed" or "not recorded in this release"
    installed_at: str  # UTC, ISO 8601
    format: int = 1
    manifest_sha256: str = ""  # empty: installed by a version that wrote no manifest
    interpreter: str = ""  # the host's Python that runs the release


@dataclass(frozen=True)
class Site:
    """Paths of a site, and operations that are one rename each. Creating the object touches nothing."""

    prefix: Path

    @property
    def store(self) -> Path:
        return self.prefix / "store" / "sha256"

    @property
    def incoming(self) -> Path:
        """The quarantine: blobs of an archive that is not completely verified yet."""
        return self.prefix / ".incoming"

    @property
    def trust(self) -> Path:
        return self.prefix / "state" / "trust"

    @property
    def trust_copy(self) -> Path:
        """The same outside `state/`, where the appliance's user cannot write."""
        return self.prefix / "trust"

    @property
    def state(self) -> Path:
        return self.prefix / "state"

    def release(self, version: str) -> Path:
        return self.prefix / "releases" / version

    def unfinished(self, version: str) -> Path:
        """Where a release is assembled; `put_in_place` gives it its name when it is complete."""
        return self.prefix / "releases" / f".{version}.new"

    def pointed(self, link: str) -> str | None:
        """Version that `current` or `previous` names, if that release is complete."""
        try:
            version = Path(os.readlink(self.prefix / link)).name
        except FileNotFoundError:
            return None
        return version if self.receipt(version) is not None else None

    def receipt(self, version: str) -> Receipt | None:
        """The release's receipt; None if the release is absent or incomplete. A damaged receipt counts as none."""
        try:
            return Receipt(**json.loads((self.release(version) / RECEIPT).read_bytes()))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def installed(self) -> list[Receipt]:
        """Receipts of all complete releases, by version."""
        releases = self.prefix / "releases"
        names = sorted(name for name in os.listdir(releases) if name[0] != ".") if releases.is_dir() else []
        return [receipt for name in names if (receipt := self.receipt(name)) is not None]

    def point(self, link: str, version: str) -> None:
        """Make `current` or `previous` name this release, by one atomic rename."""
        fresh = self.prefix / f".{link}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("releases", version))
        fresh.replace(self.prefix / link)
        sync_directory(self.prefix)

    def switch(self, version: str) -> None:
        """Make `version` current and remember the previous one. After a kill in between, `current` is the old one."""
        before = self.pointed("current")
        if before is not None and before != version:
            self.point("previous", before)
        self.point("current", version)

    def roll_back(self, to: str | None = None) -> tuple[str | None, str]:
        """Make the previous release current, or the installed one of this version.

        Returns:
            (version that was current, version that is current now).
        Raises:
            NoReleaseError: that release is not installed, or is the current one.
        """
        now = self.pointed("current")
        version = to or self.pointed("previous")
        if version is None or version == now:
            raise NoReleaseError("there is no other release to go back to; `installer status` shows what is installed")
        if version not in [receipt.version for receipt in self.installed()]:
            raise NoReleaseError(f"release {version} is not installed; `installer status` shows what is")
        self.point("current", version)  # the rollback is done; the rest only remembers the way back
        if now is not None:
            self.point("previous", now)
        return now, version

    def accept_metadata(self, files: Mapping[str, bytes]) -> None:
        """Remember the accepted metadata, twice; each file by one rename, roots first and the timestamp last."""
        order = ("root_history/", "targets.json", "snapshot.json", "timestamp.json")
        rank = {name: next(i for i, start in enumerate(order) if name.startswith(start)) for name in files}
        self.state.mkdir(mode=0o700, exist_ok=True)
        for directory in (self.trust_copy, self.trust):
            for name in sorted(files, key=lambda n: (rank[n], n)):
                path = directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_durably(path, files[name])

    def write_receipt(self, receipt: Receipt) -> None:
        text = json.dumps(asdict(receipt), indent=2) + "\n"
        path = self.unfinished(receipt.version) / RECEIPT
        write_durably(path, text.encode())
        path.chmod(0o444)

    def put_in_place(self, version: str) -> None:
        """Give a complete release its name. A damaged release of that name is moved aside first and removed last."""
        release, aside = self.release(version), self.prefix / "releases" / f".{version}.old"
        if os.path.lexists(release):
            release.rename(aside)
        self.unfinished(version).rename(release)
        sync_directory(release.parent)
        remove_tree(aside)

    def remove_unfinished(self) -> None:
        """Remove what killed or refused installations left beside the releases."""
        releases = self.prefix / "releases"
        for name in os.listdir(releases) if releases.is_dir() else []:
            if name.startswith("."):
                remove_tree(releases / name)


@contextmanager
def open_site(prefix: Path) -> Iterator[Site]:
    """The site at `prefix`, locked. It is created if it does not exist, and removed again if the block raises and the
    site is empty.

    Raises:
        PrefixError: it is not a directory of ours, or cannot be written.
        BusyError: another installer holds it.
    """
    prefix = Path(os.path.abspath(prefix))
    made: list[Path] = []
    try:
        try:
            for directory in (*reversed(prefix.parents), prefix):
                if not directory.exists():
                    directory.mkdir()
                    made.append(directory)
            entries = set(os.listdir(prefix))
            lock = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as exc:
            raise PrefixError(f"the prefix {prefix} cannot be used: {exc.strerror}") from exc
        try:
            if not os.access(prefix, os.W_OK | os.X_OK, effective_ids=True):
                raise PrefixError(f"the prefix {prefix} is not writable by this user")
            if entries and not entries & OURS:
                raise PrefixError(f"{prefix} is neither empty nor a site; give a directory of its own")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise BusyError(f"another installer is working on {prefix}") from exc
            yield Site(prefix)
        finally:
            os.close(lock)
    except (InstallerError, OSError) as exc:
        with contextlib.suppress(OSError):  # not empty: another installer's, or a site that existed before
            for directory in reversed(made):
                directory.rmdir()
        if isinstance(exc, OSError):
            raise _storage_error(exc) from exc
        raise


def _storage_error(exc: OSError) -> InstallerError:
    if exc.errno in FULL:
        return StorageFullError("the disk is full (or a quota or file size limit was met); nothing was changed")
    return InstallerError(f"cannot write {exc.filename}: {exc.strerror}")


def write_durably(path: Path, data: bytes) -> None:
    """Replace the contents of `path`. The data is on disk before it gets the name."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and links in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(directory: Path) -> None:
    """Remove a directory of ours, if it exists, or a link that somebody put in its place."""
    if directory.is_symlink():
        directory.unlink()
    elif directory.is_dir():
        shutil.rmtree(directory)
