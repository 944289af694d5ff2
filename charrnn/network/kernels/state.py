"""Kernels on the state: its advance, its reset where records begin, gradients of its weights.

A record begins at each input id `record_end`, which also ends the one before. The state before this
step is zero, but for the layer above it is still the output of the step before.
"""

from ..jit import jit, kernel
from .matmul import copy


@jit
def advance_state(s, first, last):
    """s[:, 0, rows] = s[:, 1, rows] for rows first:last. s (STATES, T + 1, B, H)."""
    for i in range(s.shape[0]):
        for b in range(first, last):
            copy(s[i, 1, b], s[i, 0, b])


@jit
def begin_step(s, x, record_end, held, t, first, last):
    """Zero the state before step t of the rows first:last that begin a record there.

    `held` (STATES + 1, B, H) keeps it for `end_step`. s (STATES, T + 1, B, H), x (T, B).
    Without records, `record_end` is -1.
    """
    if record_end < 0:
        return
    for b in range(first, last):
        if x[t, b] == record_end:
            for i in range(s.shape[0]):
                _set_aside(s[i, t, b], held[i, b])


@jit
def _set_aside(row, held):
    """held = row and row = 0, both (H,)."""
    for j in range(row.size):
        held[j] = row[j]
        row[j] = 0


@jit
def end_step(s, x, record_end, held, t, first, last):
    """Restore the state that `begin_step` has zeroed, as the output of step t - 1."""
    if record_end < 0:
        return
    for b in range(first, last):
        if x[t, b] == record_end:
            for i in range(s.shape[0]):
                copy(held[i, b], s[i, t, b])


@jit
def begin_step_back(s, dh, x, record_end, held, t, first, last):
    """Do what `begin_step` does, and keep dh[t] of these rows in held[-1]. dh (T + 1, B, H)."""
    if record_end < 0:
        return
    begin_step(s, x, record_end, held, t, first, last)
    for b in range(first, last):
        if x[t, b] == record_end:
            copy(dh[t, b], held[-1, b])


@jit
def end_step_back(s, dh, dc, x, record_end, held, t, first, last):
    """Do what `end_step` does, and undo what step t has added to the gradients of these states."""
    if record_end < 0:
        return
    end_step(s, x, record_end, held, t, first, last)
    for b in range(first, last):
        if x[t, b] == record_end:
            copy(held[-1, b], dh[t, b])
            dc[b] = 0


@kernel
def zero_states(s, x, record_end):
    """Zero the states before all steps at which a record begins. s, x as of `begin_step`."""
    for t in range(x.shape[0]):
        for b in range(x.shape[1]):
            if x[t, b] == record_end:
                s[:, t, b] = 0


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
