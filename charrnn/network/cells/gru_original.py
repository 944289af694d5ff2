"""Gated recurrent unit as first published, with the reset gate before the hidden product.

(Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder".)

r = σ(W_ir x + b_ir + W_hr h + b_hr)
z = σ(W_iz x + b_iz + W_hz h + b_hz)
n = tanh(W_in x + b_in + W_hn (r h) + b_hn)
h' = (1 - z) n + z h

h (H,) is the previous state. The gates are in the order r, z, n: W_ih (3H, D), W_hh (3H, H). r h is
saved for the gradient of W_hn, which multiplies it.
"""

import numpy as np

from ..jit import jit, kernel
from ..kernels.activations import sigmoid_, tanh_
from ..kernels.matmul import product
from ..kernels.state import begin_step, begin_step_back, end_step, end_step_back

GATES, PLANES, STATES, SAVED = 3, 3, 1, 1
INPUT_PLANES = HIDDEN_PLANES = np.arange(3)
OPERANDS = (-1, -1, 0)
PEEPHOLES: dict[str, tuple[int, int, int]] = {}
BIAS = (0.0, 0.0, 0.0)
SIGMOIDS = {"reset": 0, "update": 1}


@kernel
def forward(z, s, saved, W, peepholes, x, record_end, held, steps, first, last):
    for t in range(steps):
        begin_step(s, x, record_end, held, t, first, last)
        h_prev, reset = s[0, t, first:last], saved[0, t, first:last]
        r, u, n = z[t, 0, first:last], z[t, 1, first:last], z[t, 2, first:last]
        product(h_prev, W[0], r)
        product(h_prev, W[1], u)
        sigmoid_(r.reshape(-1))
        sigmoid_(u.reshape(-1))
        _multiply(r.reshape(-1), h_prev.reshape(-1), reset.reshape(-1))
        product(reset, W[2], n)
        tanh_(n.reshape(-1))
        h = s[0, t + 1, first:last]
        _mix(u.reshape(-1), n.reshape(-1), h_prev.reshape(-1), h.reshape(-1))
        end_step(s, x, record_end, held, t, first, last)


@jit
def _multiply(r, h_prev, reset):
    for j in range(r.size):
        reset[j] = r[j] * h_prev[j]


@jit
def _mix(u, n, h_prev, h):
    """Compute the new state; u is z of the equations."""
    for j in range(n.size):
        h[j] = n[j] + u[j] * (h_prev[j] - n[j])


@kernel
def backward(z, s, saved, W_T, peepholes, dh, dc, x, record_end, held, steps, first, last):
    for t in range(steps - 1, -1, -1):
        begin_step_back(s, dh, x, record_end, held, t, first, last)
        h_prev, dh_prev = s[0, t, first:last], dh[t, first:last]
        r, u, n = z[t, 0, first:last], z[t, 1, first:last], z[t, 2, first:last]
        _mix_backward(
            u.reshape(-1), n.reshape(-1), h_prev.reshape(-1),
            dh[t + 1, first:last].reshape(-1), dh_prev.reshape(-1),
        )  # fmt: skip
        d_reset = dc[first:last]
        d_reset[:] = 0
        product(n, W_T[2], d_reset)
        _multiply_backward(
            r.reshape(-1), h_prev.reshape(-1), d_reset.reshape(-1), dh_prev.reshape(-1)
        )
        product(r, W_T[0], dh_prev)
        product(u, W_T[1], dh_prev)
        end_step_back(s, dh, dc, x, record_end, held, t, first, last)


@jit
def _mix_backward(u, n, h_prev, dh, dh_prev):
    """Replace u, n by the gradients of their pre-activations."""
    one = u.dtype.type(1)
    for j in range(u.size):
        dn = dh[j] * (one - u[j]) * (one - n[j] * n[j])
        du = dh[j] * (h_prev[j] - n[j]) * u[j] * (one - u[j])
        dh_prev[j] += dh[j] * u[j]
        u[j], n[j] = du, dn


@jit
def _multiply_backward(r, h_prev, d_reset, dh_prev):
    """Replace r by the gradient of its pre-activation."""
    one = r.dtype.type(1)
    for j in range(r.size):
        dr = d_reset[j] * h_prev[j] * r[j] * (one - r[j])
        dh_prev[j] += d_reset[j] * r[j]
        r[j] = dr
