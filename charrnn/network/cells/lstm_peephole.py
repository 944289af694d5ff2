"""Long short-term memory with peepholes, by which the gates see the cell state.

(Gers & Schmidhuber 2000, "Recurrent nets that time and count".)

i = σ(W_ii x + b_ii + W_hi h + b_hi + w_ci c)
f = σ(W_if x + b_if + W_hf h + b_hf + w_cf c)
g = tanh(W_ig x + b_ig + W_hg h + b_hg)
c' = f c + i g
o = σ(W_io x + b_io + W_ho h + b_ho + w_co c')
h' = o tanh(c')

h, c (H,) are the previous states. w_ci, w_cf, w_co (H,) multiply element by element. Gate order,
sizes and the forget gate's bias are as in the LSTM without peepholes.
"""

import numpy as np

from ..jit import jit, kernel
from ..kernels.activations import sigmoid_, tanh, tanh_
from ..kernels.matmul import product
from ..kernels.state import begin_step, begin_step_back, end_step, end_step_back

GATES, PLANES, STATES, SAVED = 4, 4, 2, 0
INPUT_PLANES = HIDDEN_PLANES = np.arange(4)
OPERANDS = (-1, -1, -1, -1)
PEEPHOLES = {"weight_ci": (0, 1, 0), "weight_cf": (1, 1, 0), "weight_co": (3, 1, 1)}
BIAS = (0.0, 1.0, 0.0, 0.0)
SIGMOIDS = {"input": 0, "forget": 1, "output": 3}


@kernel
def forward(z, s, saved, W, peepholes, x, record_end, held, steps, first, last):
    for t in range(steps):
        begin_step(s, x, record_end, held, t, first, last)
        for gate in range(4):
            product(s[0, t, first:last], W[gate], z[t, gate, first:last])
        for b in range(first, last):
            _states(
                z[t, 0, b], z[t, 1, b], z[t, 2, b], z[t, 3, b], s[1, t, b], s[1, t + 1, b],
                s[0, t + 1, b], peepholes[0], peepholes[1], peepholes[2],
            )  # fmt: skip
        end_step(s, x, record_end, held, t, first, last)


@jit
def _states(i, f, g, o, c_prev, c, h, w_ci, w_cf, w_co):
    for j in range(c.size):
        i[j] += w_ci[j] * c_prev[j]
    for j in range(c.size):
        f[j] += w_cf[j] * c_prev[j]
    sigmoid_(i)
    sigmoid_(f)
    tanh_(g)
    for j in range(c.size):
        c[j] = f[j] * c_prev[j] + i[j] * g[j]
    for j in range(c.size):
        o[j] += w_co[j] * c[j]
    sigmoid_(o)
    for j in range(c.size):
        h[j] = o[j] * tanh(c[j])


@kernel
def backward(z, s, saved, W_T, peepholes, dh, dc, x, record_end, held, steps, first, last):
    for t in range(steps - 1, -1, -1):
        begin_step_back(s, dh, x, record_end, held, t, first, last)
        for b in range(first, last):
            _states_backward(
                z[t, 0, b], z[t, 1, b], z[t, 2, b], z[t, 3, b], s[1, t, b], s[1, t + 1, b],
                dh[t + 1, b], dc[b], peepholes[0], peepholes[1], peepholes[2],
            )  # fmt: skip
        for gate in range(4):
            product(z[t, gate, first:last], W_T[gate], dh[t, first:last])
        end_step_back(s, dh, dc, x, record_end, held, t, first, last)


@jit
def _states_backward(i, f, g, o, c_prev, c, dh, dc, w_ci, w_cf, w_co):
    """Replace i, f, g, o by the gradients of their pre-activations, dc by that of c_prev."""
    one = i.dtype.type(1)
    for j in range(i.size):
        tanh_c = tanh(c[j])
        do = dh[j] * tanh_c * o[j] * (one - o[j])
        d = dc[j] + dh[j] * o[j] * (one - tanh_c * tanh_c) + do * w_co[j]
        di = d * g[j] * i[j] * (one - i[j])
        df = d * c_prev[j] * f[j] * (one - f[j])
        dg = d * i[j] * (one - g[j] * g[j])
        dc[j] = d * f[j] + di * w_ci[j] + df * w_cf[j]
        i[j], f[j], g[j], o[j] = di, df, dg, do
