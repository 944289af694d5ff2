"""The only place that configures Numba: flags, the folder of compiled code, threads.

Numba's own cache keeps compiled code by the source file of the outermost function and would run
stale code after an edit elsewhere, so charrnn's lies in a folder named by a hash of all the sources
that are ever compiled. Where no folder can be written, functions are compiled anew in silence.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import llvmlite
import llvmlite.binding
import numba
from numba.core.caching import Cache, CompileResultCacheImpl, NullCache, _CacheLocator
from numba.core.runtime import _nrt_python

# No nnan or ninf: a NaN must stay one, or a diverging run goes unnoticed. No arcp, afn or reassoc:
# vector and scalar code would round differently, and results depend on how threads share rows.
FASTMATH = {"contract", "nsz"}
OVERLOADED = {"fastmath": FASTMATH, "error_model": "numpy"}  # options of @overload


def _widest_vector() -> int:
    """Bytes in the widest vector register of this processor."""
    features = llvmlite.binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


VECTOR_BYTES = _widest_vector()
# Whether this processor has an instruction for products of bfloat16.
BFLOAT16 = VECTOR_BYTES == 64 and bool(llvmlite.binding.get_host_cpu_features().get("avx512bf16"))
MAX_THREADS = 256


def _source_hash() -> str:
    root = Path(__file__).parent
    names = [Path(__file__), root / "optimizers.py"]
    names += sorted((root / "kernels").glob("*.py")) + sorted((root / "cells").glob("*.py"))
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {sys.version}".encode())
    for name in names:
        digest.update(name.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder() -> str | None:
    """A folder for compiled code that only this user can write, or None."""
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    if not base and sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    folder = os.path.join(base or os.path.expanduser("~/.cache"), "charrnn", _source_hash())
    if not os.path.isabs(folder):  # nobody's home is known
        return None
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) and _is_own(folder) else None


def _is_own(folder: str) -> bool:
    """Whether nobody else can write there: what is loaded from it is run."""
    if not hasattr(os, "getuid"):
        return True
    info = os.stat(folder)
    return info.st_uid == os.getuid() and not info.st_mode & 0o022


CACHE_FOLDER = _cache_folder()

# For the name of a function that compiled code calls by name: what makes it known to LLVM. That
# is kept with the code, by reference, and done before the code is loaded.
SYMBOL_LOADERS: dict[str, Callable[[], None]] = {}


@functools.cache
def _announce() -> None:
    """Say, once, that there is something to compile: a first run takes longer to start."""
    often = (
        "once"
        if CACHE_FOLDER
        else "each time, since no cache folder of this user's own can be written"
    )
    logging.getLogger("charrnn").info("compiling for this processor: some 10 seconds, %s", often)


@functools.cache
def _announce_runtime() -> None:
    """Tell LLVM where Numba's runtime is, which loaded code calls.

    Numba itself also compiles a part of it anew in each process, for 30 ms and 30 MB; but code that
    is loaded brings that part with it, and before any is compiled Numba will do so still.
    """
    for name, address in _nrt_python.c_helpers.items():
        llvmlite.binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


class _Locator(_CacheLocator):
    """Puts compiled code in CACHE_FOLDER; the folder's name already stands for the sources."""

    def __init__(self, function: Callable) -> None:
        self._name = f"{function.__module__}-{function.__code__.co_firstlineno}"

    def get_cache_path(self) -> str:
        return CACHE_FOLDER

    def get_source_stamp(self) -> str:
        return "charrnn"

    def get_disambiguator(self) -> str:
        return self._name

    @classmethod
    def from_function(cls, function: Callable, file: str) -> _Locator:
        return cls(function)


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Locator]


