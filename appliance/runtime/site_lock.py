"""One supervisor for each site: the locks that it holds, and whether another process holds them.

`installer/formats/serving.py` says what the file holds: the installer asks, too, before it removes what is served.
"""

from __future__ import annotations

import fcntl
import os

from appliance.config import Config
from appliance.errors import ApplianceError
from appliance.file_lock import lock_within, own
from installer.formats import serving


class SiteLockError(ApplianceError):
    """The site is served already, or cannot be locked."""


def lock_site(config: Config) -> tuple[int, int]:
    """Lock the site: a file, which shows others that the site is served, and the directory, which nobody can remove.

    The descriptors hold the locks as long as they are open.

    Raises:
        SiteLockError: the site is served already, or the file is a link.
    """
    path = config.state_dir / serving.LOCK
    try:  # root makes the file for a user who may have put a link in its place
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise SiteLockError(f"{path}: cannot be used: {exc.strerror}; remove it if it is a link") from exc
    if os.fstat(lock).st_nlink != 1:
        raise SiteLockError(f"{path}: cannot be used: it has a second name, and may be another's file; remove it")
    if os.geteuid() == 0:
        owner = config.state_dir.stat()
        os.fchown(lock, owner.st_uid, owner.st_gid)
    directory = os.open(config.state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if not (lock_within(directory, fcntl.LOCK_EX, 0.0) and own(lock)):
        raise SiteLockError(f"{config.home} is already being served by another process")
    _write_release(lock, config)
    return directory, lock


def is_served(config: Config) -> bool:
    """Whether a supervisor serves the site now."""
    return serving.is_served(config.state_dir)


def _write_release(lock: int, config: Config) -> None:
    """Name the release that is served, so that the installer does not remove it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, os.fsencode(config.release_dir.name) + b"\n", 0)
