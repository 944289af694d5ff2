"""Kernels on the state: its advance, its reset at record ends, gradients of its weights."""

from ..jit import jit, kernel
from .matmul import copy


@kernel
def advance_state(s, first, last):
    """s[:, 0, rows] = s[:, 1, rows] for rows first:last. s (STATES, T + 1, B, H)."""
    for i in range(s.shape[0]):
        for b in range(first, last):
            copy(s[i, 1, b], s[i, 0, b])


@jit
def carry_state(s, before, x, record_end, t, first, last):
    """before[:, t] = s[:, t] for rows first:last, or 0 where the id of step t ends a record.

    s, before (S, T + 1, B, H), x (T, B). Without records, `record_end` is -1 and `before` is s.
    """
    if record_end < 0:
        return
    for i in range(s.shape[0]):
        for b in range(first, last):
            if x[t, b] == record_end:
                before[i, t, b] = 0
            else:
                copy(s[i, t, b], before[i, t, b])


@jit
def hold_gradient(dh, before, x, record_end, t, first, last):
    """Keep dh[t] of the rows whose state was reset before step t, for `cut_gradient`.

    dh (T + 1, B, H). Its rows are kept in before[0, T], which no step uses.
    """
    if record_end < 0:
        return
    for b in range(first, last):
        if x[t, b] == record_end:
            copy(dh[t, b], before[0, -1, b])


@jit
def cut_gradient(dh, dc, before, x, record_end, t, first, last):
    """Undo what step t has added to the gradients of a state that was reset before it."""
    if record_end < 0:
        return
    for b in range(first, last):
        if x[t, b] == record_end:
            copy(before[0, -1, b], dh[t, b])
            dc[b] = 0


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
