"""Who holds which lock, as the kernel lists it in /proc/locks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def who_locks(files: Iterable[Path]) -> set[int]:
    """Ids of the processes that hold one of these files by flock(2)."""
    inodes = {path.stat().st_ino for path in files}
    locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return {int(fields[4]) for fields in locks if fields[1] == "FLOCK" and int(fields[5].split(":")[2]) in inodes}
