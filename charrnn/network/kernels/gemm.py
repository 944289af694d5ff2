"""A whole matrix product, tile by tile, as one compiled function that the other kernels call.

Numba compiles callees into every caller. A dozen copies of the microkernel would make the first
run 1.5 times slower, so the callers are linked to one copy by name.
"""

import functools

import llvmlite.binding
from numba import types
from numba.extending import intrinsic

from ..jit import SYMBOL_LOADERS, kernel
from ..numba_internals import call_by_name, function_address
from .bfloat16 import PAIR
from .microkernel import MR, NR, multiply_tile, panels_per_tile

KC = 256  # depth taken at once: these rows of a panel and their part of `a` stay in the L1 cache


@intrinsic
def multiply(
    typing_context, a, a_at, a_row, a_col, b, b_panel, c, c_at, c_row, depth, rows, panels
):
    """c[rows, 16 * panels] += a[rows, depth] @ b[depth, 16 * panels].

    The arguments are as for `multiply_tile`, but `a`, `b`, `c` are contiguous arrays, whose shapes
    do not matter, and rows and panels may be any number.
    """
    if not a.is_c_contig or not b.is_c_contig or not c.is_c_contig:
        return None  # Numba then raises a typing error
    n = types.intp
    signature = types.void(a, n, n, n, b, n, c, n, n, n, n, n)

    def generate(context, builder, signature, args):
        element = signature.args[0].dtype
        _link(element)
        args = list(args)
        for i in (0, 4, 6):
            array = context.make_array(signature.args[i])(context, builder, args[i])
            args[i] = array.data
        call_by_name(context, builder, _name(element), _signature(element), args)
        return context.get_dummy_value()

    return signature, generate


@functools.cache
def _link(element):
    """Compile `_multiply` for elements of a type, or load it, and tell LLVM its address."""
    address = function_address(_multiply, _signature(element))
    llvmlite.binding.add_symbol(_name(element), address)


def _name(element):
    return f"charrnn_multiply_{element}"


# Cached code stores a reference to one of these three, by its module and name.


def _link_float32():
    _link(types.float32)


def _link_float64():
    _link(types.float64)


def _link_pairs():
    _link(PAIR)


SYMBOL_LOADERS.update(
    {
        _name(types.float32): _link_float32,
        _name(types.float64): _link_float64,
        _name(PAIR): _link_pairs,
    }
)


def _signature(element):
    p, n = types.CPointer(element), types.intp
    c = types.CPointer(types.float32) if element == PAIR else p
    return p, n, n, n, p, n, c, n, n, n, n, n


@kernel
def _multiply(a, a_at, a_row, a_col, b, b_panel, c, c_at, c_row, depth, rows, panels):
    """Spread the rows evenly over tiles; take the depth in blocks of KC, in order."""
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
