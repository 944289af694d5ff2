"""The plain recurrent cell with tanh (Elman 1990, "Finding structure in time").

h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)

x_t (D,) is the input, h_t (H,) the hidden state; W_ih (H, D), W_hh (H, H), biases (H,).
"""

import numpy as np

from ..jit import jit, kernel
from ..kernels.activations import tanh
from ..kernels.matmul import product
from ..kernels.state import begin_step, begin_step_back, end_step, end_step_back

GATES, PLANES, STATES, SAVED = 1, 1, 1, 0
INPUT_PLANES = HIDDEN_PLANES = np.arange(1)
OPERANDS = (-1,)
PEEPHOLES: dict[str, tuple[int, int, int]] = {}
BIAS = (0.0,)
SIGMOIDS: dict[str, int] = {}


@kernel
def forward(z, s, saved, W, peepholes, x, record_end, held, steps, first, last):
    for t in range(steps):
        begin_step(s, x, record_end, held, t, first, last)
        product(s[0, t, first:last], W[0], z[t, 0, first:last])
        _output(z[t, 0, first:last].reshape(-1), s[0, t + 1, first:last].reshape(-1))
        end_step(s, x, record_end, held, t, first, last)


@jit
def _output(z, h):
    for i in range(z.size):
        h[i] = tanh(z[i])


@kernel
def backward(z, s, saved, W_T, peepholes, dh, dc, x, record_end, held, steps, first, last):
    for t in range(steps - 1, -1, -1):
        begin_step_back(s, dh, x, record_end, held, t, first, last)
        dz, h = z[t, 0, first:last], s[0, t + 1, first:last]
        _output_backward(h.reshape(-1), dh[t + 1, first:last].reshape(-1), dz.reshape(-1))
        product(dz, W_T[0], dh[t, first:last])
        end_step_back(s, dh, dc, x, record_end, held, t, first, last)


@jit
def _output_backward(h, dh, dz):
    one = h.dtype.type(1)
    for i in range(h.size):
        dz[i] = dh[i] * (one - h[i] * h[i])
