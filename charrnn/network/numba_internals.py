"""The parts of Numba that charrnn uses and that are not its documented API.

Any release of Numba may change them, so no other module names them, and pyproject.toml bounds the
release. tests/network/test_numba_internals.py lists each one and says what to do without it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.caching import NullCache
from numba.core.codegen import get_host_cpu_features
from numba.core.compiler import CompileResult
from numba.core.environment import Environment
from numba.core.runtime import _nrt_python
from numba.core.serialize import dumps

from ..errors import UsageError
from .code_folder import CodeFolder

F = TypeVar("F", bound=Callable[..., Any])

# Options of numba.njit. no_cfunc_wrapper: do not compile an entry for C code, which nothing calls.
JIT_OPTIONS = {"no_cfunc_wrapper": True}


# The settings, in numba/core/config.py, that change the code, besides the processor's name and
# features: code compiled with other settings is other code.
CODE_SETTINGS = (
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "DEBUG_NRT",
    "DIFF_IR",
    "ENABLE_PROFILING",
    "EXTEND_VARIABLE_LIFETIMES",
    "FULL_TRACEBACKS",
    "LLVM_REFPRUNE_FLAGS",
    "LLVM_REFPRUNE_PASS",
    "LOOP_VECTORIZE",
    "OPT",
    "SLP_VECTORIZE",
    "USE_LEGACY_TYPE_SYSTEM",  # of older releases
    "USING_SVML",
)


def check_settings() -> None:
    """Raise UsageError for settings of Numba with which charrnn cannot work."""
    if config.DISABLE_JIT:
        raise UsageError("NUMBA_DISABLE_JIT is set, but charrnn needs compiled code; unset it.")
    host = llvmlite.binding.get_host_cpu_name()
    if config.CPU_NAME not in (None, "", "generic", host):  # LLVM would ignore unknown names
        raise UsageError(
            f"NUMBA_CPU_NAME is {config.CPU_NAME!r}, but charrnn compiles for this processor, "
            f"{host!r}, or for 'generic'; set one of them, or unset it."
        )
    features = llvmlite.binding.get_host_cpu_features()
    for feature in filter(None, (config.CPU_FEATURES or "").split(",")):
        if not (feature.startswith("+") and features.get(feature[1:])):  # LLVM might crash
            raise UsageError(
                f"NUMBA_CPU_FEATURES has {feature!r}, which is not a plus sign and a feature of "
                "this processor, as in '+avx2,+fma'; correct it, or unset it."
            )


def cpu_features() -> set[str]:
    """The features of the processor for which Numba compiles."""
    features = config.CPU_FEATURES
    if features is None:
        features = get_host_cpu_features()
    return {name[1:] for name in features.split(",") if name.startswith("+")}


def processor() -> str:
    """Name the processor for which Numba compiles, in a message."""
    if not config.CPU_NAME and config.CPU_FEATURES is None:
        return "this processor"
    return "the processor that NUMBA_CPU_NAME or NUMBA_CPU_FEATURES describes"


class FolderCache(NullCache):  # type: ignore[misc]  # Numba's types are not read
    """A cache of compiled code: one file for a function, the types of its arguments, and settings.

    function: the Python function whose compiled code is cached. It closes over nothing.
    folder: where the files are; its name stands for the sources.
    symbol_loaders: {name of a compiled function: function that makes it known to LLVM}. Cached
        code that calls such a name stores a reference to its loader, which runs first on loading.
    on_compile: called when the code is not in the cache.
    on_failure: called with the reason when the code cannot be saved.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        folder: CodeFolder,
        symbol_loaders: dict[str, Callable[[], None]],
        on_compile: Callable[[], None],
        on_failure: Callable[[OSError], None],
    ) -> None:
        assert not function.__closure__, "captured values are not part of the key"
        code = function.__code__
        self._name = f"{function.__module__}.{function.__qualname__}-{code.co_firstlineno}"
        self._bytecode, self._folder, self._symbol_loaders = code.co_code, folder, symbol_loaders
        self._on_compile, self._on_failure = on_compile, on_failure

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the stored code, or None: a damaged file is one that is not there."""
        key = self._key(sig, target_context.codegen())
        with contextlib.suppress(Exception):
            stored_key, code = pickle.loads(self._folder.read(self._file(key)))
            if stored_key == key:
                _register_runtime()
                return CompileResult._rebuild(target_context, *code)
        self._on_compile()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        code = data.library.get_llvm_str()
        loaders = self._symbol_loaders.items()
        data.reload_init.extend(load for name, load in loaders if name in code)
        key = self._key(sig, data.library.codegen)
        try:
            if data.library.has_dynamic_globals:  # addresses in this process; NUMBA_OPT=0 has some
                raise OSError("it holds addresses of this process")
            self._folder.write(self._file(key), dumps((key, _stored(data))))
        except OSError as error:
            self._on_failure(error)

    def _key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        settings = repr([getattr(config, name, None) for name in CODE_SETTINGS])
        return self._name, self._bytecode, sig, codegen.magic_tuple(), settings

    def _file(self, key: tuple[Any, ...]) -> str:
        return f"{self._name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"


def _stored(result: Any) -> tuple[Any, ...]:
    """The parts of a CompileResult that are stored: without parts that are slow to load.

    A stub replaces the bitcode, which is for functions that this one is built into (`set_cache`
    prevents that). Of the environments only the constants are stored.
    """
    (name, kind, (machine_code, _)), fndesc, environment, *rest, environments = result._reduce()
    stub = _bitcode_of(fndesc.llvm_func_name, fndesc.llvm_cpython_wrapper_name)
    environments = [_StoredEnvironment(each) for each in environments]
    library = name, kind, (machine_code, stub)
    return library, fndesc, _StoredEnvironment(environment), *rest, environments


def _bitcode_of(*names: str) -> bytes:
    """The bitcode of empty functions: Numba reads from it the names that the code defines."""
    module = ir.Module()
    for name in names:
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), ()), name)
        ir.IRBuilder(function.append_basic_block()).ret_void()
    code: bytes = llvmlite.binding.parse_assembly(str(module)).as_bitcode()
    return code


class _StoredEnvironment:
    """Is pickled instead of an environment, and becomes one again without importing its module.

    Only Python code that Numba could not compile would look up names in that module.
    """

    def __init__(self, environment: Any) -> None:
        self._parts = environment.env_name, tuple(environment.consts)

    def __reduce__(self) -> Any:
        return _environment, self._parts


_ENVIRONMENTS: dict[str, Any] = {}  # by name; compiled code has their addresses


def _environment(name: str, constants: tuple[Any, ...]) -> Any:
    """The environment of this name for loaded code, which is made at the first call."""
    if name not in _ENVIRONMENTS:
        environment = _ENVIRONMENTS[name] = Environment({})
        environment.env_name, environment.consts[:] = name, constants
    return _ENVIRONMENTS[name]


def set_cache(dispatcher: F, cache: FolderCache) -> F:
    """Let a jitted function load and save its machine code by `cache`; returns the function.

    No compiled function can then call it but by its name or address.
    """
    dispatcher._cache = cache  # type: ignore[attr-defined]  # a Numba dispatcher has it
    dispatcher.get_call_template = _refuse_call  # type: ignore[attr-defined]
    dispatcher.typeof_pyval = _type_of  # type: ignore[attr-defined]
    return dispatcher


def _refuse_call(*arguments: Any) -> None:
    raise TypeError("a kernel cannot be called by compiled code: decorate it with `jit`.")


def _type_of(value: Any) -> Any:
    """The type of an argument: `numba.typeof`, which imports numpy.ma for an array."""
    if type(value) is tuple:
        parts = [_type_of(element) for element in value]
        return types.BaseTuple.from_types(parts, tuple)  # type: ignore[attr-defined]
    if type(value) is not np.ndarray:
        return numba.typeof(value)
    flags = value.flags
    layout: Any = "C" if flags.c_contiguous else "F" if flags.f_contiguous else "A"
    dtype = numba.from_dtype(value.dtype)
    return types.Array(dtype, value.ndim, layout, readonly=not flags.writeable)


@functools.cache
def _register_runtime() -> None:
    """Tell LLVM the addresses of Numba's runtime, which loaded code calls.

    Numba's own initialisation also compiles a part of the runtime in each process, which takes
    30 ms and 30 MB. Loaded code brings that part along; Numba still does it before it compiles.
    """
    for name, address in _nrt_python.c_helpers.items():
        llvmlite.binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


def function_address(dispatcher: Any, arg_types: tuple[Any, ...]) -> int:
    """Compile a jitted function for these types, or load it; returns its machine code's address."""
    dispatcher.compile(arg_types)
    result = dispatcher.overloads[arg_types]
    address: int = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    return address


def kernel_address(dispatcher: Any, *args: Any) -> int:
    """Compile a jitted function for arguments like these, or load it; returns its address."""
    return function_address(dispatcher, tuple(map(dispatcher.typeof_pyval, args)))


def call_by_address(
    context: Any, builder: Any, address: Any, arg_types: Sequence[Any], args: Sequence[Any]
) -> None:
    """Emit a call of the compiled function at an address, a number; it returns nothing."""
    convention = context.call_conv
    function_type = convention.get_function_type(types.none, arg_types)
    function = builder.inttoptr(address, function_type.as_pointer())
    convention.call_function(builder, function, types.none, arg_types, args)


def call_by_name(
    context: Any, builder: Any, name: str, arg_types: Sequence[Any], args: Sequence[Any]
) -> None:
    """Emit a call of the compiled function that LLVM knows by `name`, and that returns nothing."""
    convention = context.call_conv
    function_type = convention.get_function_type(types.none, arg_types)
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    convention.call_function(builder, function, types.none, arg_types, args)
