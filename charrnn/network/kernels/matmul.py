"""Matrix products on packed panels: packing, products over time, weight gradients.

Widths are multiples of NR = 16 (`padded`); padding holds zeros and stays zero. Panels may hold
pairs of bfloat16: they are then half as deep as written here, and the other operand is rounded to
bfloat16 before the product.
"""

from ...arithmetic import ceil_div
from ..jit import jit, kernel
from .bfloat16 import TWO_ONES, is_pairs, operand
from .gemm import KC, multiply
from .microkernel import NR, copy_rows, transpose_rows

PANELS_PER_PACK = 4  # panels of dz that a weight gradient packs at a time


def padded(size: int) -> int:
    """Round `size` up to whole panels."""
    return ceil_div(size, NR) * NR


@kernel
def pack(w, column, panels):
    """Pack the columns of w (K, G N) from `column` on into panels (P, K, 16)."""
    row, start = w.size // w.shape[0], column
    for p in range(panels.shape[0]):
        to = p * panels.shape[1] * NR
        copy_rows(w, start + p * NR, row, panels, to, NR, w.shape[0])


@kernel
def pack_transposed(w, gate, panels):
    """Pack the transpose of w[:, gate] of w (N, G, K) into panels (padded N / 16, K, 16)."""
    row, depth = w.shape[1] * w.shape[2], panels.shape[1]
    whole = 0 if depth % NR else w.shape[0] // NR  # too few pairs do not fill a vector
    for p in range(whole):
        start = p * NR * row + gate * w.shape[2]
        source, at, apart = operand(w, start, row, NR, panels)
        transpose_rows(source, at, apart, panels, p * depth * NR, depth)
    for n in range(whole * NR, w.shape[0]):
        source, _, _ = operand(w[n, gate], 0, 0, 1, panels)
        for k in range(depth):
            panels[n // NR, k, n % NR] = source[k]


@kernel
def sum_biases(b_ih, b_hh, input_planes, hidden_planes, bias):
    """bias[p] = the sum of the biases that are added to plane p of z.

    Gate g of b_ih is added to plane input_planes[g], of b_hh to hidden_planes[g]. b_ih, b_hh
    (G, H), bias (P, H).
    """
    bias[:] = 0
    for g in range(input_planes.size):
        for i in range(bias.shape[1]):
            bias[input_planes[g], i] += b_ih[g, i]
    for g in range(hidden_planes.size):
        for i in range(bias.shape[1]):
            bias[hidden_planes[g], i] += b_hh[g, i]


@jit
def copy(source, target):
    """target = source, both (n,)."""
    for i in range(target.size):
        target[i] = source[i]


@jit
def add(source, target):
    """target += source, both (n,)."""
    for i in range(target.size):
        target[i] += source[i]


@jit
def product(a, b, c):
    """c (M, N) += a (M, K) @ b, with b packed as (N / 16, K, 16).

    If b is block-diagonal, its panels hold one block only, (N / 16, K / blocks, 16).
    """
    strided_product(a, 0, a.shape[1], a.shape[0], b, c, 0, c.shape[1])


@jit
def strided_product(a, a_at, a_row, rows, b, c, c_at, c_row):
    """`product` for rows of a and c that do not lie end to end.

    They start at elements `a_at` and `c_at` of their arrays, `a_row` and `c_row` elements apart.
    """
    turns = b.shape[1]
    depth = 2 * turns if is_pairs(b) else turns
    blocks = a.shape[-1] // depth
    panels = b.shape[0] // blocks
    for i in range(blocks):
        block = b[i * panels : (i + 1) * panels]
        x, x_at, x_row = operand(a, a_at + i * depth, a_row, rows, block)
        to = c_at + i * panels * NR
        multiply(x, x_at, x_row, 1, block, turns * NR, c, to, c_row, turns, rows, panels)


@jit
def products(a, b, c, steps, first, last):
    """c[t, first:last] += a[t, first:last] @ b at every step. a (T, B, K), c (T, B, N).

    The steps of a single row are the rows of one product, which has the same sums in the same
    order.
    """
    if last - first == 1:
        a_row, c_row = a.shape[1] * a.shape[2], c.shape[1] * c.shape[2]
        strided_product(a, first * a.shape[2], a_row, steps, b, c, first * c.shape[2], c_row)
        return
    for t in range(steps):
        product(a[t, first:last], b, c[t, first:last])


@jit
def fill(bias, z, first, last):
    """z[p, first:last] = bias[p], to which products are then added. z (P, B, N), bias (P, N)."""
    for p in range(z.shape[0]):
        for b in range(first, last):
            copy(bias[p], z[p, b])


@kernel
def input_product(x, w, planes, bias, z, steps, first, last):
    """z[t, p, rows] = bias[p], plus x[t, rows] @ w[g] if p = planes[g], for rows first:last.

    x (T, B, D), w (G, N / 16, D, 16) packed, z (T, P, B, N), bias (P, N). The steps of a single
    row are the rows of one product, which has the same sums in the same order.
    """
    if last - first == 1:
        for t in range(steps):
            fill(bias, z[t], first, last)
        x_row, z_row = x.shape[1] * x.shape[2], z.shape[1] * z.shape[2] * z.shape[3]
        for g in range(w.shape[0]):
            z_at = (planes[g] * z.shape[2] + first) * z.shape[3]
            strided_product(x, first * x.shape[2], x_row, steps, w[g], z, z_at, z_row)
        return
    for t in range(steps):
        fill(bias, z[t], first, last)
        for g in range(w.shape[0]):
            product(x[t, first:last], w[g], z[t, planes[g], first:last])


@kernel
def output_product(dz, w, planes, dx, steps, first, last):
    """dx[t, rows] += the sum over g of dz[t, planes[g], rows] @ w[g]: backward of input_product.

    dz (T, P, B, N), w (G, D / 16, N, 16) packed transposed, dx (T, B, D).
    """
    if last - first == 1:
        x_row, z_row = dx.shape[1] * dx.shape[2], dz.shape[1] * dz.shape[2] * dz.shape[3]
        for g in range(w.shape[0]):
            z_at = (planes[g] * dz.shape[2] + first) * dz.shape[3]
            strided_product(dz, z_at, z_row, steps, w[g], dx, first * dx.shape[2], x_row)
        return
    for t in range(steps):
        for g in range(w.shape[0]):
            product(dz[t, planes[g], first:last], w[g], dx[t, first:last])


@kernel
def weight_gradient(x, dz, planes, gate, dw, db, steps, first, last, workspace):
    """dw[:, gate + g] = xᵀ dz[planes[g]] and db[gate + g] = the sum of dz[planes[g]].

    Both sum over all steps and rows, in order, so the bits do not depend on the threads.
    x (T, B, D'), dz (T, P, B, N), dw (D, G, N) with D <= D', db (G, N). `first:last` are the
    panels of this call, numbered through all of `planes`. workspace (workspace_size(D'),) is
    scratch: of uint32 for products of bfloat16, else of the type of x.
    """
    batch, width, panels, inputs = x.shape[1], x.shape[2], dz.shape[3] // NR, dw.shape[0]
    packed_a = workspace[PANELS_PER_PACK * KC * NR :]
    packed_a[-1] = TWO_ONES if is_pairs(workspace) else 1
    gathered = workspace.view(dz.dtype)
    for p in range(first, last):
        column = p % panels * NR
        for d in range(inputs):
            dw[d, gate + p // panels, column : column + NR] = 0
        db[gate + p // panels, column : column + NR] = 0
    for k in range(0, steps * batch, KC):
        depth = min(KC, steps * batch - k)
        turns = (depth + 1) // 2 if is_pairs(workspace) else depth
        for i in range(0, width, NR):
            copy_rows(x, k * width + i, width, packed_a, i * KC, NR, depth)
        p = first
        while p < last:
            g, column = p // panels, p % panels * NR
            count = min(PANELS_PER_PACK, last - p, panels - p % panels)
            for i in range(count):
                to = i * KC * NR
                _gather(dz, planes[g], column + i * NR, k, depth, gathered, to)
                if is_pairs(workspace):
                    copy_rows(gathered, to, NR, workspace, to, NR, depth)
            at, row = (gate + g) * dw.shape[2] + column, dw.shape[1] * dw.shape[2]
            for i in range(0, inputs, NR):
                multiply(
                    packed_a, i * KC, 1, NR, workspace, KC * NR, dw, at + i * row,
                    row, turns, min(NR, inputs - i), count,
                )  # fmt: skip
            # A row of ones gives the sums of the columns: the last element, with strides of 0.
            one = packed_a.size - 1
            multiply(packed_a, one, 0, 0, workspace, KC * NR, db, at, 0, turns, 1, count)
            p += count


def workspace_size(width: int) -> int:
    """The number of elements of `weight_gradient`'s workspace for D' = width."""
    return (PANELS_PER_PACK * NR + width) * KC + 1


@jit
def _gather(dz, plane, column, start, count, packed, to):
    """Copy 16 columns of dz[:, plane] into a panel at `to`: rows start:start + count of T * B."""
    batch, width = dz.shape[2], dz.shape[3]
    done = 0
    while done < count:
        t, b = (start + done) // batch, (start + done) % batch
        rows = min(batch - b, count - done)
        at = ((t * dz.shape[1] + plane) * batch + b) * width + column
        copy_rows(dz, at, width, packed, to + done * NR, NR, rows)
        done += rows
