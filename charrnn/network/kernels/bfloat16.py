"""bfloat16: float32 rounded to its upper half, two of them in one 32-bit element, a pair.

A product over depth K becomes one over K / 2 pairs; each pair adds two products to a float32 sum.
The microkernel and the packing treat a pair as one uint32 element, in place of a float.

The processor's instruction (AVX-512 BF16: VDPBF16PS) treats denormal numbers as zero and flushes
denormal sums. Apart from that, the portable version, for tests on other processors, does what Intel
documents: it multiplies and adds the second of each pair first and rounds each sum to nearest even.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from ..jit import BFLOAT16, OPTIONS, jit

PAIR = types.uint32
UPPER = 0xFFFF0000
TWO_ONES = 0x3F803F80


def is_pairs(array):
    """Whether an array holds pairs; in compiled code this is a constant."""
    return array.dtype == np.uint32


@overload(is_pairs, jit_options=OPTIONS)
def _is_pairs(array):
    return (lambda array: True) if array.dtype == PAIR else (lambda array: False)


def operand(a, a_at, a_row, rows, b):
    """Return rows of `a` as `multiply` needs them for panels `b`: (array, offset, row stride).

    The rows start at element `a_at` and are `a_row` elements apart. The array is `a` itself or, if
    the panels hold pairs, a rounded copy of the rows.
    """
    return a, a_at, a_row


@overload(operand, jit_options=OPTIONS)
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
    """Emit the rounding of two vectors of float32 to one vector of pairs."""
    low, high = _rounded(builder, low), _rounded(builder, high)
    upper = builder.and_(high, _like(high, UPPER))
    return builder.or_(builder.lshr(low, _like(low, 16)), upper)


def _rounded(builder, value):
    """Emit rounding to nearest even; the upper half of each 32-bit result is the bfloat16.

    `value` is a float32 or a vector of them. The carry of the addition may rightly reach the
    exponent. A NaN is treated apart, since the addition could turn it into a number.
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
    """Emit total + the two products of each pair of a and b.

    a, b: vectors of pairs; total: a vector of float32; multiply_add: the function for float32.
    """
    if BFLOAT16:
        # This is the signature of LLVM 15; later versions, with a bfloat16 type, translate it.
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
    """A constant of the type of `value`; every element is `number`."""
    if isinstance(value.type, ir.VectorType):
        return ir.Constant(value.type, [number] * value.type.count)
    return ir.Constant(value.type, number)
