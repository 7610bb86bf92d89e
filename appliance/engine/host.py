"""What this machine gives the engine: cores and memory."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


def physical_cores(cpus: Path = _CPUS, cgroup: Path = _CGROUP) -> int:
    """Cores this process may use, hyper-threads counted once, not more than the control group's quota."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = _read(cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list")
        cores.add(siblings if siblings is not None else str(cpu))
    quota, _, period = (_read(cgroup / "cpu.max") or "max 1").partition(" ")
    allowed = len(cores) if quota == "max" else math.ceil(int(quota) / int(period))
    return max(1, min(len(cores), allowed))


def available_memory_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int:
    """Memory that can still be taken: the machine's, or the control group's where that is less."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = _read(cgroup / "memory.max"), _read(cgroup / "memory.current")
    if limit is not None and used is not None and limit != "max":
        available = min(available, max(0, int(limit) - int(used)))
    return available


def _read(path: Path) -> str | None:
    """The text of a kernel file; None where this kernel has no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return None
