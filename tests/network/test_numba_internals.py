"""Each part of Numba that charrnn uses without documentation, and what to do when it is gone.

All are used by charrnn/network/numba_internals.py alone, except that code generators of
charrnn/network/kernels use the typing and target contexts, as Numba's own extensions do.
"""

import ast
import inspect
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching, callconv, dispatcher

import charrnn.network
from charrnn.network import numba_internals
from charrnn.network.arrays import zeros
from charrnn.network.jit import jit
from charrnn.network.kernels.matmul import product

PRIVATE_NAMES = {
    "numba.core.caching": {"Cache", "CompileResultCacheImpl", "NullCache", "_CacheLocator"},
    "numba.core.runtime": {"_nrt_python"},
}
PUBLIC_CORE = {"cgutils", "types"}  # of numba.core; documented for extensions
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


def test_dispatcher_cache_attribute():
    """Gone: `set_cache` has no effect, so every process compiles for 10 seconds.

    Look in numba/core/dispatcher.py, `Dispatcher.enable_caching`, for the attribute's new name.
    """
    assert isinstance(double._cache, caching.NullCache)


@pytest.mark.parametrize("name", ["load_overload", "save_overload"])
def test_cache_methods_that_the_dispatcher_calls(name):
    """Gone: look in numba/core/dispatcher.py, `Dispatcher.compile`, for the methods it calls."""
    parameters = list(inspect.signature(getattr(caching.NullCache, name)).parameters)
    assert parameters[:2] == ["self", "sig"] and len(parameters) == 3
    assert f"self._cache.{name}(" in inspect.getsource(dispatcher)


@pytest.mark.parametrize("name", ["_load_overload", "flush", "save_overload"])
def test_cache_methods_that_folder_cache_calls(name):
    """Gone: without `_load_overload`, call super().load_overload, which is slower to import.

    Without the others, write a cache of one pickle per function: numba/core/caching.py shows what
    the compile result's `_reduce` and `_rebuild` need.
    """
    assert callable(getattr(caching.Cache, name))


def test_cache_implementation_is_found_by_class_attributes():
    """Gone: `FolderCache` writes beside the sources, not into its folder.

    Look in numba/core/caching.py for how `Cache.__init__` makes its `_impl`, and how that chooses
    a locator.
    """
    assert caching.Cache._impl_class is None
    assert isinstance(caching.CompileResultCacheImpl._locator_classes, list)


@pytest.mark.parametrize(
    "name", ["get_cache_path", "get_source_stamp", "get_disambiguator", "from_function"]
)
def test_locator_methods(name):
    """Gone, or joined by others: adapt `_Locator`, which must only give the folder of the files."""
    assert callable(getattr(caching._CacheLocator, name))
    assert caching._CacheLocator.__abstractmethods__ <= set(vars(numba_internals._Locator))


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
