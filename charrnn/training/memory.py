"""Memory limits: training that cannot fit is refused before it allocates."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import CharRNNError

# Control groups, version 2 and then 1: the limit, the usage, and the part of the usage that is
# cached files, which the system frees when memory is needed.
CGROUPS = (
    ("memory.max", "memory.current", ("active_file", "inactive_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
)


def require_memory(num_bytes: int, purpose: str, advice: str) -> None:
    """Raise CharRNNError when this process cannot allocate `num_bytes` more."""
    available = min(limits(), default=num_bytes)
    if num_bytes > available:
        raise CharRNNError(
            f"there is not enough memory: {purpose} needs about {_format_bytes(num_bytes)}, and "
            f"{_format_bytes(max(available, 0))} can be had; {advice}."
        )


def limits() -> Iterator[int]:
    """Bytes available under each limit that is known: the machine's, container's, process's."""
    for limit in available_on_machine, available_in_container, available_to_process:
        with contextlib.suppress(OSError, ValueError, LookupError):
            yield from limit()


def available_on_machine() -> Iterator[int]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # macOS: all of its memory
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return
    kilobytes = {
        name: int(value.split()[0]) for name, _, value in (x.partition(":") for x in lines)
    }
    yield 1024 * (kilobytes["MemAvailable"] + kilobytes["SwapFree"])


def available_in_container(root: str = "/sys/fs/cgroup") -> Iterator[int]:
    """A container sees its own control group at the root."""
    for limit_name, usage_name, cached in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            limit, usage = Path(root, limit_name), Path(root, usage_name)
            available = int(limit.read_text()) - int(usage.read_text())
            lines = map(str.split, usage.with_name("memory.stat").read_text().splitlines())
            yield available + sum(int(size) for name, size in lines if name in cached)


def available_to_process() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # a system without such limits
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        yield limit - pages * os.sysconf("SC_PAGE_SIZE")


def _format_bytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.0f} MB"
