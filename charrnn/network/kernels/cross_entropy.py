"""The output layer: logits, probabilities, and softmax cross-entropy fused with its gradient."""

import math

import numpy as np

from ..jit import REASSOCIATIVE, jit, kernel
from .activations import exp
from .matmul import fill, products


@jit(fastmath=REASSOCIATIVE)
def _exponentials(x, highest):
    """Replace x by exp(x - highest), in place; returns the sum."""
    total = x.dtype.type(0)
    for i in range(x.size):
        x[i] = exp(x[i] - highest)
    for i in range(x.size):
        total += x[i]
    return total


@jit
def cross_entropy(logits, target, scale):
    """Return -log softmax(logits)[target] in nats; logits (V,) become scale times its gradient."""
    highest = logits[0]
    for i in range(logits.size):
        highest = logits[i] if logits[i] > highest else highest
    of_target = logits[target]
    total = _exponentials(logits, highest)
    factor = scale / total
    for i in range(logits.size):
        logits[i] *= factor
    logits[target] -= scale
    return math.log(np.float64(total)) + (np.float64(highest) - np.float64(of_target))


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
    highest = logits[0]
    for i in range(p.size):
        highest = logits[i] if logits[i] > highest else highest
        p[i] = logits[i]
    factor = p.dtype.type(1) / _exponentials(p, highest)
    for i in range(p.size):
        p[i] *= factor


@kernel
def losses_of(logits, y, losses, vocab_size, scale, steps, first, last):
    """losses[t, rows] = the cross-entropy of y[t, rows] in nats.

    logits (T, B, padded V) become scale times their gradients, in place. y (T, B), losses (T, B).
    """
    for t in range(steps):
        for b in range(first, last):
            losses[t, b] = cross_entropy(logits[t, b, :vocab_size], y[t, b], scale)
            logits[t, b, vocab_size:] = 0


@kernel
def output_gradient(dlogits, w, dh, steps, first, last):
    """dh[t, rows] = dlogits[t, rows] @ w: the backward of logits_of.

    dlogits (T, B, V), w (H / 16, V, 16) packed transposed, dh (T, B, H), V padded.
    """
    for t in range(steps):
        dh[t, first:last] = 0
    products(dlogits, w, dh, steps, first, last)