class _SafeCache(Cache):
    """Numba's cache, but safe with several processes at once and with any fault of the disk."""

    _impl_class = _Implementation

    def load_overload(self, sig, target_context):
        code = None
        try:
            # (Cache.load_overload would import, for a third of a second, what compiling needs.)
            _announce_runtime()
            code = self._load_overload(sig, target_context)
        except Exception:
            # A file cut short by a crash must cost a compilation, not the run, and only one.
            with contextlib.suppress(OSError), _alone():
                self.flush()
        if code is None:
            _announce()
        return code

    def save_overload(self, sig, data) -> None:
        code = data.library.get_llvm_str()
        data.reload_init.extend(provide for name, provide in SYMBOL_LOADERS.items() if name in code)
        with contextlib.suppress(OSError), _alone():
            super().save_overload(sig, data)


class _NoCache(NullCache):
    def load_overload(self, sig, target_context):
        _announce()


@contextlib.contextmanager
def _alone():
    """One process at a time: Numba reads, numbers and writes its index in steps."""
    try:
        import fcntl
    except ImportError:  # no such lock on this system; the index is at least replaced whole
        yield
        return
    with open(os.path.join(CACHE_FOLDER, "lock"), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def jit(function: Callable | None = None, *, fastmath: frozenset[str] | set[str] = FASTMATH):
    """Compile at the first call: no signatures, which would compile at import.

    For functions that other compiled functions call; their code is part of each caller's. They run
    without the GIL, and must be at module level and close over nothing: a captured function or
    intrinsic changes the caller's key in the cache in every process.
    """
    if function is None:
        return lambda f: jit(f, fastmath=fastmath)
    return numba.njit(
        nogil=True, error_model="numpy", fastmath=set(fastmath), no_cfunc_wrapper=True
    )(function)


def kernel(function: Callable) -> Callable:
    """`jit` for the functions that Python calls: their machine code is kept for later processes."""
    dispatcher = jit(function)
    dispatcher._cache = _SafeCache(function) if CACHE_FOLDER else _NoCache()
    return dispatcher


def usable_cores() -> int:
    """The number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ThreadTeam:
    """A fixed number of threads that do the parts of a task, each knowing its place.

    There are MAX_THREADS at most, and no more than the system lets start: with fewer the results
    are the same.

    Compiled functions run without the GIL, so the parts run side by side. A task starts and ends
    within some 20 µs, half of what concurrent.futures takes; a step of training has four.
    """

    def __init__(self, size: int) -> None:
        self._done: SimpleQueue = SimpleQueue()
        self._tasks: list[SimpleQueue] = []
        with contextlib.suppress(RuntimeError):  # "can't start new thread"
            for i in range(1, min(size, MAX_THREADS)):
                tasks: SimpleQueue = SimpleQueue()
                Thread(target=_work, args=(i, tasks, self._done), daemon=True).start()
                weakref.finalize(self, tasks.put, None)
                self._tasks.append(tasks)
        self.size = 1 + len(self._tasks)

    def run(self, part: Callable[[int, int], object], size: int | None = None) -> None:
        """Call part(0, n) to part(n - 1, n), n = size or the team's; return when all are done."""
        size = min(size or self.size, self.size)
        others = self._tasks[: size - 1]
        for tasks in others:
            tasks.put((part, size))
        try:
            part(0, size)
        finally:
            errors = [self._done.get() for _ in others]
        for error in filter(None, errors):
            raise error


def _work(i: int, tasks: SimpleQueue, done: SimpleQueue) -> None:
    """Do the i-th part of every task until None comes."""
    while (task := tasks.get()) is not None:
        part, size = task
        try:
            part(i, size)
        except BaseException as error:  # for the thread that waits, which raises it
            done.put(error)
        else:
            done.put(None)
        del task, part  # nothing of the task may be kept alive while waiting for the next


def threads_for(size: int) -> int:
    """How many threads one pass over so many values is worth: starting them takes some 20 µs."""
    return 1 + size // 2**17


def chunk_bounds(count: int, i: int, size: int) -> tuple[int, int]:
    """The i-th of `size` even contiguous shares of range(count), as (first, last)."""
    return count * i // size, count * (i + 1) // size
