"""Each part of Numba that charrnn uses without documentation, and what to do when it is gone.

All are used by charrnn/network/numba_internals.py alone, except that code generators of
charrnn/network/kernels use the typing and target contexts, as Numba's own extensions do.
"""

import ast
import inspect
import pickle
import re
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching, callconv, config, dispatcher, serialize, types

import charrnn.network
from charrnn.network import jit as jit_module
from charrnn.network import numba_internals
from charrnn.network.arrays import zeros
from charrnn.network.jit import jit
from charrnn.network.kernels.decode import call
from charrnn.network.kernels.matmul import product
from charrnn.network.numba_internals import CODE_SETTINGS

PRIVATE_NAMES = {
    "numba.core.caching": {"NullCache"},
    "numba.core.codegen": {"get_host_cpu_features"},
    "numba.core.compiler": {"CompileResult"},
    "numba.core.environment": {"Environment"},
    "numba.core.runtime": {"_nrt_python"},
    "numba.core.serialize": {"dumps"},
}
PUBLIC_CORE = {"cgutils", "config", "types"}  # of numba.core; documented for extensions
FILES = sorted(Path(charrnn.network.__file__).parent.rglob("*.py"))


def names_from_numba_core(path):
    """{module: names} that a file imports from numba.core, but for PUBLIC_CORE."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numba.core"):
            names = {alias.name for alias in node.names}
            if node.module == "numba.core":
                names -= PUBLIC_CORE
            found.setdefault(node.module, set()).update(names)
        elif isinstance(node, ast.Import):
            modules = {a.name for a in node.names if a.name.startswith("numba.core")}
            found |= {module: {"*"} for module in modules}
    return {module: names for module, names in found.items() if names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_private_names_of_numba_are_imported_by_one_module_alone(path):
    expected = PRIVATE_NAMES if path.name == "numba_internals.py" else {}
    assert names_from_numba_core(path) == expected


@jit
def double(x):
    return 2 * x


@jit
def add_to(a, x, y):
    a[0] += x + y


@jit
def add_by_address(address, a, x):
    call(address, (a, x, 2))


def test_compiled_code_calls_a_compiled_function_by_its_address():
    a = np.array([1.0])
    add_by_address(numba_internals.kernel_address(add_to, a, 0.5, 1), a, 0.25)
    assert a[0] == 3.25


def test_dispatcher_cache_attribute():
    """Gone: `set_cache` has no effect, so every process compiles for 10 seconds.

    Look in numba/core/dispatcher.py, `Dispatcher.enable_caching`, for the attribute's new name.
    """
    assert isinstance(double._cache, caching.NullCache)


def test_dispatcher_methods_that_are_replaced():
    """Gone: remove the line from `set_cache`.

    Without `typeof_pyval` each start imports numpy.ma, which takes 10 ms. Without
    `get_call_template` let `_stored` keep the bitcode, which takes 20 ms of a start.
    """
    source = inspect.getsource(types.Dispatcher)
    assert "self.dispatcher.get_call_template(" in source
    assert callable(double.typeof_pyval)


@jit_module.kernel
def twice(x):
    return 2 * x


@jit
def call_kernel(x):
    return twice(x)


def test_compiled_code_cannot_contain_a_kernel():
    """A stub stands for it in the cache: the caller would do nothing there."""
    with pytest.raises((TypeError, numba.TypingError), match="cannot be called by compiled code"):
        call_kernel(2)


VALUES = [
    0, -1, 2**40, True, 0.5, np.float32(1), np.uint32(3), np.intp(4),
    np.zeros(3), np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), np.int32).T, np.zeros(9)[::2],
    np.zeros((0, 2), np.bool_), np.zeros(3)[None], np.broadcast_to(np.zeros(2), (3, 2)),
    (), (1, 2), (np.zeros(2), 1.5, (np.zeros((1, 1)), True)),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_types_of_arguments_are_those_of_numba(value):
    ours, theirs = numba_internals._type_of(value), numba.typeof(value)
    assert ours == theirs and repr(ours) == repr(theirs)


@pytest.mark.parametrize("name", ["load_overload", "save_overload"])
def test_cache_methods_that_the_dispatcher_calls(name):
    """Gone: look in numba/core/dispatcher.py, `Dispatcher.compile`, for the methods it calls."""
    parameters = list(inspect.signature(getattr(caching.NullCache, name)).parameters)
    assert parameters[:2] == ["self", "sig"] and len(parameters) == 3
    assert f"self._cache.{name}(" in inspect.getsource(dispatcher)


def test_compile_result_can_be_pickled():
    """Gone: look in numba/core/caching.py for how `CompileResultCacheImpl` does it."""
    assert double(2) == 4
    (result,) = double.overloads.values()
    code = pickle.loads(serialize.dumps(result._reduce()))
    again = numba_internals.CompileResult._rebuild(double.targetctx, *code)
    assert again.signature == result.signature
    assert not result.library.has_dynamic_globals


# Settings that do not change compiled code, or only the code of parallel loops, which are not used.
HARMLESS = re.compile(
    "CUDA_|DEBUG_|DUMP_|DISABLE_(CUDA|PERF|TYPE)|.*(THREAD|CACHE|WARN|COLOR|TIMINGS|DIAGNOSTICS)"
    "|(ENABLE_CUDASIM|FORCE_CUDA_CC|GDB_BINARY|SHOW_HELP|TRACE|CHROME_TRACE|HIGHLIGHT_DUMPS"
    "|DEBUG|NRT_STATS|JIT_COVERAGE|ENABLE_SYS_MONITORING|PARFOR_MAX_TUPLE_SIZE"
    "|USE_LLVMLITE_MEMORY_MANAGER)$"
)
# DEVELOPER_MODE sets FULL_TRACEBACKS, the others the name and the features of the processor.
ELSEWHERE = {"DEVELOPER_MODE", "CPU_NAME", "CPU_FEATURES", "ENABLE_AVX", "DISABLE_INTEL_SVML"}


def test_settings_that_change_code_are_known():
    """New ones: add them to CODE_SETTINGS if they change compiled code, to HARMLESS otherwise."""
    source = inspect.getsource(config)
    names = set(re.findall(r'_readenv\(\s*"NUMBA_(\w+)"', source))
    names -= {"DEBUGINFO", "DISABLE_JIT"}  # DEBUGINFO_DEFAULT is in the list; refused
    assert len(names) > 50
    assert {n for n in names if not HARMLESS.match(n)} <= {*CODE_SETTINGS, *ELSEWHERE}
    for name in {*CODE_SETTINGS} - {"USE_LEGACY_TYPE_SYSTEM", "USING_SVML"}:  # not in all releases
        assert hasattr(config, name), name


@pytest.mark.parametrize(
    "name, features, width",
    [(None, None, jit_module.VECTOR_BYTES), ("generic", "", 16), ("generic", "+avx2,+fma", 32)],
)
def test_vectors_are_those_of_the_processor_that_numba_compiles_for(
    monkeypatch, name, features, width
):
    """With instructions that it lacks, LLVM would crash."""
    monkeypatch.setattr(config, "CPU_NAME", name)
    monkeypatch.setattr(config, "CPU_FEATURES", features)
    monkeypatch.setattr(jit_module, "CPU_FEATURES", numba_internals.cpu_features())
    assert jit_module._widest_vector() == width


def test_addresses_of_the_runtime():
    """Gone: remove `_register_runtime` and call super().load_overload in `FolderCache`.

    Numba then registers its runtime itself, which costs every process 30 ms and 30 MB.
    """
    helpers = numba_internals._nrt_python.c_helpers
    assert {"Allocate", "Free"} <= helpers.keys()
    assert all(isinstance(address, int) for address in helpers.values())


def test_compile_result():
    """Gone: without `get_llvm_str`, let `FolderCache` append all symbol loaders to `reload_init`.

    Without `reload_init`, run them in `load_overload`. Without the others, `function_address` can
    return the documented `address` of a numba.cfunc with the same signature.
    """
    assert double(2) == 4
    (result,) = double.overloads.values()
    assert "define" in result.library.get_llvm_str()
    assert isinstance(result.reload_init, list)
    address = numba_internals.function_address(double, (numba.int64,))
    assert address == result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


def test_jit_options():
    """Gone: drop the option; without it compiling takes longer, nothing else."""
    assert numba.njit(**numba_internals.JIT_OPTIONS)(lambda x: x + 1)(2) == 3


def test_calling_convention():
    """Gone: `call_by_name` cannot call the one compiled product.

    Make `charrnn.network.kernels.gemm._multiply` an ordinary jitted function that the kernels call;
    a first run then takes 1.5 times longer.
    """
    for name in "get_function_type", "call_function":
        assert callable(getattr(callconv.CPUCallConv, name))
    total = zeros((1, 16), np.float32)
    product(np.ones((1, 16), np.float32), np.ones((1, 16, 16), np.float32), total)
    assert (total == 16).all()
