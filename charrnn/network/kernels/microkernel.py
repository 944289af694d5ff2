"""The one piece of hand-made vector code: a tile of a matrix product, kept in registers.

NumPy's BLAS and Numba's loops reach half of a core's multiply-add peak at the sizes of a small RNN;
this tile reaches nearly all of it. The second operand comes packed in panels of 16 columns, a cache
line of float32 a row, so that it is read in one sweep. (Goto & van de Geijn 2008, "Anatomy of
high-performance matrix multiplication".)
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..jit import VECTOR_BYTES, jit
from .bfloat16 import PAIR, dot, paired

NR = 16  # columns a panel, whatever the processor: the packed layout is the same everywhere

MR = 6  # of a tile

# How many neighbouring panels a tile of so many rows takes at once: the more sums the better, since
# each must wait for its last addition; but they share the registers with b and an element of a.
_REGISTERS = 32 if VECTOR_BYTES == 64 else 16
_VECTORS = NR * 4 // VECTOR_BYTES
PANELS = tuple(
    max(p for p in (1, 2, 4) if p == 1 or (rows + 1) * p * _VECTORS < _REGISTERS)
    for rows in range(1, MR + 1)
)


@jit
def panels_per_tile(rows):
    return PANELS[rows - 1]


@intrinsic
def multiply_tile(
    typing_context, rows, panels, a, a_at, a_row, a_col, b, b_at, b_panel, c, c_at, c_row, depth
):
    """c[rows, 16 * panels] += a[rows, depth] @ b[depth, 16 * panels].

    rows is 1 to 6, panels 1 or panels_at_once(rows): a switch between as many compiled tiles.
    `a`, `b`, `c` point to elements of one type, or `a` and `b` to pairs and `c` to float32;
    `a_at`, `b_at`, `c_at` are the offsets of the first element, `a_row` and `a_col` the strides of
    `a` in elements, `b_panel` the distance between panels, `c_row` the stride of the rows of `c`;
    depth >= 1.
    Every element of c is summed over the depth in order, so that it does not depend on how rows
    are dealt to tiles.
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

    def load(pointer, vector):
        value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
        value.align = size
        return value

    def splat(scalar):
        undefined = ir.Constant(vector, ir.Undefined)
        mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, undefined, mask)

    # declare_intrinsic knows no vector types, so the function is declared by hand.
    name = f"llvm.fmuladd.v{lanes}f{8 * size}"
    multiply_add = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(sum_vector, [sum_vector] * 3), name
    )

    def add_product(a, b, total):
        if arg_types[0].dtype == PAIR:
            return dot(builder, multiply_add, a, b, total)
        return builder.call(multiply_add, [a, b, total])

    a_start = builder.gep(a, [a_at])
    a_rows = [builder.gep(a_start, [builder.mul(_number(i), a_row)]) for i in range(num_rows)]
    b_start = builder.gep(b, [b_at])
    b_panels = [builder.gep(b_start, [builder.mul(_number(p), b_panel)]) for p in range(num_panels)]
    c_start = builder.gep(c, [c_at])
    outputs = [
        builder.gep(c_start, [builder.add(builder.mul(_number(i), c_row), _number(j))])
        for i in range(num_rows)
        for j in range(0, NR * num_panels, lanes)
    ]

    before = builder.block
    initial = [load(pointer, sum_vector) for pointer in outputs]
    loop, after = builder.append_basic_block("depth"), builder.append_basic_block("store")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(ir.IntType(64))
    k.add_incoming(_number(0), before)
    sums = [builder.phi(sum_vector) for _ in outputs]
    for phi, value in zip(sums, initial, strict=True):
        phi.add_incoming(value, before)
    line = builder.mul(k, _number(NR))
    b_values = [
        load(builder.gep(panel, [builder.add(line, _number(j))]), vector)
        for panel in b_panels
        for j in range(0, NR, lanes)
    ]
    column = builder.mul(k, a_col)
    results = []
    for i, row in enumerate(a_rows):
        value = splat(builder.load(builder.gep(row, [column])))
        for j, b_value in enumerate(b_values):
            addend = sums[i * len(b_values) + j]
            results.append(add_product(value, b_value, addend))
    following = builder.add(k, _number(1))
    k.add_incoming(following, loop)
    for phi, value in zip(sums, results, strict=True):
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    for pointer, value in zip(outputs, results, strict=True):
        builder.store(value, builder.bitcast(pointer, sum_vector.as_pointer())).align = size


@intrinsic
def copy_rows(typing_context, source, source_at, source_row, target, target_at, target_row, count):
    """target[k] = source[k] for `count` rows of 16 elements; arguments as the tile's, of arrays.

    A target of pairs gets rows 2k and 2k + 1 of a float32 source as its row k; it may be the same
    memory. An odd row out has zeros beside it.
    Written by hand because loops of so few known turns are unrolled into single elements.
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
            pointer = builder.bitcast(builder.gep(origin, [_number(j)]), vector.as_pointer())
            value = builder.load(pointer)
            value.align = size
            return value

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

    Arguments as those of copy_rows; the rows of the target are 16 elements, one after the other.
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
        vector = ir.VectorType(element, lanes).as_pointer()
        origin = context.make_array(signature.args[0])(context, builder, source).data
        goal = context.make_array(signature.args[3])(context, builder, target).data
        step = ir.Constant(count.type, lanes)
        with cgutils.for_range_slice(builder, _number(0), count, step) as (k, _):
            for first in range(0, NR, lanes):
                rows = []
                for i in range(first, first + lanes):
                    place = builder.add(k, builder.mul(_number(i), source_row))
                    pointer = builder.gep(origin, [builder.add(source_at, place)])
                    rows.append(builder.load(builder.bitcast(pointer, vector)))
                    rows[-1].align = size
                for i, column in enumerate(_transposed(builder, rows)):
                    line = builder.mul(builder.add(k, _number(i)), _number(NR))
                    place = builder.add(line, _number(first))
                    pointer = builder.gep(goal, [builder.add(target_at, place)])
                    builder.store(column, builder.bitcast(pointer, vector)).align = size
        return context.get_dummy_value()

    return signature, generate


def _transposed(builder, rows):
    """The transpose of a square of vectors, a bit of the indices at a time."""
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
