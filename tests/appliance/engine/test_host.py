"""Cores and memory as the kernel reports them, from copies of its files."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from appliance.cgroups import control_groups
from appliance.cpus import logical_cpus
from appliance.engine.host import available_memory_bytes, can_overcommit, new_pages, physical_cores
from tests.appliance.engine.hosts import UNLIMITED_V1, Host

GIB = 1 << 30


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def make_cpus(root: Path, siblings: dict[int, str]) -> Path:
    for cpu, text in siblings.items():
        (root / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (root / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(text + "\n")
    return root


QUOTAS = [  # CPUs allowed, quota and period of cpu.max, cores; hyper-threads are 0 and 2, 1 and 3
    ({0, 1, 2, 3}, None, 2),
    ({0, 2}, None, 1),
    ({0, 1}, None, 2),
    ({0, 1, 2, 3}, (-1, 100_000), 2),
    ({0, 1, 2, 3}, (100_000, 100_000), 1),
    ({0, 1, 2, 3}, (50_000, 100_000), 1),
    ({0, 1, 2, 3}, (150_000, 100_000), 1),  # a second thread would be stopped half of the time, and the first with it
    ({0, 1, 2, 3}, (199_000, 100_000), 1),
    ({0, 1, 2, 3}, (200_000, 100_000), 2),
    ({0, 1, 2, 3}, (400_000, 100_000), 2),
    ({0, 1, 2, 3}, (10_000, 100_000), 1),
    ({0, 1, 2, 3}, (20_000, 10_000), 2),
]


@pytest.mark.parametrize(("allowed", "quota", "cores"), QUOTAS)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("at", ["/", "/a", "/a/b"])
def test_threads_never_exceed_the_quota_of_any_group_above(
    host: Host, monkeypatch: pytest.MonkeyPatch, allowed: set[int], quota: tuple[int, int] | None, cores: int,
    version: int, at: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: allowed)
    cpus = make_cpus(host.root / "cpus", {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    point = host.mount("cpu,cpuacct" if version == 1 else "", "/a/b")
    for group in (point, point / "a", point / "a" / "b"):
        limit, period = quota if quota and group == point / at.strip("/") else (-1, 100_000)
        if version == 1:
            host.write(group, cpu_cfs_quota_us=limit, cpu_cfs_period_us=period)
        else:
            host.write(group, cpu_max=f"{'max' if limit < 0 else limit} {period}")
    assert physical_cores(cpus, host.proc) == cores
    paid = len(allowed) if quota is None or quota[0] < 0 else max(1, quota[0] // quota[1])
    assert logical_cpus(host.proc) == min(len(allowed), paid)


def test_the_tightest_of_several_quotas_counts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    point = host.mount("", "/slice/service")
    host.write(point / "slice", cpu_max="300000 100000")
    host.write(point / "slice" / "service", cpu_max="700000 100000")
    assert physical_cores(host.root / "absent", host.proc) == 3


def test_without_topology_every_allowed_cpu_counts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {4, 7, 9})
    assert physical_cores(host.root, host.proc) == 3


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [(None, None, 4 * GIB), ("max", GIB, 4 * GIB), (3 * GIB, GIB, 2 * GIB), (3 * GIB, 5 * GIB, 0),
     (99 * GIB, 0, 4 * GIB)],
)  # fmt: skip
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("at", ["/", "/a", "/a/b"])
def test_memory_is_the_least_that_the_machine_or_any_group_above_leaves(
    host: Host, limit: int | str | None, used: int | None, free: int, version: int, at: str
) -> None:
    point = host.mount("memory" if version == 1 else "", "/a/b")
    (point / "a" / "b").mkdir(parents=True)
    if limit is not None and version == 2:
        host.write(point / at.strip("/"), memory_max=limit, memory_current=used or 0)
    elif limit is not None:
        bound = UNLIMITED_V1 if limit == "max" else limit
        host.write(point / at.strip("/"), memory_limit_in_bytes=bound, memory_usage_in_bytes=used or 0)
    assert available_memory_bytes(host.meminfo(4 * GIB), host.proc) == free


@pytest.mark.parametrize("version", [1, 2])
def test_files_in_the_page_cache_are_not_used_up(host: Host, version: int) -> None:
    """Otherwise packed weights would count twice: as used, and as what the plan still needs."""
    point = host.mount("memory" if version == 1 else "", "/a")
    files = f"active_file {GIB}\ninactive_file {GIB}\nshmem {GIB}\n"
    if version == 1:
        files += f"total_active_file {2 * GIB}\ntotal_inactive_file {GIB}\nhierarchical_memory_limit {UNLIMITED_V1}\n"
        host.write(point / "a", memory_limit_in_bytes=8 * GIB, memory_usage_in_bytes=7 * GIB, memory_stat=files)
    else:
        host.write(point / "a", memory_max=8 * GIB, memory_current=7 * GIB, memory_stat=files)
    assert available_memory_bytes(host.meminfo(32 * GIB), host.proc) == (4 if version == 1 else 3) * GIB


def test_memory_beyond_the_throttle_is_not_planned_with(host: Host) -> None:
    point = host.mount("", "/a")
    host.write(point / "a", memory_max=8 * GIB, memory_high=6 * GIB, memory_current=GIB)
    assert available_memory_bytes(host.meminfo(32 * GIB), host.proc) == 5 * GIB


def test_a_limit_outside_the_container_shows_in_version_1(host: Host) -> None:
    point = host.mount("memory", "/docker/abc", seen_from="/docker/abc")
    text = f"hierarchical_memory_limit {3 * GIB}"
    host.write(point, memory_limit_in_bytes=UNLIMITED_V1, memory_usage_in_bytes=GIB, memory_stat=text)
    assert available_memory_bytes(host.meminfo(32 * GIB), host.proc) == 2 * GIB


@pytest.mark.parametrize(
    ("group", "seen_from", "below"),
    [("/a/b", "/", ["a/b", "a", "."]), ("/a/b", "/a", ["b", "."]), ("/a/b", "/a/b", ["."]), ("/", "/", ["."]),
     ("/../x", "/", ["."]), ("/elsewhere", "/a", ["."])],
)  # fmt: skip
@pytest.mark.parametrize("controllers", ["", "memory"])
def test_every_group_that_can_be_seen_is_found(
    host: Host, group: str, seen_from: str, below: list[str], controllers: str
) -> None:
    point = host.mount(controllers, group, seen_from=seen_from)
    for name in below:
        (point / name).mkdir(parents=True, exist_ok=True)
    found = control_groups("memory", host.proc)
    assert [one.path for one in found] == [point / name for name in below]
    assert {one.version for one in found} == {1 if controllers else 2}


def test_both_versions_at_once_count(host: Host) -> None:
    """A host in hybrid mode has controllers in version 1, and version 2 mounted beside them."""
    first, second = host.mount("memory", "/a"), host.mount("", "/b")
    host.write(first / "a", memory_limit_in_bytes=5 * GIB, memory_usage_in_bytes=0)
    host.write(second / "b", memory_max=4 * GIB, memory_current=0)
    assert available_memory_bytes(host.meminfo(32 * GIB), host.proc) == 4 * GIB


@pytest.mark.parametrize("first", ["/", "/a", "/elsewhere"])
def test_of_several_mounts_the_one_that_shows_most_counts(host: Host, first: str) -> None:
    """A container's directory can be mounted a second time. The limits of its ancestors still bind."""
    whole = host.mount("", "/a/b")
    host.write(whole / "a", memory_max=3 * GIB, memory_current=0)
    (whole / "a" / "b").mkdir()
    narrow = host.root / "narrow"
    narrow.mkdir()
    host.mounts.insert(0, f"31 23 0:26 {first} {narrow if first != '/' else whole} rw - cgroup2 cgroup2 rw")
    assert available_memory_bytes(host.meminfo(32 * GIB), host.proc) == 3 * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_swap_give_no_memory(host: Host, version: int) -> None:
    """Weights and caches in swap are of no use."""
    if version == 1:
        group = host.mount("memory", "/a") / "a"
        host.write(group, memory_limit_in_bytes=4 * GIB, memory_usage_in_bytes=GIB)
        (group / "memory.memsw.limit_in_bytes").write_text(f"{64 * GIB}\n")
    else:
        group = host.mount("", "/a") / "a"
        host.write(group, memory_max=4 * GIB, memory_current=GIB)
        (group / "memory.swap.max").write_text("max\n")
    assert available_memory_bytes(host.meminfo(32 * GIB), host.proc) == 3 * GIB


