"""The number of processor cores that this process may use."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores() -> int:
    """The cores that the system, and the quota of a container or job, leave to this process."""
    return within_quota(len(core_ids()))


def core_ids() -> frozenset[int]:
    """The numbers of the cores that the system leaves to this process."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(_performance_cores() or os.cpu_count() or 1))


def within_quota(cores: int) -> int:
    """As many of `cores` as the quota of a container or job allows."""
    return max(1, min([cores, *map(math.ceil, cpu_quotas())]))


def _performance_cores() -> int:
    """The fast cores of Apple silicon; 0 elsewhere.

    Work is shared out evenly, so everybody would wait for the slow ones.
    """
    if sys.platform != "darwin":
        return 0
    import ctypes

    count, size = ctypes.c_int(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    name = b"hw.perflevel0.logicalcpu"
    failed = ctypes.CDLL(None).sysctlbyname(name, ctypes.byref(count), ctypes.byref(size), None, 0)
    return 0 if failed else count.value


def cpu_quotas(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> Iterator[float]:
    """The quotas of this process's control groups (versions 2 and 1) in cores."""
    for group in _control_groups(own):
        v2, v1 = Path(root, group), Path(root, "cpu", group)
        for files in [v2 / "cpu.max"], [v1 / "cpu.cfs_quota_us", v1 / "cpu.cfs_period_us"]:
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # "max": no quota
                quota, period = map(int, " ".join(file.read_text() for file in files).split())
                if quota > 0:  # version 1 has -1 for no quota
                    yield quota / period


def _control_groups(own: str) -> set[PurePosixPath]:
    """The groups whose quotas hold, relative to the root, where a container sees its own group."""
    groups = {PurePosixPath()}
    with contextlib.suppress(OSError, ValueError):
        for line in Path(own).read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "cpu" in controllers.split(",") or not controllers:  # version 2 names none
                group = PurePosixPath(path.lstrip("/"))
                groups |= {group, *group.parents}
    return {group for group in groups if ".." not in group.parts}
