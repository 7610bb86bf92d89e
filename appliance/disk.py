"""How full the disk of the record is, and a reserve on it that lets the record say why answers have stopped.

The reserve is a file of allocated, unused bytes. When the disk is full, these bytes are freed. The events that say so
and the sign-ins of administrators then have room. Prompts would fill this room, so every process that looks at the
reserve refuses them while it is empty. When there is space again, the reserve is filled again.

This covers space, inodes, quotas and disks that became read-only. It does not cover a disk that loses confirmed data.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["ok", "warning", "alarm", "full"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "alarm", "full")

WARNING_SHARE, ALARM_SHARE = 0.75, 0.90
_LEAST_FREE_BYTES, _LEAST_FREE_SHARE = 32 << 20, 1 / 50  # the smaller one counts: below it the disk is full
_LEAST_FREE_INODES = 16
_RESERVE_BYTES, _RESERVE_SHARE = 64 << 20, 1 / 32  # the smaller one counts
_PROBE_BYTES, _PROBE_SHARE = 1 << 20, 1 / 100
_RESERVE, _PROBE = "reserve", "probe"


@dataclass(frozen=True)
class DiskUse:
    """The use of one file system, with the space that an ordinary user may take."""

    total_bytes: int
    free_bytes: int
    inodes: int  # 0: the file system has no fixed number
    free_inodes: int
    read_only: bool = False

    @property
    def share(self) -> float:
        """The used share of the bytes or of the inodes, whichever is scarcer."""
        bytes_used = 1 - self.free_bytes / self.total_bytes if self.total_bytes else 1.0
        return max(bytes_used, 1 - self.free_inodes / self.inodes if self.inodes else 0.0)

    @property
    def level(self) -> Level:
        least = min(_LEAST_FREE_BYTES, int(self.total_bytes * _LEAST_FREE_SHARE))
        if self.read_only or self.free_bytes < least or (self.inodes and self.free_inodes < _LEAST_FREE_INODES):
            return "full"
        if self.share >= ALARM_SHARE:
            return "alarm"
        return "warning" if self.share >= WARNING_SHARE else "ok"

    def words(self) -> str:
        """A sentence for people: how much is used, and of what."""
        if self.read_only:
            return "the disk is read-only"
        what = "space" if self.share <= 1 - self.free_bytes / max(1, self.total_bytes) else "files (inodes)"
        return f"{self.share:.0%} of the disk is used ({what}), {self.free_bytes / 2**30:.1f} GiB are free"


def measure(directory: Path) -> DiskUse:
    """The use of the file system of a directory.

    Raises:
        OSError: the kernel cannot tell.
    """
    found = os.statvfs(directory)
    used = found.f_blocks - found.f_bfree
    return DiskUse(
        total_bytes=(used + found.f_bavail) * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
        inodes=found.f_files,
        free_inodes=found.f_favail,
        read_only=bool(found.f_flag & os.ST_RDONLY),
    )


def measured(*directories: Path) -> DiskUse:
    """The use of the fullest of the disks that hold these directories.

    Raises:
        OSError: the kernel cannot tell for one of them.
    """
    return max((measure(directory) for directory in directories), key=lambda use: (LEVELS.index(use.level), use.share))


def refusal(record_dir: Path) -> str | None:
    """Why only what an administrator needs may be recorded, as a sentence for people; None if everything may.

    It costs two system calls, which every prompt can afford.
    """
    try:
        use = measure(record_dir)
        if use.read_only:
            return "The disk of the appliance can only be read, so nothing can be recorded and nothing is answered."
        if use.level == "full" or (record_dir / _RESERVE).stat().st_size == 0:
            return "The disk of the appliance is full, so nothing can be recorded and nothing is answered."
    except FileNotFoundError:  # no recorder has made the reserve yet
        return None
    except OSError:
        return "The disk of the appliance fails, so nothing can be recorded and nothing is answered."
    return None


class Reserve:
    """The reserve of one record. The recorder fills it; a process that must record the end of an answer may free it."""

    def __init__(self, record_dir: Path) -> None:
        self._directory = record_dir
        self._path = record_dir / _RESERVE

    @property
    def is_held(self) -> bool:
        with suppress(OSError):
            return self._path.stat().st_size > 0
        return False

    def give_back(self) -> bool:
        """Empty the reserve, which also tells every process to refuse prompts; return whether that made room.

        The file stays, because a new file might get no inode.
        """
        made_room = self.is_held
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        except OSError:  # the disk is read-only, which `refusal` notices by itself
            return False
        return made_room

    def fill(self) -> bool:
        """Fill the reserve if the disk does not become full by that; return whether it is filled now."""
        if self.is_held:
            return True
        use = measure(self._directory)
        size = min(_RESERVE_BYTES, int(use.total_bytes * _RESERVE_SHARE))
        after = DiskUse(use.total_bytes, use.free_bytes - 2 * size, use.inodes, use.free_inodes, use.read_only)
        if after.level == "full" or why_unwritable(self._directory) is not None:
            return False
        unfinished = self._path.with_name(f"{_RESERVE}.partial")
        try:
            _allocate(unfinished, size)
            os.replace(unfinished, self._path)
        except OSError:
            with suppress(OSError):
                unfinished.unlink()
            return False
        return True


def why_unwritable(directory: Path) -> str | None:
    """Why the kernel refuses to allocate, write and flush some bytes there; None if it does not refuse.

    This detects quotas, which `measure` does not see.
    """
    path = directory / _PROBE
    try:
        _allocate(path, min(_PROBE_BYTES, int(measure(directory).total_bytes * _PROBE_SHARE)))
    except OSError as exc:
        return exc.strerror or str(exc)
    finally:
        with suppress(OSError):
            path.unlink()
    return None


def _allocate(path: Path, size_bytes: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, max(1, size_bytes))
        if os.write(descriptor, b"reserve") == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
