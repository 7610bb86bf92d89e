"""What this host has that a release needs: memory, processor, GPU, and kernel features for the silence.

Everything is read from /proc and /sys, or asked of the kernel without changing anything. What cannot be read is None.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LANDLOCK_CREATE_RULESET = 444  # the same number on every architecture
_LANDLOCK_VERSION = 1  # the flag that asks for the ABI
_PR_GET_SECCOMP = 21
_UNLIMITED_BYTES = 1 << 62  # control groups of version 1 write a number above this for "unlimited"
# Instruction sets by their names in /proc/cpuinfo, the fastest first; appliance/kernels/path_*.cc decides by the same.
_PATHS = (
    ("amx", {"avx512f", "avx512bw", "avx512_vnni", "amx_tile", "amx_bf16"}),
    ("avx512bf16", {"avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"}),
    ("avx512vnni", {"avx512f", "avx512bw", "avx512_vnni"}),
    ("avxvnni", {"avx2", "fma", "avx_vnni"}),
    ("avx2", {"avx2", "fma"}),
)
PORTABLE = "portable"


@dataclass(frozen=True)
class HostFacts:
    """What was found."""

    memory_bytes: int | None
    limit_bytes: int | None  # the tightest control group; None: no limit
    path: str  # the products that the CPU operators will use
    gpu_driver: str | None  # version of NVIDIA's driver
    has_gpu: bool
    has_seccomp: bool
    landlock_abi: int  # 0: none
    has_user_namespaces: bool


def look_at_host(root: Path = Path("/")) -> HostFacts:
    """Look at the host. ``root``: where its /proc, /sys and /dev lie."""
    proc = root / "proc"
    return HostFacts(
        memory_bytes=_memory_bytes(_text(proc / "meminfo")),
        limit_bytes=min(_limits(proc, root / "sys/fs/cgroup"), default=None),
        path=_path(_text(proc / "cpuinfo")),
        gpu_driver=_driver(_text(proc / "driver/nvidia/version")),
        has_gpu=(root / "dev/nvidia0").exists(),
        has_seccomp=(proc / "sys/kernel/seccomp/actions_avail").exists() or _answers(_PR_GET_SECCOMP),
        landlock_abi=_landlock_abi(),
        has_user_namespaces=_has_user_namespaces(proc / "sys"),
    )


def file_system_type(path: Path, mountinfo: str | None = None) -> str | None:
    """Name of the file system that holds this existing path, such as "ext4"."""
    status = os.stat(path)
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    for line in (mountinfo or _text(Path("/proc/self/mountinfo"))).splitlines():
        mount, _, rest = line.partition(" - ")
        if len(mount.split()) > 2 and mount.split()[2] == device and rest:
            return rest.split()[0]
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _memory_bytes(meminfo: str) -> int | None:
    found = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """Memory limits of this process's control groups, from its own to the outermost."""
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, name = [*line.split(":", 2), "", ""][:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        top, file = (cgroups / "memory", "memory.limit_in_bytes") if controllers else (cgroups, "memory.max")
        group = top / name.strip("/")
        for directory in (group, *group.parents):
            limit = _text(directory / file).strip()
            if limit.isdigit() and int(limit) < _UNLIMITED_BYTES:
                yield int(limit)
            if directory == top:
                break


def _path(cpuinfo: str) -> str:
    found = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return next((name for name, needed in _PATHS if needed <= flags), PORTABLE)


def _driver(version: str) -> str | None:
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", version)
    return found[1] if found else None


def _answers(option: int) -> bool:
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, 0, 0, 0, 0) >= 0)


def _landlock_abi() -> int:
    call = ctypes.CDLL(None, use_errno=True).syscall
    found = call(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_LANDLOCK_VERSION))
    return max(0, int(found))


def _has_user_namespaces(settings: Path) -> bool:
    """Whether an ordinary user may make a user namespace, as far as the settings tell."""
    most = _text(settings / "user/max_user_namespaces").strip()
    is_open = _text(settings / "kernel/unprivileged_userns_clone").strip() != "0"
    return most.isdigit() and int(most) > 0 and is_open
