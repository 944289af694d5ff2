"""The first layer: an embedding, or a one-hot input, which selects rows of its weight matrix."""

from ..jit import jit, kernel
from .matmul import copy, fill


@kernel
def look_up(table, x, planes, bias, z, steps, first, last):
    """z[t, p, b] = bias[p], plus table[x[t, b], g] if p = planes[g], for rows b in first:last.

    table (V, G, N), x (T, B), planes (G,), bias (P, N), z (T, P, B, N).
    """
    for t in range(steps):
        fill(bias, z[t], first, last)
        for g in range(table.shape[1]):
            for b in range(first, last):
                _add(table[x[t, b], g], z[t, planes[g], b])


@kernel
def embed(table, x, out, steps, first, last):
    """out[t, b] = table[x[t, b]] for b in first:last. table (V, E), x (T, B), out (T, B, E)."""
    for t in range(steps):
        for b in range(first, last):
            copy(table[x[t, b]], out[t, b])


@kernel
def look_up_gradient(x, dz, planes, dtable, db, steps, first, last):
    """The gradients of the table and the bias of `look_up`.

    dtable[v, g] = the sum of dz[t, planes[g], b] over all (t, b) in order where x[t, b] = v;
    db[g] = the sum over all (t, b). `first:last` are the columns of this call, numbered through
    all gates: column n of gate g is g * N + n. dtable (V, G, N), db (G, N).
    """
    width = dz.shape[3]
    for g in range(dtable.shape[1]):
        low, high = max(first - g * width, 0), min(last - g * width, width)
        if low >= high:
            continue
        db[g, low:high] = 0
        for v in range(dtable.shape[0]):
            dtable[v, g, low:high] = 0
        for t in range(steps):
            for b in range(x.shape[1]):
                source = dz[t, planes[g], b, low:high]
                _add(source, dtable[x[t, b], g, low:high])
                _add(source, db[g, low:high])


@kernel
def embed_gradient(x, dout, dtable, steps, first, last):
    """dtable[v, columns] = the sum of dout[t, b, columns] where x[t, b] = v.

    x (T, B), dout (T, B, E), dtable (V, E); `first:last` are the columns.
    """
    for v in range(dtable.shape[0]):
        dtable[v, first:last] = 0
    for t in range(steps):
        for b in range(x.shape[1]):
            _add(dout[t, b, first:last], dtable[x[t, b], first:last])


@jit
def _add(source, target):
    for i in range(target.size):
        target[i] += source[i]
