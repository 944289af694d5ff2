"""The first layer: an embedding, or a one-hot input, which selects rows of its weight matrix.

To the row of a character are added those of the n-grams that end with it, if they are known.
"""

from ..jit import jit, kernel
from .matmul import add, copy, fill


@kernel
def look_up(table, ngram_rows, x, found, planes, bias, z, steps, first, last):
    """z[t, p, b] = bias[p], plus the rows g of (t, b) if p = planes[g], for rows b in first:last.

    The rows of (t, b) are table[x[t, b]] and ngram_rows[r - V] for each r >= 0 in found[t, b].
    table (V, G, N), ngram_rows (K, G, N), x (T, B), found (T, B, n - 1), planes (G,), bias (P, N),
    z (T, P, B, N).
    """
    for t in range(steps):
        fill(bias, z[t], first, last)
        for g in range(table.shape[1]):
            for b in range(first, last):
                target = z[t, planes[g], b]
                add(table[x[t, b], g], target)
                _add_ngrams(ngram_rows, g, found[t, b], table.shape[0], target)


@kernel
def embed(table, ngram_rows, x, found, out, steps, first, last):
    """out[t, b] = the sum of the rows of (t, b), see `look_up`, for b in first:last.

    table (V, E), ngram_rows (K, 1, E), x (T, B), found (T, B, n - 1), out (T, B, E).
    """
    for t in range(steps):
        for b in range(first, last):
            copy(table[x[t, b]], out[t, b])
            _add_ngrams(ngram_rows, 0, found[t, b], table.shape[0], out[t, b])


@jit
def _add_ngrams(ngram_rows, g, found, vocab_size, target):
    """Add the rows `found` (n - 1,), -1 for none, to target (N,); two of them in one pass."""
    count = found.size
    n = 0
    if count > 1 and found[0] >= 0 and found[1] >= 0:
        a, b = ngram_rows[found[0] - vocab_size, g], ngram_rows[found[1] - vocab_size, g]
        for i in range(target.size):
            target[i] = target[i] + a[i] + b[i]
        n = 2
    for k in range(n, count):
        if found[k] >= 0:
            add(ngram_rows[found[k] - vocab_size, g], target)


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
                add(source, dtable[x[t, b], g, low:high])
                add(source, db[g, low:high])


@kernel
def embed_gradient(x, dout, dtable, steps, first, last):
    """dtable[v, columns] = the sum of dout[t, b, columns] where x[t, b] = v.

    x (T, B), dout (T, B, E), dtable (V, E); `first:last` are the columns.
    """
    for v in range(dtable.shape[0]):
        dtable[v, first:last] = 0
    for t in range(steps):
        for b in range(x.shape[1]):
            add(dout[t, b, first:last], dtable[x[t, b], first:last])
