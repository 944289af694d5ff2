"""Sums and the maximum of a row whose bits do not depend on the processor.

Element k is added to lane k % 16, in order of k, and at the end the upper half of the lanes to the
lower half until one is left. LLVM splits 16 lanes into as many registers as they need; it would
vectorise a loop of Numba only if allowed to sum in as many lanes as a register has.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16


@intrinsic
def sum_lanes(typing_context, x):
    """The sum of x (n,)."""
    return _reduction(x, x.dtype, 0.0, lambda builder, value: value, ir.IRBuilder.fadd)


@intrinsic
def sum_squares(typing_context, x):
    """The sum of the squares of x (n,), in float64."""
    return _reduction(x, types.float64, 0.0, _square, ir.IRBuilder.fadd)


@intrinsic
def largest(typing_context, x):
    """The largest element of x (n,), but for NaN; -inf if there is none."""
    return _reduction(x, x.dtype, float("-inf"), lambda builder, value: value, _larger)


def _square(builder, value):
    """Emit the square in float64; that of a float32 is exact."""
    kind = ir.VectorType(ir.DoubleType(), LANES) if _is_vector(value) else ir.DoubleType()
    value = value if value.type == kind else builder.fpext(value, kind)
    return builder.fmul(value, value)


def _larger(builder, total, value):
    return builder.select(builder.fcmp_ordered(">", value, total), value, total)


def _is_vector(value):
    return isinstance(value.type, ir.VectorType)


def _reduction(x, result, start, term, combine):
    """The signature and the code generator of a function of an array x that returns `result`.

    Each lane begins with `start` and is combined with the terms of its elements.
    """
    if not isinstance(x, types.Array) or not x.is_c_contig:
        return None

    def generate(context, builder, signature, args):
        array = context.make_array(x)(context, builder, args[0])
        element, total = context.get_value_type(x.dtype), context.get_value_type(result)
        vector, lanes = ir.VectorType(element, LANES), ir.VectorType(total, LANES)
        count = builder.extract_value(array.shape, 0)
        whole = builder.and_(count, ir.Constant(count.type, -LANES))
        totals = cgutils.alloca_once_value(builder, ir.Constant(lanes, [start] * LANES))

        def add(source, target):
            value = builder.load(source)
            value.align = x.dtype.bitwidth // 8
            builder.store(combine(builder, builder.load(target), term(builder, value)), target)

        zero, step = ir.Constant(count.type, 0), ir.Constant(count.type, LANES)
        with cgutils.for_range_slice(builder, zero, whole, step) as (k, _):
            add(builder.bitcast(builder.gep(array.data, [k]), vector.as_pointer()), totals)
        first = builder.bitcast(totals, total.as_pointer())
        with cgutils.for_range(builder, builder.sub(count, whole)) as loop:
            source = builder.gep(array.data, [builder.add(whole, loop.index)])
            add(source, builder.gep(first, [loop.index]))
        return _folded(builder, builder.load(totals), combine)

    return result(x), generate


def _folded(builder, lanes, combine):
    """Emit the combination of all lanes, by halves."""
    half = LANES // 2
    while half:
        undefined = ir.Constant(lanes.type, ir.Undefined)
        low, high = (
            ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(i, i + half)))
            for i in (0, half)
        )
        lanes = combine(
            builder,
            builder.shuffle_vector(lanes, undefined, low),
            builder.shuffle_vector(lanes, undefined, high),
        )
        half //= 2
    return builder.extract_element(lanes, ir.Constant(ir.IntType(32), 0))
