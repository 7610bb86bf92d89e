"""The control groups of this process: every directory whose limits apply, of version 1 and version 2.

A limit of an ancestor binds its descendants, so the list includes all ancestors up to the root of the mount. A process
in a container cannot see the ancestors outside it; only ``hierarchical_memory_limit`` of version 1 shows their limits.

Source: cgroups(7), proc_pid_mountinfo(5), Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SELF = Path("/proc/self")


@dataclass(frozen=True)
class ControlGroup:
    """One control group; ``version`` says which files it has."""

    version: int
    path: Path

    def read(self, name: str) -> str | None:
        """The text of one of its files; None where the group has no such file.

        Raises:
            OSError: the file exists and cannot be read. A limit that cannot be read must not count as no limit.
        """
        try:
            return (self.path / name).read_text().strip()
        except FileNotFoundError:
            return None

    def number(self, name: str) -> int | None:
        """The whole number in one of its files; None if there is no such file, or it says "max"."""
        text = self.read(name)
        return None if text in (None, "max") else int(text or 0)

    def statistics(self, name: str) -> dict[str, int]:
        """A file of names and numbers, such as ``memory.stat``; empty where there is none."""
        lines = (line.split() for line in (self.read(name) or "").splitlines())
        return {fields[0]: int(fields[1]) for fields in lines if len(fields) == 2}


def control_groups(controller: str, proc: Path = SELF) -> list[ControlGroup]:
    """The groups of ``controller`` ("cpu", "memory") that bind this process, innermost first.

    Args:
        proc: the directory of the process in /proc.
    """
    try:
        memberships = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except FileNotFoundError:  # a kernel without control groups
        return []
    found = []
    for line in memberships:
        _hierarchy, controllers, group = line.split(":", 2)
        version = 1 if controllers else 2
        if version == 2 or controller in controllers.split(","):
            found += _visible(group, version, list(_mount_points(mounts, version, controller)))
    return found


def _mount_points(mounts: list[str], version: int, controller: str) -> Iterator[tuple[str, Path]]:
    """The mounts of the hierarchy: (the group that is the root of the mount, the mount point)."""
    for line in mounts:
        mount, _, kind = line.partition(" - ")
        fields, (fstype, _source, options) = mount.split(), kind.split(" ", 2)
        if (version == 2 and fstype == "cgroup2") or (
            version == 1 and fstype == "cgroup" and controller in options.split(",")
        ):
            yield _unescaped(fields[3]), Path(_unescaped(fields[4]))


def _visible(group: str, version: int, mounts: list[tuple[str, Path]]) -> list[ControlGroup]:
    """``group`` and its ancestors, as directories of the mount that shows most of them."""
    if not mounts:
        return []
    inside = PurePosixPath(group)
    # A group that is not below the mount's root belongs to another namespace: only the mount's own groups can be seen.
    holding = [mount for mount in mounts if inside.is_relative_to(mount[0]) and ".." not in inside.parts]
    root, point = min(holding, key=lambda mount: len(PurePosixPath(mount[0]).parts)) if holding else mounts[0]
    relative = inside.relative_to(root) if holding else PurePosixPath()
    directories = [point / relative, *(point / parent for parent in relative.parents)]
    return [ControlGroup(version, path) for path in dict.fromkeys(directories) if path.is_dir()]


def _unescaped(field: str) -> str:
    """A path of mountinfo, where white space and backslashes are written as octal numbers."""
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, char)
    return field
