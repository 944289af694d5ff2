"""Kernels on n-grams: finding their table rows, and the gradients of the rows a chunk has used.

The rows of the input table are numbered: id i has row i, n-gram k has row V + k.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..jit import VECTOR_BYTES, jit, kernel
from .microkernel import NR

PANELS = 4 if VECTOR_BYTES == 64 else 2  # panels whose sums fit into the registers
EMPTY = -1  # a slot without a key
MIXER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio (Knuth, TAOCP 6.4)


@jit
def _slot(key, keys):
    """The slot of `key`, or the empty slot where it belongs. keys (2^k,), never full."""
    mask = keys.size - 1
    slot = np.int64((np.uint64(key) * MIXER) >> np.uint64(32)) & mask
    while keys[slot] != key and keys[slot] != EMPTY:
        slot = (slot + 1) & mask
    return slot


@kernel
def insert(new, first_row, keys, rows):
    """Map the keys `new` (n,) to consecutive rows from `first_row` on."""
    for i in range(new.size):
        slot = _slot(new[i], keys)
        keys[slot], rows[slot] = new[i], first_row + i


@jit
def _row_of(prefix_row, i, vocab_size, keys, rows):
    """The row of an n-gram: the one at `prefix_row` followed by id `i`; -1 if it is not known."""
    if prefix_row < 0 or i < 0:
        return np.int32(-1)
    key = np.int64(prefix_row) * vocab_size + i
    slot = _slot(key, keys)
    return rows[slot] if keys[slot] == key else np.int32(-1)


@kernel
def find_rows(ids, vocab_size, keys, rows, found, steps, first, last):
    """found[t, b, n - 2] = the row of the n-gram that ends at step t of row b, or -1 if unknown.

    ids (N - 1 + T, B) are those of the N - 1 steps before and then those of the T steps; -1 before
    a text. found (T, B, N - 1), `first:last` are the rows of this call.
    """
    before = found.shape[2]
    current = np.empty(before + 1, np.int32)  # the rows of the 1, 2, ..., N ids that end here
    for b in range(first, last):
        current[:] = -1
        for t in range(-before, steps):
            i = ids[before + t, b]
            for n in range(before, 0, -1):
                current[n] = _row_of(current[n - 1], i, vocab_size, keys, rows)
            current[0] = i
            if t >= 0:
                for n in range(before):
                    found[t, b, n] = current[n + 1]


@kernel
def group_places(found, vocab_size, group_of, used, starts, places, steps):
    """Group the places of `found` (T, B, N - 1) by row; returns the number of different rows.

    used[u] is the n-gram, counted from 0, of group u in the order of first occurrence. Its places,
    numbered t * B + b, are places[starts[u]:starts[u + 1]] in order. group_of (K,) holds -1 and
    holds it again afterwards.
    """
    flat = found[:steps].reshape(-1)
    count = 0
    for row in flat:
        if row >= 0:
            k = row - vocab_size
            if group_of[k] < 0:
                group_of[k], used[count], starts[count + 1] = count, k, 0
                count += 1
            starts[group_of[k] + 1] += 1
    starts[0] = 0
    for u in range(count):
        starts[u + 1] += starts[u]
    for p in range(flat.size):
        if flat[p] >= 0:
            u = group_of[flat[p] - vocab_size]
            places[starts[u]] = p // found.shape[2]
            starts[u] += 1
    for u in range(count, 0, -1):
        starts[u] = starts[u - 1]
    starts[0] = 0
    for u in range(count):
        group_of[used[u]] = -1
    return count


@kernel
def row_gradient(starts, places, count, dz, planes, out, squares, first, last):
    """out[u, g] = the sum of dz[t, planes[g], b] over the places (t, b) of group u < `count`.

    squares[g] = the sum over u of the squares of out[u, g]. dz (T, P, B, N), planes (G,), out
    (U, G, N), squares (G, N) float64. `first:last` are the panels of this call, numbered through
    all gates.
    """
    rows, width = dz.shape[2], dz.shape[3]
    offsets = np.empty(starts[count], np.int64)  # of dz[t, 0, b] in dz
    for i in range(offsets.size):
        t, b = places[i] // rows, places[i] % rows
        offsets[i] = (t * dz.shape[1] * rows + b) * width
    panels, p = width // NR, first
    while p < last:
        g, column = p // panels, p % panels * NR
        wide = min(last - p, panels - p % panels) >= PANELS
        at, to = planes[g] * rows * width + column, g * width + column
        _sum_places(starts, offsets, count, dz, at, out, to, out.shape[1] * width, squares, wide)
        p += PANELS if wide else 1


@intrinsic
def _sum_places(typing_context, starts, offsets, count, dz, at, out, to, row, squares, wide):
    """`row_gradient` for one panel, or for PANELS of them if `wide`.

    They start at elements `at` of dz, from which `offsets` count, and `to` of out and squares; a
    row of out has `row` elements. It is written in LLVM so that the sums stay in registers.
    """
    if not all(array.is_c_contig for array in (starts, offsets, dz, out, squares)):
        return None
    n = types.intp
    signature = types.void(starts, offsets, n, dz, n, out, n, n, squares, types.boolean)

    def generate(context, builder, signature, args):
        starts, offsets, count, dz, at, out, to, row, squares, wide = (
            context.make_array(kind)(context, builder, arg).data
            if isinstance(kind, types.Array)
            else arg
            for kind, arg in zip(signature.args, args, strict=True)
        )
        dz, out, squares = builder.gep(dz, [at]), builder.gep(out, [to]), builder.gep(squares, [to])
        arrays = starts, offsets, dz, out, squares
        with builder.if_else(wide) as (then, otherwise):
            for branch, panels in (then, PANELS), (otherwise, 1):
                with branch:
                    _emit_sums(context, builder, arrays, count, row, panels)
        return context.get_dummy_value()

    return signature, generate


def _emit_sums(context, builder, arrays, count, row, panels):
    """Emit the loops of `_sum_places` over the groups and their places."""
    starts, offsets, dz, out, squares = arrays
    intp = context.get_value_type(types.intp)
    vector, exact = (ir.VectorType(array.type.pointee, NR) for array in (dz, squares))
    columns = [intp(NR * i) for i in range(panels)]
    sums = [cgutils.alloca_once(builder, vector) for _ in columns]
    totals = [cgutils.alloca_once(builder, exact) for _ in columns]

    def integer(array, i):
        return builder.sext(builder.load(builder.gep(array, [i])), intp)

    def part(start, column, kind):
        return builder.bitcast(builder.gep(start, [column]), kind.as_pointer())

    for total in totals:
        builder.store(exact(None), total)
    with cgutils.for_range(builder, count) as group:
        bounds = [integer(starts, builder.add(group.index, intp(i))) for i in range(2)]
        for total in sums:
            builder.store(vector(None), total)
        with cgutils.for_range_slice(builder, *bounds, intp(1)) as (place, _):
            source = builder.gep(dz, [builder.load(builder.gep(offsets, [place]))])
            for total, column in zip(sums, columns, strict=True):
                value = builder.load(part(source, column, vector))
                value.align = 4
                builder.store(builder.fadd(builder.load(total), value), total)
        target = builder.gep(out, [builder.mul(group.index, row)])
        for total, square, column in zip(sums, totals, columns, strict=True):
            value = builder.load(total)
            builder.store(value, part(target, column, vector)).align = 4
            value = value if vector == exact else builder.fpext(value, exact)
            added = builder.fadd(builder.load(square), builder.fmul(value, value))
            builder.store(added, square)
    for square, column in zip(totals, columns, strict=True):
        builder.store(builder.load(square), part(squares, column, exact)).align = 8
