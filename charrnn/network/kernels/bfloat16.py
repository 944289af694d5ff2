"""bfloat16: float32 rounded to its upper half, two of them side by side in 32 bits.

A product over depth K becomes one over K / 2 pairs, each adding two products to a float32 sum. To
the tile and to packing a pair is one element, of type uint32, where else there is a float.

The processor's instruction (AVX-512 BF16: VDPBF16PS) takes denormal numbers for zero and flushes
denormal sums. Apart from that the portable version, for tests on other processors, does what Intel
describes: the second of each pair is multiplied and added first, each sum rounded to nearest even.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from ..jit import BFLOAT16, OVERLOADED, jit

PAIR = types.uint32
UPPER = 0xFFFF0000
TWO_ONES = 0x3F803F80


def is_pairs(array):
    """Whether an array holds pairs: a constant in compiled code."""
    return array.dtype == np.uint32


@overload(is_pairs, jit_options=OVERLOADED)
def _is_pairs(array):
    return (lambda array: True) if array.dtype == PAIR else (lambda array: False)


def operand(a, a_at, a_row, rows, b):
    """What `multiply` takes for rows of `a` before panels `b`: (array, offset, stride of rows).

    That is `a` itself or, where the panels hold pairs, a rounded copy of those rows.
    """
    return a, a_at, a_row


@overload(operand, jit_options=OVERLOADED)
def _operand(a, a_at, a_row, rows, b):
    if b.dtype != PAIR:
        return lambda a, a_at, a_row, rows, b: (a, a_at, a_row)

    def rounded(a, a_at, a_row, rows, b):
        flat, depth = a.reshape(-1), 2 * b.shape[1]
        pairs = np.empty(rows * b.shape[1], np.uint32)
        halves = pairs.view(np.uint16)
        for i in range(rows):
            start = a_at + i * a_row
            _round(flat[start : start + depth], halves[i * depth : (i + 1) * depth])
        return pairs, 0, b.shape[1]

    return rounded


@jit
def _round(source, target):
    for k in range(target.size):
        target[k] = to_bfloat16(source[k])


@intrinsic
def to_bfloat16(typing_context, x):
    """The 16 bits of a float32 rounded to bfloat16."""
    if x != types.float32:
        return None

    def generate(context, builder, signature, args):
        rounded = _rounded(builder, args[0])
        return builder.trunc(builder.lshr(rounded, _like(rounded, 16)), ir.IntType(16))

    return types.uint16(x), generate


def paired(builder, low, high):
    """Vectors of float32 as pairs."""
    low, high = _rounded(builder, low), _rounded(builder, high)
    upper = builder.and_(high, _like(high, UPPER))
    return builder.or_(builder.lshr(low, _like(low, 16)), upper)


def _rounded(builder, value):
    """The bits of float32, one or a vector, rounded to nearest even: the upper half of each counts.

    The carry of a rounding may reach the exponent, as it should; a NaN must not become a number.
    """
    integer = ir.IntType(32)
    if isinstance(value.type, ir.VectorType):
        integer = ir.VectorType(integer, value.type.count)
    bits = builder.bitcast(value, integer)
    odd = builder.and_(builder.lshr(bits, _like(bits, 16)), _like(bits, 1))
    nearest = builder.add(bits, builder.add(odd, _like(bits, 0x7FFF)))
    quiet = builder.or_(bits, _like(bits, 0x400000))
    return builder.select(builder.fcmp_unordered("uno", value, value), quiet, nearest)


def dot(builder, multiply_add, a, b, total):
    """total + the two products of each pair, vectors; `multiply_add` is that of float32."""
    if BFLOAT16:
        # The signature of LLVM 15; later ones, which have a type for bfloat16, translate it.
        name, kinds = "llvm.x86.avx512bf16.dpbf16ps.512", [total.type, a.type, b.type]
        function = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(total.type, kinds), name
        )
        return builder.call(function, [total, a, b])
    for half in _upper, _lower:
        x, y = (builder.bitcast(half(builder, v), total.type) for v in (a, b))
        total = builder.call(multiply_add, [x, y, total])
    return total


def _upper(builder, pairs):
    return builder.and_(pairs, _like(pairs, UPPER))


def _lower(builder, pairs):
    return builder.shl(pairs, _like(pairs, 16))


def _like(value, number):
    """A constant of the type of `value`, whose every element is `number`."""
    if isinstance(value.type, ir.VectorType):
        return ir.Constant(value.type, [number] * value.type.count)
    return ir.Constant(value.type, number)
