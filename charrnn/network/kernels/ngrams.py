"""Kernels on n-grams: finding their table rows, and the gradients of the rows a chunk has used.

The rows of the input table are numbered: id i has row i, n-gram k has row V + k.
"""

import numpy as np

from ..jit import jit, kernel
from .matmul import add, copy

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
def row_gradient(starts, places, count, dz, planes, out, first, last):
    """out[u, g] = the sum of dz[t, planes[g], b] over the places (t, b) of group u < `count`.

    dz (T, P, B, N), planes (G,), out (U, G, N). `first:last` are the columns of this call, numbered
    through all gates: column n of gate g is g * N + n.
    """
    rows, width = dz.shape[2], dz.shape[3]
    for g in range(out.shape[1]):
        low, high = max(first - g * width, 0), min(last - g * width, width)
        if low >= high:
            continue
        for u in range(count):
            target = out[u, g, low:high]
            for p in range(starts[u], starts[u + 1]):
                source = dz[places[p] // rows, planes[g], places[p] % rows, low:high]
                if p == starts[u]:
                    copy(source, target)
                else:
                    add(source, target)