def test_a_kernel_that_tells_no_available_memory_is_asked_for_what_is_free(host: Host) -> None:
    meminfo = host.root / "old"
    meminfo.write_text(
        "MemTotal: 9000 kB\nMemFree: 1000 kB\nCached: 5000 kB\nActive(file): 200 kB\nInactive(file): 30 kB\nHuge: 0\n"
    )
    assert available_memory_bytes(meminfo, host.proc) == 1230 * 1024


@pytest.mark.parametrize("text", ["max", "max 100000", ""])
def test_a_quota_that_is_none_takes_no_core(host: Host, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2})
    host.write(host.mount("", "/"), cpu_max=text)
    assert physical_cores(host.root / "absent", host.proc) == 3


def test_a_mount_point_with_a_space_is_found(tmp_path: Path) -> None:
    host = Host(tmp_path / "with space")
    host.root.mkdir()
    point = host.mount("", "/")
    host.write(point, memory_max=GIB, memory_current=0)
    assert available_memory_bytes(host.meminfo(4 * GIB), host.proc) == GIB


def test_a_limit_that_cannot_be_read_is_an_error_and_not_unlimited(host: Host) -> None:
    point = host.mount("", "/")
    (point / "memory.max").mkdir()
    with pytest.raises(OSError, match=r"memory\.max"):
        available_memory_bytes(host.meminfo(GIB), host.proc)


def test_a_kernel_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert control_groups("memory", tmp_path) == []


def test_this_machine_has_cores_and_memory() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)
    assert available_memory_bytes() > 1 << 20


@pytest.mark.parametrize(("overcommit", "expected"), [("0", True), ("1", True), ("2", False)])
def test_addresses_beyond_memory_need_a_kernel_that_does_not_count_them(
    tmp_path: Path, overcommit: str, expected: bool
) -> None:
    (tmp_path / "overcommit_memory").write_text(f"{overcommit}\n")
    assert can_overcommit(tmp_path / "overcommit_memory") is expected


def test_addresses_beyond_memory_need_a_kernel_that_takes_memory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "overcommit_memory").write_text("0\n")
    monkeypatch.setattr(mmap, "MADV_REMOVE", -1)  # an advice that no kernel knows
    assert can_overcommit(tmp_path / "overcommit_memory") is False


def test_pages_may_be_more_than_there_is_memory_and_are_zeros() -> None:
    with new_pages(1 << 40) as pages:
        assert pages[0] == pages[(1 << 40) - 1] == 0
