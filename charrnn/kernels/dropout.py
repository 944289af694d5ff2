"""Dropout whose mask is a function of a seed and the place, so that it need not be kept.

Forward and backward compute the same mask, and it does not depend on the order of the work.
"""

import numpy as np

from ..jit import entry, jit

_A, _B = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)


@entry
def drop(source, target, seed, rate, steps, first, last):
    """target[t, rows] = source[t, rows] * mask / (1 - rate), mask 0 at `rate` of the places.

    source, target (T, B, H), perhaps the same array; seed uint32.
    """
    width = source.shape[2]
    for t in range(steps):
        start = np.uint32((t * source.shape[1] + first) * width)
        a = source[t, first:last].reshape(-1)
        _masked(a, target[t, first:last].reshape(-1), start, np.uint32(seed), rate)


@jit
def _masked(source, target, start, seed, rate):
    scale = source.dtype.type(1 / (1 - rate))
    none = source.dtype.type(0)
    limit = np.uint32(rate * 4294967296.0)
    for i in range(source.size):
        u = _hash(_hash(np.uint32(start + np.uint32(i))) ^ seed)
        target[i] = source[i] * (scale if u >= limit else none)


@jit
def _hash(u):
    """32 well-mixed bits of 32 (Wellons 2018, hash prospector, "lowbias32")."""
    u = np.uint32(u ^ (u >> np.uint32(16)))
    u = np.uint32(u * _A)
    u = np.uint32(u ^ (u >> np.uint32(15)))
    u = np.uint32(u * _B)
    return np.uint32(u ^ (u >> np.uint32(16)))
