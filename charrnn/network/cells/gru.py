"""Gated recurrent unit (Cho et al. 2014) with the reset gate after the hidden product.

This is the variant of cuDNN and PyTorch.

r = σ(W_ir x + b_ir + W_hr h + b_hr)
z = σ(W_iz x + b_iz + W_hz h + b_hz)
n = tanh(W_in x + b_in + r (W_hn h + b_hn))
h' = (1 - z) n + z h

h (H,) is the previous state. The gates are in the order r, z, n: W_ih (3H, D), W_hh (3H, H). Since
r multiplies only the hidden part of n, n has two planes: the planes are r, z, the input part of n,
the hidden part of n.
"""

import numpy as np

from ..jit import jit, kernel
from ..kernels.activations import sigmoid_, tanh
from ..kernels.matmul import product
from ..kernels.state import begin_step, begin_step_back, end_step, end_step_back

GATES, PLANES, STATES, SAVED = 3, 4, 1, 0
INPUT_PLANES = np.array([0, 1, 2])
HIDDEN_PLANES = np.array([0, 1, 3])
OPERANDS = (-1, -1, -1)
PEEPHOLES: dict[str, tuple[int, int, int]] = {}
BIAS = (0.0, 0.0, 0.0)
SIGMOIDS = {"reset": 0, "update": 1}


@kernel
def forward(z, s, saved, W, peepholes, x, record_end, held, steps, first, last):
    for t in range(steps):
        begin_step(s, x, record_end, held, t, first, last)
        h_prev = s[0, t, first:last]
        product(h_prev, W[0], z[t, 0, first:last])
        product(h_prev, W[1], z[t, 1, first:last])
        product(h_prev, W[2], z[t, 3, first:last])
        _states(
            z[t, 0, first:last].reshape(-1),
            z[t, 1, first:last].reshape(-1),
            z[t, 2, first:last].reshape(-1),
            z[t, 3, first:last].reshape(-1),
            h_prev.reshape(-1),
            s[0, t + 1, first:last].reshape(-1),
        )
        end_step(s, x, record_end, held, t, first, last)


@jit
def _states(r, u, n, n_hidden, h_prev, h):
    """Compute the new state; u is z of the equations."""
    sigmoid_(r)
    sigmoid_(u)
    for j in range(n.size):
        n[j] = tanh(n[j] + r[j] * n_hidden[j])
    for j in range(n.size):
        h[j] = n[j] + u[j] * (h_prev[j] - n[j])


@kernel
def backward(z, s, saved, W_T, peepholes, dh, dc, x, record_end, held, steps, first, last):
    for t in range(steps - 1, -1, -1):
        begin_step_back(s, dh, x, record_end, held, t, first, last)
        _states_backward(
            z[t, 0, first:last].reshape(-1),
            z[t, 1, first:last].reshape(-1),
            z[t, 2, first:last].reshape(-1),
            z[t, 3, first:last].reshape(-1),
            s[0, t, first:last].reshape(-1),
            dh[t + 1, first:last].reshape(-1),
            dh[t, first:last].reshape(-1),
        )
        dh_prev = dh[t, first:last]
        product(z[t, 0, first:last], W_T[0], dh_prev)
        product(z[t, 1, first:last], W_T[1], dh_prev)
        product(z[t, 3, first:last], W_T[2], dh_prev)
        end_step_back(s, dh, dc, x, record_end, held, t, first, last)


@jit
def _states_backward(r, u, n, n_hidden, h_prev, dh, dh_prev):
    """Replace r, u, n, n_hidden by the gradients of their pre-activations."""
    one = r.dtype.type(1)
    for j in range(r.size):
        dn = dh[j] * (one - u[j]) * (one - n[j] * n[j])
        dr = dn * n_hidden[j] * r[j] * (one - r[j])
        du = dh[j] * (h_prev[j] - n[j]) * u[j] * (one - u[j])
        dh_prev[j] += dh[j] * u[j]
        n_hidden[j] = dn * r[j]
        r[j], u[j], n[j] = dr, du, dn
