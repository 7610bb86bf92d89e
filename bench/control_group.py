"""A control group for memory: its limit, and what the programs in it held and read again from the disk.

Both versions of control groups are understood. The group must be one that this process may make, as root can.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.1


@dataclass(frozen=True)
class _Version:
    """Where a version of control groups has its files."""

    root: Path
    limit: str
    peak: str
    own: tuple[str, str]  # in memory.stat: anonymous memory, and memory that is shared and no file's


_VERSIONS = (
    _Version(
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.max_usage_in_bytes",
        ("total_rss", "total_shmem"),
    ),
    _Version(Path("/sys/fs/cgroup"), "memory.max", "memory.peak", ("anon", "shmem")),
)


@dataclass
class Held:
    """What a block held, in bytes; set when it ends.

    Attributes:
        peak_bytes: with pages of files, which fill whatever the limit leaves.
        own_bytes: memory that is not a file's: what cannot be dropped.
        faults: pages of mapped files that had to be read from the disk.
        read_bytes: everything that was read from the disk.
    """

    peak_bytes: int = 0
    own_bytes: int = 0
    faults: int = 0
    read_bytes: int = 0


@contextlib.contextmanager
def limited(limit_bytes: int, name: str) -> Iterator[Held]:
    """Put this process and the programs that it starts into a group with this limit.

    Raises:
        RuntimeError: this process may not make a group.
    """
    version, group = _new_group(name)
    held = Held()
    (group / version.limit).write_text(str(limit_bytes))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(group / "memory.stat", version.own, held, stop))
    watcher.start()
    before = _read_bytes(), _faults(group)
    try:
        yield held
    finally:
        stop.set()
        watcher.join()
        held.read_bytes, held.faults = _read_bytes() - before[0], _faults(group) - before[1]
        with contextlib.suppress(OSError):  # Linux before 5.19 has no memory.peak
            held.peak_bytes = int((group / version.peak).read_text())
        (version.root / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def _new_group(name: str) -> tuple[_Version, Path]:
    for version in _VERSIONS:
        group = version.root / f"bench-{os.getpid()}-{name}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / version.limit).exists():
                return version, group
            group.rmdir()
    raise RuntimeError("no control group for memory can be made here: run it as root, where groups can be written")


def _watch(stat: Path, own: tuple[str, str], held: Held, stop: threading.Event) -> None:
    while not stop.wait(_POLL_S):
        held.own_bytes = max(held.own_bytes, sum(_number(stat, name) for name in own))


def _faults(group: Path) -> int:
    return max(_number(group / "memory.stat", name) for name in ("total_pgmajfault", "pgmajfault"))


def _number(stat: Path, name: str) -> int:
    lines = (line.split() for line in stat.read_text().splitlines())
    return next((int(value) for key, value in lines if key == name), 0)


def _read_bytes() -> int:
    """Bytes that this process, and programs that it has waited for, read from disks (proc(5), io)."""
    return _number(Path("/proc/self/io"), "read_bytes:")
