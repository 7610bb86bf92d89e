"""How many CPUs a process may use, by its affinity and the quotas of all its control groups."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.cgroups import SELF, ControlGroup, control_groups


def logical_cpus(proc: Path = SELF) -> int:
    """The CPUs that this process may use, counting each hyper-thread: for threads that do not wait for each other."""
    return paid_for(len(os.sched_getaffinity(0)), proc)


def paid_for(count: int, proc: Path) -> int:
    """The smaller of ``count`` and the whole CPUs that the tightest quota pays for; at least 1."""
    quotas = (_quota(group) for group in control_groups("cpu", proc))
    return max(1, min([count, *(int(quota) for quota in quotas if quota is not None)]))


def _quota(group: ControlGroup) -> float | None:
    """The CPUs that the quota of the group pays for; None without a quota."""
    if group.version == 2:
        quota, _, period = (group.read("cpu.max") or "max").partition(" ")
        return None if quota == "max" else int(quota) / int(period or 100_000)
    allowed, period_us = group.number("cpu.cfs_quota_us"), group.number("cpu.cfs_period_us")
    return allowed / period_us if allowed is not None and allowed > 0 and period_us else None
