"""Who owns which file (`appliance.file_lock.own`), as the kernel lists it in /proc/PID/fdinfo."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def who_locks(files: Iterable[Path]) -> set[int]:
    """Ids of the processes that own one of these files. /proc/locks names no process for locks of this kind."""
    inodes = {path.stat().st_ino for path in files}
    return {int(process.name) for process in Path("/proc").glob("[0-9]*") if inodes & set(_locked_by(process))}


def _locked_by(process: Path) -> Iterator[int]:
    """Inodes of the files that a process owns; perhaps none if it ends meanwhile."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for info in (process / "fdinfo").iterdir():
            for line in info.read_text().splitlines():
                fields = line.split()  # lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:5120 0 EOF
                if fields[0] == "lock:" and fields[2] == "OFDLCK":  # POSIX locks are SQLite's
                    yield int(fields[6].split(":")[2])
