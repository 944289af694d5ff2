"""Kernels on the state: its advance by a step, the gradients of weights that multiply it."""

from ..jit import jit, kernel
from .matmul import copy


@kernel
def advance_state(s, first, last):
    """s[:, 0, rows] = s[:, 1, rows] for rows first:last. s (STATES, T + 1, B, H)."""
    for i in range(s.shape[0]):
        for b in range(first, last):
            copy(s[i, 1, b], s[i, 0, b])


@kernel
def vector_gradient(dz, plane, state, shift, dw, steps, first, last):
    """dw[0, columns] = the sum over steps and rows of dz[t, plane] * state[t + shift].

    dz (T, P, B, H), state (T + 1, B, H), dw (1, H); `first:last` are the columns of this call.
    """
    dw[0, first:last] = 0
    for t in range(steps):
        for b in range(dz.shape[2]):
            _add_product(
                dz[t, plane, b, first:last], state[t + shift, b, first:last], dw[0, first:last]
            )


@jit
def _add_product(a, b, total):
    for i in range(total.size):
        total[i] += a[i] * b[i]
