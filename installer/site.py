"""A site: the directory that releases are installed into, its lock, its pointers and its receipts.

The layout is in docs/architecture.md. A kill at any instant does no harm, for two reasons: a release counts as
installed only if it has its receipt.json, which is written last, and `current` changes by one rename.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from installer.durable import remove_tree, sync_directory, write_durably
from installer.errors import (
    BusyError,
    InstallerError,
    NoReleaseError,
    PrefixError,
    ReceiptError,
    StorageFullError,
)
from installer.formats.release import VERSION_PATTERN
from installer.prefix import PROBES, check_name, check_place, unusable
from installer.receipt import RECEIPT, Receipt, encode_receipt, load_receipt
from installer.unfollowed import prepared_below

LINKS = ("current", "previous")
OURS = {"store", "releases", "state", "trust", *LINKS, "service", ".incoming"}
PASSING = {".current.new", ".previous.new", ".state.removed", *PROBES}  # in the prefix for a moment, or after a kill
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk, a quota or a file size limit answers


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
        version = self.named(link)
        return version if version is not None and self.receipt(version) is not None else None

    def named(self, link: str) -> str | None:
        """Version that `current` or `previous` names, complete or not; None if it leads anywhere else."""
        try:
            goal = Path(os.readlink(self.prefix / link))
        except OSError:  # it does not exist, or is no link
            return None
        return goal.name if goal == Path("releases", goal.name) else None

    def receipt(self, version: str) -> Receipt | None:
        """The release's receipt; None if the release is absent or incomplete. An unusable receipt counts as none."""
        try:
            return load_receipt(self.release(version))
        except ReceiptError:
            return None

    def versions(self) -> list[str]:
        """Names of the directories that have a receipt, usable or not."""
        releases = self.prefix / "releases"
        names = sorted(os.listdir(releases)) if releases.is_dir() else []
        return [n for n in names if VERSION_PATTERN.fullmatch(n) and os.path.lexists(releases / n / RECEIPT)]

    def installed(self) -> list[Receipt]:
        """Receipts of all complete releases, by version."""
        return [receipt for name in self.versions() if (receipt := self.receipt(name)) is not None]

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
        """Remember the accepted metadata, twice; each file by one rename, roots first and the timestamp last.

        Both copies are prepared before the first file gets its name, so a full disk leaves what was accepted before.
        """
        order = ("root_history/", "targets.json", "snapshot.json", "timestamp.json")
        rank = {name: next(i for i, start in enumerate(order) if name.startswith(start)) for name in files}
        is_new = not self.state.is_dir()
        self.state.mkdir(mode=0o700, exist_ok=True)
        ordered = {name: files[name] for name in sorted(files, key=lambda n: (rank[n], n))}
        try:
            with contextlib.ExitStack() as stack:
                for put_in_place in [
                    stack.enter_context(prepared_below(top, {f"trust/{name}": ordered[name] for name in ordered}))
                    for top in (self.trust_copy.parent, self.trust.parent)  # which may be file systems of their own
                ]:
                    put_in_place()
        except OSError:
            if is_new:
                with contextlib.suppress(OSError):
                    self.state.rmdir()
            raise
        sync_directory(self.state)  # which may be a file system of its own
        sync_directory(self.prefix)

    def write_receipt(self, receipt: Receipt, release: Path | None = None) -> None:
        """Make a release complete: by default the one that is being assembled."""
        path = (release or self.unfinished(receipt.version)) / RECEIPT
        write_durably(path, encode_receipt(receipt))
        path.chmod(0o444)

    def put_in_place(self, version: str) -> None:
        """Give a complete release its name. A damaged release of that name is moved aside first and removed last."""
        release, aside = self.release(version), self.prefix / "releases" / f".{version}.old"
        if os.path.lexists(release):
            release.rename(aside)
        try:
            self.unfinished(version).rename(release)
        except OSError:
            if os.path.lexists(aside):
                aside.rename(release)
            raise
        sync_directory(release.parent)
        remove_tree(aside)

    def settle(self) -> None:
        """Finish what a killed command began: a complete release gets its name, everything unfinished is removed."""
        releases = self.prefix / "releases"
        names = sorted(os.listdir(releases)) if releases.is_dir() else []
        for name in names:  # killed in `put_in_place`, between its two renames
            version = name[1:].rpartition(".")[0]
            is_complete = name == f".{version}.new" and os.path.lexists(releases / name / RECEIPT)
            if is_complete and not os.path.lexists(self.release(version)):
                self.put_in_place(version)
        for name in names:
            if is_passing(name):
                remove_tree(releases / name)
        for name in PASSING:
            remove_tree(self.prefix / name)


def is_passing(name: str) -> bool:
    """Whether something of this name lies in `releases` only while a command works, or after it was killed."""
    return name.startswith(".") and name.endswith((".new", ".old", ".removed"))


@contextmanager
def open_site(prefix: Path, *, may_mend: bool = False) -> Iterator[Site]:
    """The site at `prefix`, locked. It is created if it does not exist, and removed again if the block raises and the
    site is empty.

    Args:
        may_mend: the caller gives the site to its rightful owners, so it may belong to others now.
    Raises:
        PrefixError: it is not a directory of ours, cannot be written, or others could exchange what is in it.
        BusyError: another installer holds it.
    """
    try:
        prefix = Path(os.path.abspath(prefix))
    except FileNotFoundError as exc:
        raise PrefixError("the present directory was removed: change to another one, or give a whole path") from exc
    check_name(prefix)
    made: list[Path] = []
    try:
        try:
            for directory in (*reversed(prefix.parents), prefix):
                if not directory.exists():
                    directory.mkdir()
                    made.append(directory)
            entries = set(os.listdir(prefix)) - {"lost+found"}
            lock = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as exc:
            raise unusable(prefix, exc) from exc
        try:
            check_place(prefix, entries, OURS | PASSING, may_mend=may_mend)
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


@contextmanager
def open_existing_site(prefix: Path, *, may_mend: bool = False) -> Iterator[Site]:
    """As `open_site`, but creates nothing. What a killed command left is finished first.

    Raises:
        NoReleaseError: nothing of a site lies there.
    """
    if not any(os.path.lexists(prefix / name) for name in (*OURS, *PASSING)):
        raise NoReleaseError(f"{prefix} is not a site")
    with open_site(prefix, may_mend=may_mend) as site:
        site.settle()
        yield site


def _storage_error(exc: OSError) -> InstallerError:
    if exc.errno in FULL:
        return StorageFullError("the disk is full (or a quota or file size limit was met); nothing was changed")
    if exc.errno in (errno.EMFILE, errno.ENFILE):
        return InstallerError("too few files may be open at once: raise the limit (ulimit -n), then run this again")
    where = "the site" if exc.filename is None else exc.filename
    return InstallerError(f"cannot write {where}: {exc.strerror}; mend this, then run the command again")
