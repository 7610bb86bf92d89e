"""Whether a prefix can hold a site, checked before anything is written: its name, who could exchange what is in it, the
kinds of its entries, and what its file system can do. Each refusal is one sentence that says what to do.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from installer.errors import PrefixError
from installer.host import file_system_type

_DIRECTORIES = ("store", "store/sha256", "releases", "state", "state/trust", "trust", "service", ".incoming")
_LINKS = ("current", "previous")
_PLAIN = "/._+@,=~-"  # beside letters and digits
# File systems of sticks, without hard links or without owners and modes; the last two are FAT and exFAT through FUSE.
_OF_STICKS = {"vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "fuse.fusefat", "fuse.exfat"}
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)
PROBES = (".probe.new", ".probe.old")  # files of one byte; a killed command may leave them
_KINDS = (
    (stat.S_ISLNK, "a link"), (stat.S_ISREG, "a file"), (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"), (stat.S_ISBLK, "a device"), (stat.S_ISCHR, "a device"),
)  # fmt: skip


def kind_of(status: os.stat_result) -> str:
    """What lies there, in words."""
    return next(words for is_kind, words in _KINDS if is_kind(status.st_mode))


def check_name(prefix: Path) -> None:
    """Refuse characters that separate, quote or expand something in units, addresses of databases and search paths.

    Raises:
        PrefixError: with the first of them.
    """
    for character in os.fspath(prefix):
        if not (character.isalnum() or character in _PLAIN):
            raise PrefixError(
                f"the prefix {prefix} has the character {character!a}, which services and databases of this host "
                f"may misread: choose a path of letters, digits and {' '.join(_PLAIN[1:])}"
            )


def unusable(prefix: Path, exc: OSError) -> PrefixError:
    """The refusal of a prefix that cannot be made or opened."""
    if exc.errno == errno.EROFS:
        return _read_only(prefix)
    if os.path.islink(prefix):
        return PrefixError(f"the prefix {prefix} is a link that leads nowhere: remove it, or choose another prefix")
    return PrefixError(f"the prefix {prefix} cannot be used ({exc.strerror}): choose another prefix")


def check_kind(path: Path) -> str | None:
    """Refuse a file system that cannot hold a site by its type alone; nothing is written.

    Returns:
        The type, such as "ext4"; None if it is unknown.
    Raises:
        PrefixError: it has no hard links, or no owners and modes.
    """
    kind = file_system_type(path)
    if kind in _OF_STICKS:
        raise PrefixError(
            f"{path} is on {kind}, which lacks hard links or the owners and modes of files: choose a prefix on a disk "
            "with ext4 or xfs"
        )
    return kind


def check_place(prefix: Path, entries: set[str], ours: set[str], *, may_mend: bool) -> None:
    """Refuse an existing directory that is not writable, is not ours, or that others could exchange.

    Args:
        entries: the names in it.
        ours: the names that a site has.
        may_mend: the caller makes root the owner.
    Raises:
        PrefixError: with what is wrong.
    """
    if os.statvfs(prefix).f_flag & os.ST_RDONLY:
        raise _read_only(prefix)
    if not os.access(prefix, os.W_OK | os.X_OK, effective_ids=True):
        raise PrefixError(f"the prefix {prefix} is not writable by this user")
    if entries and not entries & ours:
        raise PrefixError(f"{prefix} is neither empty nor a site; give a directory of its own")
    for path, kind in _wrong_kinds(prefix):
        raise PrefixError(
            f"{path} is {kind}, and nothing of a site may lie elsewhere: move it away (to have it on another disk, "
            "mount that disk there)"
        )
    check_kind(prefix)
    if not may_mend:
        _check_owners(Path(os.path.realpath(prefix)))


def check_file_system(prefix: Path) -> None:
    """Refuse a file system from which nothing may be run, that has no hard links, or that is not one file system.

    It writes a file of one byte and removes it.

    Raises:
        PrefixError: with what to do.
    """
    if os.statvfs(prefix).f_flag & os.ST_NOEXEC:
        raise PrefixError(
            f"nothing may be run from the file system of {prefix}, because it is mounted noexec: choose another "
            "prefix, or mount it without noexec"
        )
    probe = prefix / PROBES[0]
    try:
        probe.unlink(missing_ok=True)
        probe.write_bytes(b"1")
        for directory in (prefix, prefix / "store", prefix / "releases"):
            if directory.is_dir():
                _check_link(probe, directory / PROBES[1])
    finally:
        probe.unlink(missing_ok=True)


def _check_link(probe: Path, name: Path) -> None:
    try:
        name.unlink(missing_ok=True)
        os.link(probe, name)
    except OSError as exc:
        if exc.errno == errno.EXDEV:
            raise PrefixError(
                f"{name.parent} is mounted by itself: store and releases share their files, so mount one file system "
                "at the prefix instead"
            ) from exc
        if exc.errno in _NO_LINKS:
            raise PrefixError(f"the file system of {name.parent} has no hard links; choose another prefix") from exc
        raise
    name.unlink()


def _wrong_kinds(prefix: Path) -> Iterator[tuple[Path, str]]:
    for name in (*_DIRECTORIES, *_LINKS):
        path = prefix / name
        if os.path.lexists(path):
            status = path.lstat()
            if not (stat.S_ISLNK if name in _LINKS else stat.S_ISDIR)(status.st_mode):
                yield path, kind_of(status)


def _check_owners(prefix: Path) -> None:
    """Refuse a prefix in which, or instead of which, another user could put something."""
    status = prefix.stat()
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PrefixError(f"others may write {prefix}: run `chmod go-w,-t {prefix}`, or choose another prefix")
    trusted = {0, os.geteuid(), *_nobody_here()}
    if status.st_uid not in trusted:
        raise PrefixError(
            f"{prefix} belongs to {_user(status.st_uid)}, who could exchange what is installed: run `chown "
            f"{_user(os.geteuid())} {prefix}`, or choose another prefix"
        )
    for directory in prefix.parents:
        status = directory.stat()
        if status.st_uid not in trusted:
            raise PrefixError(
                f"{directory} belongs to {_user(status.st_uid)}, who could put another directory in the place of "
                f"{prefix}: choose a prefix below directories of root's or your own"
            )
        if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            raise PrefixError(
                f"everybody may write {directory} and put another directory in the place of {prefix}: run `chmod o-w "
                f"{directory}`, or choose another prefix"
            )


def _nobody_here(proc: Path = Path("/proc")) -> set[int]:
    """The uid that a user namespace shows for owners outside it, such as the host's root: nobody in it can be that."""
    try:
        overflow = int((proc / "sys/kernel/overflowuid").read_text())
        ranges = [line.split() for line in (proc / "self/uid_map").read_text().splitlines()]
    except (OSError, ValueError):
        return set()
    is_mapped = any(int(first) <= overflow < int(first) + int(count) for first, _, count in ranges)
    return set() if is_mapped else {overflow}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _read_only(prefix: Path) -> PrefixError:
    return PrefixError(
        f"the file system of {prefix} is mounted read-only: mount it for writing, or choose another prefix"
    )
