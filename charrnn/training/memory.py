"""How much memory there is, so that what cannot fit is refused, not left to fail half-way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import CharRNNError

try:
    import resource
except ImportError:  # a system without such limits
    resource = None

# Of control groups, version 2 and then 1: the bound, what is used, and what of that are copies of
# files, which the system lets go of when memory is asked for.
CGROUPS = (
    ("memory.max", "memory.current", ("active_file", "inactive_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
)


def require_memory(num_bytes: int, what: str, advice: str) -> None:
    """Raises CharRNNError when `num_bytes` are more than this process may still take."""
    free = min(_limits(), default=num_bytes)
    if num_bytes > free:
        raise CharRNNError(
            f"there is not enough memory: {what} needs about {_size(num_bytes)}, and "
            f"{_size(max(free, 0))} can be had; {advice}."
        )


def _limits() -> Iterator[int]:
    """Bytes that each of the bounds leaves free: the machine's, the container's, the process's."""
    for bound in _free_on_the_machine, _free_in_the_container, _free_to_the_process:
        with contextlib.suppress(OSError, ValueError, LookupError):
            yield from bound()


def _free_on_the_machine() -> Iterator[int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kilobytes = {
        name: int(value.split()[0]) for name, _, value in (x.partition(":") for x in lines)
    }
    yield 1024 * (kilobytes["MemAvailable"] + kilobytes["SwapFree"])


def _free_in_the_container(root: str = "/sys/fs/cgroup") -> Iterator[int]:
    """Control groups as containers see their own, at the root."""
    for bound, used, files in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max": no bound
            bound, used = (Path(root, name) for name in (bound, used))
            free = int(bound.read_text()) - int(used.read_text())
            lines = map(str.split, used.with_name("memory.stat").read_text().splitlines())
            yield free + sum(int(size) for name, size in lines if name in files)


def _free_to_the_process() -> Iterator[int]:
    most = resource.getrlimit(resource.RLIMIT_AS)[0] if resource else -1
    if most != getattr(resource, "RLIM_INFINITY", -1):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        yield most - pages * os.sysconf("SC_PAGE_SIZE")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.0f} MB"
