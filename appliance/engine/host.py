"""What this machine offers the engine: cores, memory and an accelerator, within the limits set for this process."""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from appliance.cgroups import SELF, ControlGroup, control_groups
from appliance.cpus import paid_for

CUDA_DEVICE = Path("/dev/nvidia0")
_CPUS = Path("/sys/devices/system/cpu")
_MEMINFO = Path("/proc/meminfo")
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
_NEVER_OVERCOMMIT = "2"
_NORESERVE = 0x4000  # MAP_NORESERVE of Linux, which `mmap` names since Python 3.13
# Version 1 has no word for "unlimited": it writes the largest multiple of a page that fits, 9223372036854771712.
_UNLIMITED_BYTES = 1 << 62


def wants_cuda(accelerator: str, graphs: Collection[str]) -> bool:
    """Whether the engine runs on CUDA.

    It does if that is configured. With "auto" it does if the release has a CUDA graph, and either a GPU is there or the
    release has no CPU graph.
    """
    if accelerator == "auto":
        return "cuda" in graphs and (CUDA_DEVICE.exists() or "cpu" not in graphs)
    return accelerator == "cuda"


def physical_cores(cpus: Path = _CPUS, proc: Path = SELF) -> int:
    """The cores that this process may use, hyper-threads counted once, within the quotas of its control groups.

    The affinity contains what cpuset and taskset allow. A quota of one and a half cores counts as one: the threads of
    an operator wait for each other, so a thread that the kernel stops for the rest of a period stops all of them.
    """
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = _read(cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list")
        cores.add(siblings if siblings is not None else str(cpu))
    return paid_for(len(cores), proc)


def new_pages(size_bytes: int) -> mmap.mmap:
    """Zeros that take memory page by page when they are written, and may be more than there is memory.

    The kernel counts them as shared memory (RssShmem). Huge pages would take 2 MiB for the first token of each head in
    a KV cache, which is 3 GB for four short conversations of the 20b model.

    Raises:
        OSError: the kernel has no such addresses left.
    """
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _NORESERVE)
    with suppress(OSError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return pages


def can_overcommit(overcommit: Path = _OVERCOMMIT) -> bool:
    """Whether `new_pages` may be more than there is memory, and memory that they took can be given back."""
    if _read(overcommit) == _NEVER_OVERCOMMIT:
        return False  # the kernel counts addresses as memory
    with new_pages(mmap.PAGESIZE) as pages:
        pages[0] = 1
        try:
            pages.madvise(mmap.MADV_REMOVE)
        except OSError:
            return False
        return pages[0] == 0


def available_memory_bytes(meminfo: Path = _MEMINFO, proc: Path = SELF) -> int:
    """Memory that can still be taken: what the machine has, or what the tightest control group leaves if that is less.

    Files in the page cache count as free, because the kernel drops them. The pages of mapped weights therefore count as
    free, too; a caller that plans with this number subtracts the weights.
    """
    available = _machine_bytes(meminfo)
    for group in control_groups("memory", proc):
        available = min([available, *_left_bytes(group)])
    return max(0, available)


def _machine_bytes(meminfo: Path) -> int:
    """Available memory. On kernels without MemAvailable: free memory and files in the page cache."""
    lines = (line.split() for line in meminfo.read_text().splitlines())
    kib = {fields[0].rstrip(":"): int(fields[1]) for fields in lines if len(fields) > 1}
    without = kib.get("MemFree", 0) + kib.get("Active(file)", 0) + kib.get("Inactive(file)", 0)
    return kib.get("MemAvailable", without) * 1024


def _left_bytes(group: ControlGroup) -> list[int]:
    """What each limit of the group leaves. Pages of files that the kernel can drop do not count as used."""
    statistics = group.statistics("memory.stat")
    if group.version == 2:  # above memory.high the kernel slows the group down
        limits = [group.number("memory.max"), group.number("memory.high")]
        used, prefix = group.number("memory.current"), ""
    else:
        limits = [group.number("memory.limit_in_bytes"), statistics.get("hierarchical_memory_limit")]
        used, prefix = group.number("memory.usage_in_bytes"), "total_"
    if used is None:
        return []
    dropped = sum(statistics.get(f"{prefix}{kind}", 0) for kind in ("active_file", "inactive_file"))
    return [limit - max(0, used - dropped) for limit in limits if limit is not None and limit < _UNLIMITED_BYTES]


def _read(path: Path) -> str | None:
    """The text of a kernel file; None where this kernel has no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def resident_bytes() -> int | None:
    """The memory that this process holds, mapped weights included; None where the kernel does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
