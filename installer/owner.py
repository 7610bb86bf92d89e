"""Who owns what in a site. If root installs, the appliance runs as an unprivileged user. That user owns ``state/``; the
release belongs to root, and the user can read it but not write it.

    owner = find_owner(None, site.prefix)     # None unless root installs; then everything keeps its owner
    hand_over(site.prefix, owner)
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from installer.errors import OwnerError, ReachError

SERVICE_USER = "gpt-oss"
_NOBODY = 65534  # has the rights of a user that was just created
# What opening answers if the name is gone, or a link or a socket has taken it: a running appliance changes state/, too.
_EXCHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_ADMINISTRATORS_PATH = "/usr/sbin:/sbin:/usr/local/sbin"  # an ordinary PATH may lack these


@dataclass(frozen=True)
class Owner:
    """An unprivileged user."""

    name: str
    uid: int
    gid: int


def find_owner(user: str | None, prefix: Path) -> Owner | None:
    """The named user, else the owner of the site's ``state/``, else a system user, which is created if it is missing.

    Returns:
        None unless root asks.
    Raises:
        OwnerError: the user does not exist, is root, or cannot be created; or somebody other than root names one.
        ReachError: the user could not use the prefix or the interpreter.
    """
    if os.geteuid() != 0:
        if user is not None:
            raise OwnerError("only root can give a site to another user; leave --user out to install it as your own")
        return None
    state = prefix / "state"
    if user is not None:
        owner = _named(user)
    elif state.exists() and (uid := state.stat().st_uid) != 0:
        owner = _of_uid(uid)
    else:
        owner = _service_user(prefix)
    _check_reach(owner, prefix)
    return owner


def _service_user(prefix: Path) -> Owner:
    try:
        return _named(SERVICE_USER)
    except OwnerError:
        _check_reach(Owner(SERVICE_USER, _NOBODY, _NOBODY), prefix)  # before anything is changed on this host
        _make_user()
        return _named(SERVICE_USER)


def _check_reach(owner: Owner, prefix: Path) -> None:
    """Refuse a prefix or an interpreter that ``owner`` could not use, before anything is copied.

    Raises:
        ReachError: with the directory that is closed.
    """
    python = Path(os.path.realpath(sys.executable))
    for goal, remedy in (
        (python, "run the installer with a Python that everybody may execute, such as /usr/bin/python3"),
        (Path(os.path.realpath(os.__file__)), "run the installer with a Python that everybody may read"),
        (prefix.parent, "choose another prefix"),  # the prefix itself is opened by `hand_over`
    ):
        closed = _first_closed(owner, goal)
        if closed is not None:
            raise ReachError(f"the user {owner.name} cannot use {goal} because {closed} is closed to them: {remedy}")


def hand_over(prefix: Path, owner: Owner) -> None:
    """Give ``state/`` except ``state/trust`` to ``owner``; give that, the prefix, trust, store, releases and service to
    root, readable for all.

    The present owner of ``state/`` may change it at the same time. So this follows no link, and it neither gives away
    nor opens to others a file with a second name, because that may be another user's file.

    Raises:
        OwnerError: such a file lies in ``state/``, or directories are nested there more deeply than can be walked.
    """
    try:
        _hand_over(prefix, owner)
    except RecursionError as exc:
        raise OwnerError(
            f"{prefix}/state holds directories that are nested too deeply to be given to {owner.name}: remove them, "
            "then run `installer own`"
        ) from exc


def _hand_over(prefix: Path, owner: Owner) -> None:
    os.chown(prefix, 0, 0)
    prefix.chmod(stat.S_IMODE(prefix.stat().st_mode) & ~0o022 | 0o055)
    for name in ("releases", "store", "trust", "service", "state/trust"):
        for descriptor, status in _everything(prefix / name):
            os.fchown(descriptor, 0, 0)
            if not _has_second_name(status):  # blobs have two names, in store and release, and are readable already
                os.fchmod(descriptor, _readable(status.st_mode))
    state = prefix / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    for descriptor, status in _everything(state, leave_out="trust"):
        if _has_second_name(status):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            raise OwnerError(f"{path} has a second name elsewhere, so it may be another's file: remove it from state/")
        os.fchown(descriptor, owner.uid, owner.gid)
    state.chmod(0o700)


def _readable(mode: int) -> int:
    """The mode for a file of root's. No set-user-id: the user of ``state/`` may have put a program of theirs there."""
    passable = 0o011 if stat.S_ISDIR(mode) or mode & 0o100 else 0
    return mode & 0o755 | 0o044 | passable


