"""The microkernel: a tile of a matrix product held in registers, as hand-written vector code.

NumPy's BLAS and Numba's loops reach half of a core's multiply-add peak at the sizes of a small RNN;
this tile reaches nearly all of it. The second operand is packed in panels of 16 columns, whose rows
are a cache line of float32, so it is read sequentially. (Goto & van de Geijn 2008, "Anatomy of
high-performance matrix multiplication"; BLIS uses the same names NR, MR, KC.)
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..jit import VECTOR_BYTES, jit
from .bfloat16 import PAIR, dot, paired
from .fma import fma_function

NR = 16  # columns of a panel, on any processor: the packed layout is the same everywhere
MR = 6  # rows of a tile, at most

# PANELS[rows - 1]: how many neighbouring panels a tile of `rows` rows takes at once. More sums are
# faster, since each waits for its last addition, but they share the registers with b and with an
# element of a.
_REGISTERS = 32 if VECTOR_BYTES == 64 else 16
_VECTORS = NR * 4 // VECTOR_BYTES
PANELS = tuple(
    max(p for p in (1, 2, 4) if p == 1 or (rows + 1) * p * _VECTORS < _REGISTERS)
    for rows in range(1, MR + 1)
)


@jit
def panels_per_tile(rows):
    """The number of panels that a tile of `rows` rows takes at once."""
    return PANELS[rows - 1]


@intrinsic
def multiply_tile(
    typing_context, rows, panels, a, a_at, a_row, a_col, b, b_at, b_panel, c, c_at, c_row, depth
):
    """c[rows, 16 * panels] += a[rows, depth] @ b[depth, 16 * panels].

    rows: 1 to MR. panels: 1 or panels_per_tile(rows). This is a switch between all such tiles.
    a, b, c: pointers to elements of one type, or `a` and `b` to pairs and `c` to float32.
    a_at, b_at, c_at: the offsets of their first elements; this and all distances are in elements.
    a_row, a_col: the strides of `a`. b_panel: the distance between panels. c_row: the distance
    between rows of `c`. depth: at least 1.

    Every element of c is summed over the depth in order, so it does not depend on how the rows are
    split into tiles.
    """
    n = types.intp
    signature = types.void(n, n, a, n, n, n, b, n, n, c, n, n, n)

    def generate(context, builder, signature, args):
        rows, panels, *operands = args
        kinds = [(r, p) for r in range(1, MR + 1) for p in sorted({1, PANELS[r - 1]})]
        done = builder.append_basic_block("done")
        key = builder.add(builder.mul(rows, _number(8)), panels)
        switch = builder.switch(key, done)
        for num_rows, num_panels in kinds:
            block = builder.append_basic_block(f"tile_{num_rows}_{num_panels}")
            switch.add_case(_number(8 * num_rows + num_panels), block)
            builder.position_at_end(block)
            _tile(context, builder, signature.args[2:], operands, num_rows, num_panels)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, generate


def _number(value):
    return ir.Constant(ir.IntType(64), value)


def _tile(context, builder, arg_types, args, num_rows, num_panels):
    """Emit one tile: load the sums, add over the depth, store them."""
    a, a_at, a_row, a_col, b, b_at, b_panel, c, c_at, c_row, depth = args
    size = arg_types[0].dtype.bitwidth // 8
    lanes = VECTOR_BYTES // size
    vector = ir.VectorType(context.get_value_type(arg_types[0].dtype), lanes)
    sum_vector = ir.VectorType(context.get_value_type(arg_types[7].dtype), lanes)
    multiply_add = fma_function(builder.module, sum_vector)

    def add_product(a, b, total):
        if arg_types[0].dtype == PAIR:
            return dot(builder, multiply_add, a, b, total)
        return builder.call(multiply_add, [a, b, total])

    a_rows = _offsets(builder, builder.gep(a, [a_at]), a_row, num_rows)
    b_panels = _offsets(builder, builder.gep(b, [b_at]), b_panel, num_panels)
    c_start = builder.gep(c, [c_at])
    outputs = [
        builder.gep(c_start, [builder.add(builder.mul(_number(i), c_row), _number(j))])
        for i in range(num_rows)
        for j in range(0, NR * num_panels, lanes)
    ]
    initial = [_load(builder, pointer, sum_vector, size) for pointer in outputs]

    def add_products(k, sums):
        """One turn of the loop: sums + column k of a times row k of b."""
        line = builder.mul(k, _number(NR))
        b_values = [
            _load(builder, builder.gep(panel, [builder.add(line, _number(j))]), vector, size)
            for panel in b_panels
            for j in range(0, NR, lanes)
        ]
        column = builder.mul(k, a_col)
        results = []
        for i, row in enumerate(a_rows):
            value = _splat(builder, builder.load(builder.gep(row, [column])), vector)
            for j, b_value in enumerate(b_values):
                results.append(add_product(value, b_value, sums[i * len(b_values) + j]))
        return results

    results = _loop(builder, depth, initial, add_products)
    for pointer, value in zip(outputs, results, strict=True):
        builder.store(value, builder.bitcast(pointer, sum_vector.as_pointer())).align = size


def _loop(builder, count, initial, body):
    """Emit values = initial, then values = body(k, values) for k in range(count); returns them.

    The values are LLVM vectors, held in registers; count is at least 1.
    """
    before = builder.block
    loop, after = builder.append_basic_block("depth"), builder.append_basic_block("store")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(ir.IntType(64))
    k.add_incoming(_number(0), before)
    values = [builder.phi(value.type) for value in initial]
    for phi, value in zip(values, initial, strict=True):
        phi.add_incoming(value, before)
    results = body(k, values)
    following = builder.add(k, _number(1))
    k.add_incoming(following, loop)
    for phi, value in zip(values, results, strict=True):
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return results


def _offsets(builder, start, stride, count):
    """Pointers to start, start + stride, ...: `count` of them."""
    return [builder.gep(start, [builder.mul(_number(i), stride)]) for i in range(count)]


def _load(builder, pointer, vector, align):
    """A vector from memory that is aligned to `align` bytes."""
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.align = align
    return value


def _splat(builder, scalar, vector):
    """A vector whose every element is the scalar."""
    undefined = ir.Constant(vector, ir.Undefined)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, mask)


@intrinsic
def copy_rows(typing_context, source, source_at, source_row, target, target_at, target_row, count):
    """target[k] = source[k] for `count` rows of 16 elements.

    Both are contiguous arrays; the rows start at elements `source_at` and `target_at` and are
    `source_row` and `target_row` elements apart. A target of pairs gets rows 2k and 2k + 1 of a
    float32 source as its row k, the last one with zeros if the count is odd; the two may be the
    same memory.

    It is written in LLVM because LLVM unrolls short loops of known length into single elements.
    """
    pairs = (source.dtype, target.dtype) == (types.float32, PAIR)
    if not source.is_c_contig or not target.is_c_contig:
        return None
    if not pairs and source.dtype != target.dtype:
        return None
    n = types.intp
    signature = types.void(source, n, n, target, n, n, n)

    def generate(context, builder, signature, args):
        source, source_at, source_row, target, target_at, target_row, count = args
        element = context.get_value_type(signature.args[0].dtype)
        size = signature.args[0].dtype.bitwidth // 8
        lanes = VECTOR_BYTES // size
        vector = ir.VectorType(element, lanes)

        def row(array_type, array, start, stride, k):
            data = context.make_array(array_type)(context, builder, array).data
            return builder.gep(data, [builder.add(start, builder.mul(k, stride))])

        def load(k, j):
            origin = row(signature.args[0], source, source_at, source_row, k)
            return _load(builder, builder.gep(origin, [_number(j)]), vector, size)

        def load_pairs(k, j):
            first = builder.mul(k, _number(2))
            second = builder.add(first, _number(1))
            alone = builder.icmp_signed("==", second, count)
            high = load(builder.select(alone, first, second), j)
            high = builder.select(alone, ir.Constant(vector, [0.0] * lanes), high)
            return paired(builder, load(first, j), high)

        rows = builder.sdiv(builder.add(count, _number(1)), _number(2)) if pairs else count
        with cgutils.for_range(builder, rows) as loop:
            goal = row(signature.args[3], target, target_at, target_row, loop.index)
            for j in range(0, NR, lanes):
                value = (load_pairs if pairs else load)(loop.index, j)
                pointer = builder.bitcast(builder.gep(goal, [_number(j)]), value.type.as_pointer())
                builder.store(value, pointer).align = size
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def transpose_rows(typing_context, source, source_at, source_row, target, target_at, count):
    """target[k, n] = source[n, k] for 16 rows n of `count` elements, a multiple of 16.

    The arguments are as for `copy_rows`; the rows of the target are 16 elements, end to end.
    """
    if not source.is_c_contig or not target.is_c_contig:
        return None
    n = types.intp
    signature = types.void(source, n, n, target, n, n)

    def generate(context, builder, signature, args):
        source, source_at, source_row, target, target_at, count = args
        element = context.get_value_type(signature.args[0].dtype)
        size = signature.args[0].dtype.bitwidth // 8
        lanes = VECTOR_BYTES // size
        vector = ir.VectorType(element, lanes)
        origin = context.make_array(signature.args[0])(context, builder, source).data
        goal = context.make_array(signature.args[3])(context, builder, target).data
        step = ir.Constant(count.type, lanes)
        with cgutils.for_range_slice(builder, _number(0), count, step) as (k, _):
            for first in range(0, NR, lanes):
                rows = []
                for i in range(first, first + lanes):
                    place = builder.add(k, builder.mul(_number(i), source_row))
                    pointer = builder.gep(origin, [builder.add(source_at, place)])
                    rows.append(_load(builder, pointer, vector, size))
                for i, column in enumerate(_transposed(builder, rows)):
                    line = builder.mul(builder.add(k, _number(i)), _number(NR))
                    place = builder.add(line, _number(first))
                    pointer = builder.gep(goal, [builder.add(target_at, place)])
                    pointer = builder.bitcast(pointer, vector.as_pointer())
                    builder.store(column, pointer).align = size
        return context.get_dummy_value()

    return signature, generate


def _transposed(builder, rows):
    """Emit the transpose of a square of vectors, one bit of the indices at a time."""
    lanes = len(rows)
    bit = 1
    while bit < lanes:
        low = [j + lanes - bit if j & bit else j for j in range(lanes)]
        high = [j + lanes if j & bit else j + bit for j in range(lanes)]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), m) for m in (low, high)]
        for i in range(lanes):
            if not i & bit:
                pair = rows[i], rows[i | bit]
                rows[i], rows[i | bit] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        bit *= 2
    return rows
