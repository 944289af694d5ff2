"""The updates of the optimizers, clipping and norms: one pass over flat arrays each.

w are the weights, g the gradients, all of one size; settings are Python floats.
"""

import math

import numpy as np

from ..jit import jit, kernel
from .lanes import sum_squares

# The smallest normal float32. Moments of weights without a gradient, of a rare character, decay
# into denormals and stick there, since 0.9 times a few last bits rounds to itself. Denormal
# arithmetic is slow, so they are flushed to zero.
SMALLEST_NORMAL = 2.0**-126
BLOCK = 4096  # elements summed or counted at once: the same sums for any number of threads


@jit
def _flushed(x, least):
    """x, or 0 if its magnitude is below `least`; NaN stays NaN."""
    return least - least if abs(x) < least else x  # a 0 of its own type


@kernel
def adam(w, g, m, v, learning_rate, beta1, beta2, epsilon, decay, step):
    b1, rest1 = w.dtype.type(beta1), w.dtype.type(1 - beta1)
    b2, rest2 = w.dtype.type(beta2), w.dtype.type(1 - beta2)
    small = w.dtype.type(epsilon)
    keep = w.dtype.type(1 - learning_rate * decay)
    rate = w.dtype.type(learning_rate / (1 - beta1**step))
    unbias = w.dtype.type(1 / math.sqrt(1 - beta2**step))
    least = w.dtype.type(SMALLEST_NORMAL)
    for i in range(w.size):
        m[i] = _flushed(b1 * m[i] + rest1 * g[i], least)
        v[i] = _flushed(b2 * v[i] + rest2 * g[i] * g[i], least)
        w[i] = keep * w[i] - rate * m[i] / (np.sqrt(v[i]) * unbias + small)


@kernel
def cautious_adam(w, g, m, v, learning_rate, beta1, beta2, epsilon, decay, step):
    b1, rest1 = w.dtype.type(beta1), w.dtype.type(1 - beta1)
    b2, rest2 = w.dtype.type(beta2), w.dtype.type(1 - beta2)
    small, none = w.dtype.type(epsilon), w.dtype.type(0)
    keep = w.dtype.type(1 - learning_rate * decay)
    unbias = w.dtype.type(1 / math.sqrt(1 - beta2**step))
    least = w.dtype.type(SMALLEST_NORMAL)
    for first in range(0, w.size, BLOCK):
        block = slice(first, first + BLOCK)
        wb, gb, mb, vb = w[block], g[block], m[block], v[block]
        agree = pulled = np.int32(0)
        for i in range(wb.size):
            mb[i] = _flushed(b1 * mb[i] + rest1 * gb[i], least)
            vb[i] = _flushed(b2 * vb[i] + rest2 * gb[i] * gb[i], least)
            agree += np.int32(mb[i] * gb[i] > none)
            pulled += np.int32(gb[i] != none)
        more = pulled / max(agree, np.int32(1))
        rate = w.dtype.type(learning_rate / (1 - beta1**step) * more)
        for i in range(wb.size):
            own = none if mb[i] * gb[i] <= none else rate
            wb[i] = keep * wb[i] - own * mb[i] / (np.sqrt(vb[i]) * unbias + small)


@kernel
def rmsprop(w, g, v, learning_rate, alpha, epsilon):
    a, rest = w.dtype.type(alpha), w.dtype.type(1 - alpha)
    small, rate, least = (
        w.dtype.type(epsilon),
        w.dtype.type(learning_rate),
        w.dtype.type(SMALLEST_NORMAL),
    )
    for i in range(w.size):
        v[i] = _flushed(a * v[i] + rest * g[i] * g[i], least)
        w[i] -= rate * g[i] / (np.sqrt(v[i]) + small)


@kernel
def adagrad(w, g, v, learning_rate, epsilon):
    small, rate = w.dtype.type(epsilon), w.dtype.type(learning_rate)
    for i in range(w.size):
        v[i] += g[i] * g[i]
        w[i] -= rate * g[i] / (np.sqrt(v[i]) + small)


@kernel
def sgd(w, g, m, learning_rate, momentum):
    rate, keep = w.dtype.type(learning_rate), w.dtype.type(momentum)
    least = w.dtype.type(SMALLEST_NORMAL)
    for i in range(w.size):
        m[i] = _flushed(keep * m[i] + g[i], least)
        w[i] -= rate * m[i]


@kernel
def update_rows(
    w,
    g,
    used,
    v,
    last_step,
    step,
    learning_rate,
    keep_v,
    add_v,
    unbias,
    epsilon,
    decay,
    first,
    last,
):
    """Update the rows used[first:last] of w (K, N) from their gradients g (U, N).

    v (K, N) are means or sums of squared gradients: v = keep_v * v + add_v * g². In a step that
    does not use a row its gradient is zero: v and w only shrink. This is made up for the steps
    since last_step (K,), with the present learning rate. `unbias` is the factor on the root of v,
    1 / sqrt(1 - keep_v^step).
    """
    add, rate = w.dtype.type(add_v), w.dtype.type(learning_rate)
    factor, small = w.dtype.type(unbias), w.dtype.type(epsilon)
    least = w.dtype.type(SMALLEST_NORMAL)
    for u in range(first, last):
        k = used[u]
        steps = step - last_step[k]
        keep = w.dtype.type(keep_v**steps)
        keep_w = w.dtype.type((1 - learning_rate * decay) ** steps)
        last_step[k] = step
        _update_row(w[k], g[u], v[k], keep, add, rate, factor, small, keep_w, least)


@jit
def _update_row(w, g, v, keep, add, rate, unbias, epsilon, keep_w, least):
    for i in range(w.size):
        v[i] = _flushed(keep * v[i] + add * g[i] * g[i], least)
        w[i] = keep_w * w[i] - rate * g[i] / (np.sqrt(v[i]) * unbias + epsilon)


@kernel
def clip_value(g, limit):
    """Clip every element of g to [-limit, limit]; NaN stays NaN."""
    high = g.dtype.type(limit)
    low = -high
    for i in range(g.size):
        g[i] = low if g[i] < low else (high if g[i] > high else g[i])


@kernel
def scale(g, factor):
    """Multiply g by `factor`, in place."""
    f = g.dtype.type(factor)
    for i in range(g.size):
        g[i] *= f


@kernel
def square_sums(g, sums, first, last):
    """sums[b] = the sum of squares of block b of g, for blocks first:last."""
    for b in range(first, last):
        sums[b] = sum_squares(g[b * BLOCK : (b + 1) * BLOCK])
