"""Random arrays and packed weights in the layout of the kernels."""

import numpy as np

from charrnn.network.arrays import zeros
from charrnn.network.kernels.matmul import pack, pack_transposed, padded
from charrnn.network.kernels.microkernel import NR


def random(rng, shape, dtype=np.float32):
    """A standard normal array whose last axis is padded with zeros."""
    array = zeros((*shape[:-1], padded(shape[-1])), dtype)
    array[..., : shape[-1]] = rng.standard_normal(shape)
    return array


def packed(w, gate=0, transposed=False, pairs=False):
    """The panels of w[:, gate], w (K, G, N), or of its transpose; of floats or bfloat16 pairs."""
    k, n = (padded(w.shape[0]), w.shape[2]) if not transposed else (w.shape[2], padded(w.shape[0]))
    depth, dtype = (k // 2, np.uint32) if pairs else (k, w.dtype)
    panels = zeros((n // NR, depth, NR), dtype)
    if transposed:
        pack_transposed(w, gate, panels)
    else:
        pack(w, gate * w.shape[2], panels)
    return panels
