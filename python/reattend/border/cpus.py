"""How many CPUs the process may use: those of its affinity, and what a container's quota leaves."""

from __future__ import annotations

import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def usable_cpus(groups: Path = _GROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Give the number of CPUs, at least 1; a part of one counts as one.

    Examples
    --------
    >>> usable_cpus() >= 1
    True
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        count = os.cpu_count() or 1
    return max(1, min([count, *(-(-quota // period) for quota, period in _quotas(groups, own))]))


def _quotas(groups: Path, own: Path) -> list[tuple[int, int]]:
    """Read the quotas of this process's group and of those around it, in microseconds."""
    found = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            place = groups / path.lstrip("/")
            for folder in (place, *place.parents):
                if not folder.is_relative_to(groups):
                    break
                found += _pair(folder / "cpu.max")
        elif "cpu" in controllers.split(","):
            for folder in (groups / "cpu" / path.lstrip("/"), groups / "cpu"):
                found += _pair(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
    return found


def _pair(*files: Path) -> list[tuple[int, int]]:
    try:
        quota, period = (int(n) for file in files for n in file.read_text().split())
    except (OSError, ValueError):  # no such file, or "max": no quota
        return []
    return [(quota, period)] if quota > 0 and period > 0 else []
