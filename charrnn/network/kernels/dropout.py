"""Dropout whose mask is a hash of a seed and the position, so it need not be stored.

Forward and backward compute the same mask, and it does not depend on how threads share the work.
"""

import numpy as np

from ..jit import jit, kernel
from .matmul import copy

_A, _B = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)


@kernel
def drop(source, target, seed, rate, steps, first, last, offset, batch_size):
    """target[t, rows] = source[t, rows] * mask / (1 - rate).

    The mask is 0 with probability `rate`, else 1. source, target (T, B, H); seed uint32. Their rows
    are those from `offset` on of a batch of `batch_size`, for which the mask is drawn.
    """
    for t in range(steps):
        a, b = source[t, first:last].reshape(-1), target[t, first:last].reshape(-1)
        copy(a, b)
        _mask_(b, _start(source, t, first + offset, batch_size), seed, rate)


@kernel
def drop_(array, seed, rate, steps, first, last, offset, batch_size):
    """Apply dropout to array (T, B, H) in place; `drop` with one array twice would be slower."""
    for t in range(steps):
        start = _start(array, t, first + offset, batch_size)
        _mask_(array[t, first:last].reshape(-1), start, seed, rate)


def fold_in(seed: int, number: int) -> int:
    """Derive the seed of mask `number` from a common seed."""
    return (seed + number * 0x9E3779B9) % 2**32


@jit
def _start(array, t, first, batch_size):
    return np.uint32((t * batch_size + first) * array.shape[2])


@jit
def _mask_(a, start, seed, rate):
    scale = a.dtype.type(1 / (1 - rate))
    none = a.dtype.type(0)
    limit = np.uint32(rate * 4294967296.0)
    for i in range(a.size):
        u = _hash(_hash(np.uint32(start + np.uint32(i))) ^ np.uint32(seed))
        a[i] *= scale if u >= limit else none


@jit
def _hash(u):
    """Mix the 32 bits of u (Wellons 2018, hash prospector, "lowbias32")."""
    u = np.uint32(u ^ (u >> np.uint32(16)))
    u = np.uint32(u * _A)
    u = np.uint32(u ^ (u >> np.uint32(15)))
    u = np.uint32(u * _B)
    return np.uint32(u ^ (u >> np.uint32(16)))
