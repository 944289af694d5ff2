"""A whole product, tile by tile, as one piece of machine code that all other kernels call.

What compiled functions call is otherwise compiled once more into each of them; of a dozen copies of
the tile's loops a first run would be the slower by half.
"""

import functools

import llvmlite.binding
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..jit import SYMBOL_LOADERS, kernel
from .bfloat16 import PAIR
from .microkernel import MR, NR, multiply_tile, panels_per_tile

KC = 256  # rows of a panel in use at once: with its part of `a` they stay in the first cache


@intrinsic
def multiply(
    typing_context, a, a_at, a_row, a_col, b, b_panel, c, c_at, c_row, depth, rows, panels
):
    """c[rows, 16 * panels] += a[rows, depth] @ b[depth, 16 * panels].

    Arguments are as the tile's, but `a`, `b`, `c` are contiguous arrays of any dimensions, whose
    memory alone counts, and rows and panels are any number.
    """
    if not a.is_c_contig or not b.is_c_contig or not c.is_c_contig:
        return None  # no such function: a typing error
    n = types.intp
    signature = types.void(a, n, n, n, b, n, c, n, n, n, n, n)

    def generate(context, builder, signature, args):
        element = signature.args[0].dtype
        _provide(element)
        args = list(args)
        for i in (0, 4, 6):
            array = context.make_array(signature.args[i])(context, builder, args[i])
            args[i] = array.data
        arg_types = _signature(element)
        call = context.call_conv
        function_type = call.get_function_type(types.none, arg_types)
        function = cgutils.get_or_insert_function(builder.module, function_type, _name(element))
        call.call_function(builder, function, types.none, arg_types, args)
        return context.get_dummy_value()

    return signature, generate


@functools.cache
def _provide(element):
    """Compile `_multiply` for elements of a type, or load it, and tell LLVM where it is."""
    _multiply.compile(_signature(element))
    result = _multiply.overloads[_signature(element)]
    address = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    llvmlite.binding.add_symbol(_name(element), address)


def _provide_float32():
    _provide(types.float32)


def _provide_float64():
    _provide(types.float64)


def _name(element):
    return f"charrnn_multiply_{element}"


def _provide_pairs():
    _provide(PAIR)


SYMBOL_LOADERS.update(
    {
        _name(types.float32): _provide_float32,
        _name(types.float64): _provide_float64,
        _name(PAIR): _provide_pairs,
    }
)


def _signature(element):
    p, n = types.CPointer(element), types.intp
    c = types.CPointer(types.float32) if element == PAIR else p
    return p, n, n, n, p, n, c, n, n, n, n, n


@kernel
def _multiply(a, a_at, a_row, a_col, b, b_panel, c, c_at, c_row, depth, rows, panels):
    """Rows are spread evenly over tiles; the depth is taken in blocks, from first to last."""
    tiles = (rows + MR - 1) // MR
    if tiles == 0:
        return
    least, more = rows // tiles, rows % tiles
    b_at = 0
    while depth > 0:
        block = min(depth, KC)
        p = 0
        while p < panels:
            wide = panels_per_tile(least + (1 if more else 0))
            if p + wide > panels:
                wide = 1
            i = 0
            for t in range(tiles):
                height = least + (1 if t < more else 0)
                multiply_tile(
                    height, wide, a, a_at + i * a_row, a_row, a_col, b, b_at + p * b_panel, b_panel,
                    c, c_at + i * c_row + p * NR, c_row, block,
                )  # fmt: skip
                i += height
            p += wide
        a_at += block * a_col
        b_at += block * NR
        depth -= block
