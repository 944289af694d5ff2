"""Long short-term memory (Hochreiter & Schmidhuber 1997) with a forget gate (Gers et al. 2000).

i = σ(W_ii x + b_ii + W_hi h + b_hi)
f = σ(W_if x + b_if + W_hf h + b_hf)
g = tanh(W_ig x + b_ig + W_hg h + b_hg)
o = σ(W_io x + b_io + W_ho h + b_ho)
c' = f c + i g
h' = o tanh(c')

h, c (H,) are the previous states. The gates are in the order i, f, g, o in W_ih (4H, D) and
W_hh (4H, H). The forget gate's bias starts at 1 (Jozefowicz et al. 2015), so that a new cell
remembers.
"""

import numpy as np

from ..jit import jit, kernel
from ..kernels.activations import sigmoid_, tanh, tanh_
from ..kernels.matmul import product
from ..kernels.state import begin_step, begin_step_back, end_step, end_step_back

GATES, PLANES, STATES, SAVED = 4, 4, 2, 0
INPUT_PLANES = HIDDEN_PLANES = np.arange(4)
OPERANDS = (-1, -1, -1, -1)
PEEPHOLES: dict[str, tuple[int, int, int]] = {}
BIAS = (0.0, 1.0, 0.0, 0.0)
SIGMOIDS = {"input": 0, "forget": 1, "output": 3}


@kernel
def forward(z, s, saved, W, peepholes, x, record_end, held, steps, first, last):
    for t in range(steps):
        begin_step(s, x, record_end, held, t, first, last)
        for gate in range(4):
            product(s[0, t, first:last], W[gate], z[t, gate, first:last])
        _states(
            z[t, 0, first:last].reshape(-1),
            z[t, 1, first:last].reshape(-1),
            z[t, 2, first:last].reshape(-1),
            z[t, 3, first:last].reshape(-1),
            s[1, t, first:last].reshape(-1),
            s[1, t + 1, first:last].reshape(-1),
            s[0, t + 1, first:last].reshape(-1),
        )
        end_step(s, x, record_end, held, t, first, last)


@jit
def _states(i, f, g, o, c_prev, c, h):
    sigmoid_(i)
    sigmoid_(f)
    tanh_(g)
    sigmoid_(o)
    for j in range(c.size):
        c[j] = f[j] * c_prev[j] + i[j] * g[j]
    for j in range(c.size):
        h[j] = o[j] * tanh(c[j])


@kernel
def backward(z, s, saved, W_T, peepholes, dh, dc, x, record_end, held, steps, first, last):
    for t in range(steps - 1, -1, -1):
        begin_step_back(s, dh, x, record_end, held, t, first, last)
        _states_backward(
            z[t, 0, first:last].reshape(-1),
            z[t, 1, first:last].reshape(-1),
            z[t, 2, first:last].reshape(-1),
            z[t, 3, first:last].reshape(-1),
            s[1, t, first:last].reshape(-1),
            s[1, t + 1, first:last].reshape(-1),
            dh[t + 1, first:last].reshape(-1),
            dc[first:last].reshape(-1),
        )
        for gate in range(4):
            product(z[t, gate, first:last], W_T[gate], dh[t, first:last])
        end_step_back(s, dh, dc, x, record_end, held, t, first, last)


@jit
def _states_backward(i, f, g, o, c_prev, c, dh, dc):
    """Replace i, f, g, o by the gradients of their pre-activations, dc by that of c_prev."""
    one = i.dtype.type(1)
    for j in range(i.size):
        tanh_c = tanh(c[j])
        d = dc[j] + dh[j] * o[j] * (one - tanh_c * tanh_c)
        do = dh[j] * tanh_c * o[j] * (one - o[j])
        di = d * g[j] * i[j] * (one - i[j])
        df = d * c_prev[j] * f[j] * (one - f[j])
        dg = d * i[j] * (one - g[j] * g[j])
        dc[j] = d * f[j]
        i[j], f[j], g[j], o[j] = di, df, dg, do
