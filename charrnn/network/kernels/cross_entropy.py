"""Softmax cross-entropy fused with its gradient, in nats."""

import math

import numpy as np

from ..jit import FASTMATH, jit, kernel
from .activations import exp
from .matmul import fill, products

# A row's sum may be reordered into vector lanes: a row is never split, so its bits do not change.
REASSOCIATIVE = FASTMATH | {"reassoc"}


@jit(fastmath=REASSOCIATIVE)
def _exponentials(x, highest):
    """x becomes exp(x - highest), in place; returns the sum."""
    total = x.dtype.type(0)
    for i in range(x.size):
        x[i] = exp(x[i] - highest)
    for i in range(x.size):
        total += x[i]
    return total


@jit
def cross_entropy(logits, target, scale):
    """-log softmax(logits)[target]; logits (V,) become scale times the gradient, in place."""
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
    """logits[t, rows] = h[t, rows] @ w + bias. h (T, B, H), w (V / 16, H, 16), bias (1, V)."""
    for t in range(steps):
        fill(bias, logits[t : t + 1], first, last)
    products(h, w, logits, steps, first, last)


@kernel
def losses_of(logits, y, losses, vocab_size, scale, steps, first, last):
    """losses[t, b] in nats; logits (T, B, padded V) become scale times their gradients."""
    for t in range(steps):
        for b in range(first, last):
            losses[t, b] = cross_entropy(logits[t, b, :vocab_size], y[t, b], scale)
            logits[t, b, vocab_size:] = 0


@kernel
def output_gradient(dlogits, w, dh, steps, first, last):
    """dh[t, rows] = dlogits[t, rows] @ w, w packed transposed (H / 16, V, 16)."""
    for t in range(steps):
        dh[t, first:last] = 0
    products(dlogits, w, dh, steps, first, last)
