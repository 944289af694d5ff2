"""The parts of Numba that charrnn uses and that are not its documented API.

Any release of Numba may change them, so no other module names them, and pyproject.toml bounds the
release. tests/network/test_numba_internals.py lists each one and says what to do without it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import llvmlite.binding
from numba.core import cgutils, types
from numba.core.caching import Cache, CompileResultCacheImpl, NullCache, _CacheLocator
from numba.core.runtime import _nrt_python

F = TypeVar("F", bound=Callable[..., Any])

# Options of numba.njit. no_cfunc_wrapper: do not compile an entry for C code, which nothing calls.
JIT_OPTIONS = {"no_cfunc_wrapper": True}


class _Locator(_CacheLocator):  # type: ignore[misc]  # Numba's types are not read
    """Puts compiled code in one folder, whose name stands for the sources."""

    def __init__(self, folder: str, name: str = "") -> None:
        self._folder, self._name = folder, name

    def from_function(self, function: Callable[..., Any], file: str) -> _Locator:
        """Return the locator of a function. (Numba would ask a class, here it asks an instance.)"""
        return _Locator(self._folder, f"{function.__module__}-{function.__code__.co_firstlineno}")

    def get_cache_path(self) -> str:
        return self._folder

    def get_source_stamp(self) -> str:
        return "charrnn"

    def get_disambiguator(self) -> str:
        return self._name


class _Implementation(CompileResultCacheImpl):  # type: ignore[misc]  # as above
    def __init__(self, folder: str, function: Callable[..., Any]) -> None:
        self._locator_classes = [_Locator(folder)]
        super().__init__(function)


class FolderCache(Cache):  # type: ignore[misc]  # as above
    """Numba's file cache, made safe for concurrent processes and for faults of the disk.

    function: the Python function whose compiled code is cached.
    folder: where the files are written.
    symbol_loaders: {name of a compiled function: function that makes it known to LLVM}. Cached
        code that calls such a name stores a reference to its loader, which runs first on loading.
    on_compile: called when the code is not in the cache.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        folder: str,
        symbol_loaders: dict[str, Callable[[], None]],
        on_compile: Callable[[], None],
    ) -> None:
        self._impl_class = functools.partial(_Implementation, folder)
        super().__init__(function)
        self._folder, self._symbol_loaders, self._on_compile = folder, symbol_loaders, on_compile

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        code = None
        try:
            # Cache.load_overload would import the compiler, for a third of a second.
            _register_runtime()
            code = self._load_overload(sig, target_context)
        except Exception:
            # A file cut short by a crash costs one compilation: remove it.
            with contextlib.suppress(OSError), _cache_lock(self._folder):
                self.flush()
        if code is None:
            self._on_compile()
        return code

    def save_overload(self, sig: Any, data: Any) -> None:
        code = data.library.get_llvm_str()
        loaders = self._symbol_loaders.items()
        data.reload_init.extend(load for name, load in loaders if name in code)
        with contextlib.suppress(OSError), _cache_lock(self._folder):
            super().save_overload(sig, data)


class NoCache(NullCache):  # type: ignore[misc]  # as above
    """Compiles in every process, and calls `on_compile` before it does."""

    def __init__(self, on_compile: Callable[[], None]) -> None:
        self._on_compile = on_compile

    def load_overload(self, sig: Any, target_context: Any) -> None:
        self._on_compile()


def set_cache(dispatcher: F, cache: FolderCache | NoCache) -> F:
    """Let a jitted function load and save its machine code by `cache`; returns the function."""
    dispatcher._cache = cache  # type: ignore[attr-defined]  # a Numba dispatcher has it
    return dispatcher


@functools.cache
def _register_runtime() -> None:
    """Tell LLVM the addresses of Numba's runtime, which loaded code calls.

    Numba's own initialisation also compiles a part of the runtime in each process, which takes
    30 ms and 30 MB. Loaded code brings that part along; Numba still does it before it compiles.
    """
    for name, address in _nrt_python.c_helpers.items():
        llvmlite.binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


@contextlib.contextmanager
def _cache_lock(folder: str) -> Iterator[None]:
    """Exclude other processes: Numba reads, numbers and writes its index in separate steps."""
    try:
        import fcntl
    except ImportError:  # there is no such lock on this system; the index is replaced atomically
        yield
        return
    with open(os.path.join(folder, "lock"), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def function_address(dispatcher: Any, arg_types: tuple[Any, ...]) -> int:
    """Compile a jitted function for these types, or load it; returns its machine code's address."""
    dispatcher.compile(arg_types)
    result = dispatcher.overloads[arg_types]
    address: int = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    return address


def call_by_name(
    context: Any, builder: Any, name: str, arg_types: Sequence[Any], args: Sequence[Any]
) -> None:
    """Emit a call of the compiled function that LLVM knows by `name`, and that returns nothing."""
    convention = context.call_conv
    function_type = convention.get_function_type(types.none, arg_types)
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    convention.call_function(builder, function, types.none, arg_types, args)
