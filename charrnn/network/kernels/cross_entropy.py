"""The output layer: logits, probabilities, and softmax cross-entropy fused with its gradient."""

import numpy as np

from ..jit import jit, kernel
from .activations import exp, log
from .lanes import largest, sum_lanes
from .matmul import copy, fill, products


@jit
def _exponentials(x, highest):
    """Replace x by exp(x - highest), in place."""
    for i in range(x.size):
        x[i] = exp(x[i] - highest)


@jit
def cross_entropy(logits, vocab_size, target, scale):
    """Return -log softmax(logits)[target] in nats; logits become scale times its gradient.

    logits (padded V,); the padding, for which whole vectors are faster, becomes zero.
    """
    logits[vocab_size:] = -np.inf
    highest, of_target = largest(logits), logits[target]
    _exponentials(logits, highest)
    logits[vocab_size:] = 0
    total = sum_lanes(logits)
    factor = scale / total
    for i in range(logits.size):
        logits[i] *= factor
    logits[target] -= scale
    return log(np.float64(total)) + (np.float64(highest) - np.float64(of_target))


@kernel
def logits_of(h, w, bias, logits, steps, first, last):
    """logits[t, rows] = h[t, rows] @ w + bias.

    h (T, B, H), w (V / 16, H, 16) packed, bias (1, V), logits (T, B, V), V padded.
    """
    for t in range(steps):
        fill(bias, logits[t : t + 1], first, last)
    products(h, w, logits, steps, first, last)


@kernel
def probabilities_of(logits, probabilities, steps, first, last):
    """probabilities[t, rows] = softmax(logits[t, rows]). probabilities (T, B, V)."""
    for t in range(steps):
        for b in range(first, last):
            _softmax(logits[t, b], probabilities[t, b])


@jit
def _softmax(logits, p):
    copy(logits, p)
    _exponentials(p, largest(p))
    factor = p.dtype.type(1) / sum_lanes(p)
    for i in range(p.size):
        p[i] *= factor


@kernel
def losses_of(logits, y, losses, vocab_size, scale, steps, first, last):
    """losses[t, rows] = the cross-entropy of y[t, rows] in nats.

    logits (T, B, padded V) become scale times their gradients, in place. y (T, B), losses (T, B).
    """
    for t in range(steps):
        for b in range(first, last):
            losses[t, b] = cross_entropy(logits[t, b], vocab_size, y[t, b], scale)


@kernel
def output_gradient(dlogits, w, dh, steps, first, last):
    """dh[t, rows] = dlogits[t, rows] @ w: the backward of logits_of.

    dlogits (T, B, V), w (H / 16, V, 16) packed transposed, dh (T, B, H), V padded.
    """
    for t in range(steps):
        dh[t, first:last] = 0
    products(dlogits, w, dh, steps, first, last)
