"""Cores and memory as the kernel tells them, from copies of its files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.engine.host import available_memory_bytes, physical_cores


def make_cpus(root: Path, siblings: dict[int, str]) -> Path:
    for cpu, text in siblings.items():
        (root / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (root / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("allowed", "quota", "cores"),
    [
        ({0, 1, 2, 3}, None, 2),
        ({0, 2}, None, 1),
        ({0, 1}, None, 2),
        ({0, 1, 2, 3}, "max 100000", 2),
        ({0, 1, 2, 3}, "100000 100000", 1),
        ({0, 1, 2, 3}, "150000 100000", 2),
        ({0, 1, 2, 3}, "10000 100000", 1),
    ],
)
def test_counts_allowed_cores_once_within_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: set[int], quota: str | None, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: allowed)
    cpus = make_cpus(tmp_path / "cpu", {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert physical_cores(cpus, tmp_path) == cores


def test_without_topology_every_allowed_cpu_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {4, 7, 9})
    assert physical_cores(tmp_path, tmp_path) == 3


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [(None, None, 4096), ("max", "1000", 4096), ("3000", "1000", 2000), ("3000", "5000", 0), ("999999", "0", 4096)],
)
def test_memory_is_the_less_of_machine_and_control_group(
    tmp_path: Path, limit: str | None, used: str | None, free: int
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:        16 kB\nMemAvailable:           4 kB\nHugePages_Total:       0\n")
    for name, text in (("memory.max", limit), ("memory.current", used)):
        if text is not None:
            (tmp_path / name).write_text(text + "\n")
    assert available_memory_bytes(meminfo, tmp_path) == free


def test_this_machine_has_cores_and_memory() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)
    assert available_memory_bytes() > 1 << 20
