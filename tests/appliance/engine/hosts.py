"""A host as the kernel describes it in files: control groups of both versions, and memory, with any limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

UNLIMITED_V1 = 9223372036854771712


@dataclass
class Host:
    """Writes the files that cgroups.py and host.py read. Mount points lie below ``root``."""

    root: Path
    memberships: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)

    @property
    def proc(self) -> Path:
        """Its /proc/self, written from what was set so far."""
        path = self.root / "proc"
        path.mkdir(exist_ok=True)
        (path / "cgroup").write_text("".join(line + "\n" for line in self.memberships))
        (path / "mountinfo").write_text("".join(line + "\n" for line in self.mounts))
        return path

    def meminfo(self, available_bytes: int) -> Path:
        path = self.root / "meminfo"
        path.write_text(f"MemTotal: {available_bytes // 512} kB\nMemAvailable: {available_bytes // 1024} kB\nHuge: 0\n")
        return path

    def mount(self, controllers: str, group: str, *, seen_from: str = "/") -> Path:
        """Mount a hierarchy ("" is version 2) and put the process into ``group`` of it; the mount point.

        Args:
            seen_from: the group that is the root of the mount, as in a container.
        """
        point = self.root / ("unified" if not controllers else controllers.replace(",", "-"))
        kind = f"cgroup cgroup rw,{controllers}" if controllers else "cgroup2 cgroup2 rw,nsdelegate"
        escaped = str(point).replace(" ", "\\040")
        self.mounts.append(f"30 23 0:26 {seen_from} {escaped} rw,nosuid shared:9 - {kind}")
        self.memberships.append(f"{len(self.mounts)}:{controllers}:{group}" if controllers else f"0::{group}")
        point.mkdir()
        return point

    @staticmethod
    def write(group: Path, **files: str | int) -> None:
        """Write files of a control group; ``memory_max=1`` is memory.max."""
        group.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (group / name.replace("_", ".", 1)).write_text(f"{text}\n")
