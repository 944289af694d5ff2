"""Numba's configuration: compiler flags, the folder of compiled code, threads.

Numba's own cache identifies compiled code by the source file of the outermost function, and would
run stale code after an edit of another file. The cache folder of charrnn is therefore named by a
hash of all sources that are ever compiled. Where no folder can be written, every process compiles.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from ..errors import error_reason, escape_unprintable
from .code_folder import CodeFolder
from .numba_failure import numba_failure

try:
    with warnings.catch_warnings():
        # Numba would warn, with a traceback, and use another value.
        warnings.filterwarnings("error", "Environment variable 'NUMBA_", RuntimeWarning)
        import llvmlite
        import numba

        from .numba_internals import (
            JIT_OPTIONS,
            FolderCache,
            check_settings,
            cpu_features,
            set_cache,
        )
except Exception as error:
    raise numba_failure(error) from error
check_settings()

F = TypeVar("F", bound=Callable[..., Any])
Task = Callable[[int, int], object]

# There are no `fastmath` flags: each operation rounds as IEEE 754 says, in the order of the source,
# so results depend neither on the processor nor on the threads. Kernels ask for a fused
# multiply-add (`fma`) and for vectorised sums (kernels/lanes.py) where these pay.
OPTIONS = {"error_model": "numpy"}  # also `jit_options` of @overload


def _widest_vector() -> int:
    """The size in bytes of the processor's widest vector registers."""
    if "avx512f" in CPU_FEATURES:
        return 64
    return 32 if "avx2" in CPU_FEATURES else 16


CPU_FEATURES = cpu_features()
VECTOR_BYTES = _widest_vector()
# Whether the processor multiplies bfloat16 (AVX-512 BF16).
BFLOAT16 = VECTOR_BYTES == 64 and "avx512bf16" in CPU_FEATURES
MAX_THREADS = 256


def compiled_sources() -> list[Path]:
    """The files on which compiled code depends."""
    root = Path(__file__).parent
    folders = sorted((root / "kernels").glob("*.py")) + sorted((root / "cells").glob("*.py"))
    return [root / "jit.py", root / "numba_internals.py", *folders]


def _source_hash() -> str:
    """A hash of the compiled sources and of the versions that compile them."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {sys.version}".encode())
    for path in compiled_sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder() -> str:
    """The folder for compiled code. It is relative, and not used, for a user without a home."""
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    if not base and sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    return os.path.join(base or os.path.expanduser("~/.cache"), "charrnn", _source_hash())


CACHE_FOLDER = _cache_folder()

# Compiled code may call other compiled functions by name. This maps such a name to the function
# that makes it known to LLVM; cached code refers to it, and runs it when it is loaded.
SYMBOL_LOADERS: dict[str, Callable[[], None]] = {}


def _log_compilation() -> None:
    """Log, once per process, that it compiles: a first run takes longer to start."""
    _log_once("compiling for this processor: some 10 seconds")


def _log_unsaved(error: OSError) -> None:
    """Log, once per process, that compiled code is not kept."""
    path = error.filename if os.path.isabs(error.filename or "") else CACHE_FOLDER
    _log_once(f"each start compiles, since code cannot be saved: {path}: {error_reason(error)}")


@functools.cache
def _log_once(message: str) -> None:
    logging.getLogger("charrnn").info("%s", escape_unprintable(message))


def jit(function: F) -> F:
    """Decorate a function that other compiled functions call; it becomes part of their code.

    It is compiled at its first call. It runs without the GIL. It must be defined at module level
    and close over nothing: a captured function or intrinsic would give its callers another cache
    key in every process.
    """
    jitted: F = numba.njit(nogil=True, **OPTIONS, **JIT_OPTIONS)(function)
    return jitted


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function that Python calls: `jit`, with its machine code cached on disk."""
    folder = CodeFolder(CACHE_FOLDER)
    cache = FolderCache(function, folder, SYMBOL_LOADERS, _log_compilation, _log_unsaved)
    return set_cache(jit(function), cache)


class ThreadTeam:
    """A fixed number of threads that share out a task.

    It has `size` threads, the caller's included: MAX_THREADS at most, and fewer if the system
    refuses to start more. Results do not depend on the number.

    Compiled functions release the GIL, so the threads run in parallel. Starting and ending a task
    takes some 20 µs, half of what concurrent.futures takes; a training step has four tasks.
    """

    def __init__(self, size: int) -> None:
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        self._queues: list[SimpleQueue[tuple[Task, int] | None]] = []
        with contextlib.suppress(RuntimeError):  # "can't start new thread"
            for i in range(1, min(size, MAX_THREADS)):
                queue: SimpleQueue[tuple[Task, int] | None] = SimpleQueue()
                Thread(target=_work, args=(i, queue, self._done), daemon=True).start()
                weakref.finalize(self, queue.put, None)
                self._queues.append(queue)
        self.size = 1 + len(self._queues)

    def run(self, task: Task, size: int | None = None) -> None:
        """Call task(0, n) to task(n - 1, n) in parallel and wait for all of them.

        n is `size`, but at most the team's size, which is the default. An exception of a task is
        raised here.
        """
        size = min(size or self.size, self.size)
        queues = self._queues[: size - 1]
        for queue in queues:
            queue.put((task, size))
        try:
            task(0, size)
        finally:
            errors = [self._done.get() for _ in queues]
        for error in filter(None, errors):
            raise error


def _work(
    i: int,
    queue: SimpleQueue[tuple[Task, int] | None],
    done: SimpleQueue[BaseException | None],
) -> None:
    """Do the i-th part of every task until None comes."""
    while (item := queue.get()) is not None:
        task, size = item
        try:
            task(i, size)
        except BaseException as error:  # for the waiting thread, which raises it
            done.put(error)
        else:
            done.put(None)
        del item, task  # or the task's arrays would stay alive while this thread waits


def threads_for(size: int) -> int:
    """How many threads pay for one pass over `size` values: starting them takes some 20 µs."""
    return 1 + size // 2**17


def chunk_bounds(count: int, i: int, size: int) -> tuple[int, int]:
    """The i-th of `size` even contiguous chunks of range(count), as (first, last)."""
    return count * i // size, count * (i + 1) // size