def _has_second_name(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_nlink > 1


def _everything(top: Path, *, leave_out: str | None = None) -> Iterator[tuple[int, os.stat_result]]:
    """``top`` and the directories and files below it, each opened; nothing if ``top`` does not exist. It leaves out
    anything else, such as a link, which keeps its owner."""
    if not top.is_dir():
        return
    parent = os.open(top.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield from _opened(parent, top.name)
    finally:
        os.close(parent)
    try:
        within = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as exc:
        if exc.errno in _EXCHANGED:
            return
        raise
    try:
        for path, names, files, directory in os.fwalk(".", follow_symlinks=False, dir_fd=within):
            if leave_out in names and path == ".":
                names.remove(leave_out)
            for name in (*names, *files):
                yield from _opened(directory, name)
    finally:
        os.close(within)


def _opened(directory: int, name: str) -> Iterator[tuple[int, os.stat_result]]:
    try:
        if not _is_plain(os.stat(name, dir_fd=directory, follow_symlinks=False)):
            return
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError as exc:
        if exc.errno in _EXCHANGED:
            return
        raise
    try:
        status = os.fstat(descriptor)
        if _is_plain(status):  # somebody may have exchanged it since
            yield descriptor, status
    finally:
        os.close(descriptor)


def _is_plain(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)


def _named(user: str) -> Owner:
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        if not user.isdecimal():
            raise OwnerError(f"there is no user {user} on this host") from None
        return _of_uid(int(user))
    return _unprivileged(Owner(account.pw_name, account.pw_uid, account.pw_gid))


def _of_uid(uid: int) -> Owner:
    try:
        account = pwd.getpwuid(uid)
    except KeyError:  # as in containers
        return _unprivileged(Owner(str(uid), uid, uid))
    return _unprivileged(Owner(account.pw_name, uid, account.pw_gid))


def _unprivileged(owner: Owner) -> Owner:
    if owner.uid == 0 or owner.gid == 0:
        raise OwnerError(f"{owner.name} is root or of root's group; name a user without privileges")
    return owner


def _make_user() -> None:
    useradd = shutil.which("useradd") or shutil.which("useradd", path=_ADMINISTRATORS_PATH)
    if useradd is None:
        raise OwnerError(
            f"this host has no useradd to make the user {SERVICE_USER}: make one (with busybox: adduser -S -D -H "
            f"{SERVICE_USER}), then run this again with --user {SERVICE_USER}"
        )
    command = [useradd, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    done = subprocess.run(
        [*command, "--shell", "/usr/sbin/nologin", "--comment", "gpt-oss appliance", SERVICE_USER],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        raise OwnerError(
            f"the user {SERVICE_USER} could not be made ({done.stderr.strip() or done.returncode}): "
            "name another with --user"
        )


def _first_closed(owner: Owner, goal: Path) -> Path | None:
    """The outermost path on the way to ``goal``, or ``goal``, that ``owner`` cannot pass. A child asks as that user."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(owner.gid, owner.gid, owner.gid)
            os.setresuid(owner.uid, owner.uid, owner.uid)
            way = [path for path in (*reversed(goal.parents), goal) if not _may_pass(path)]
            os.write(write_end, os.fsencode(way[0]) if way else b"")
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        answer = stream.read()
    os.waitpid(pid, 0)
    return Path(os.fsdecode(answer)) if answer else None


def _may_pass(path: Path) -> bool:
    """Whether this user can pass. A path that does not exist yet counts: the installer will create it passable."""
    if not os.path.lexists(path):
        return True
    return os.access(path, os.X_OK if path.is_dir() else os.R_OK)
