"""The recurrent cells. Each is a module of this package that runs one layer over a sequence.

CONTRIBUTING.md lists the steps for adding a cell. rnn.py is the smallest one; gru_original.py shows
gates, `saved` and scratch memory.

Sizes
    T steps, B rows of the batch, H hidden units padded to a multiple of 16, G gates, P planes, S
    states. In padding units, s and saved must be 0 after `forward`, the gradients in z and dh after
    `backward`; gates in z may hold anything there.

A module defines the constants
    GATES   G, the blocks of H rows in W_ih, W_hh, b_ih and b_hh, as in PyTorch's tensors.
    PLANES  P, the pre-activations of a unit. Usually G; more if the input's and the hidden
            state's contributions to a gate must stay separate.
    STATES  S, the state vectors: 1 for h; 2 for h and c.
    SAVED   The number of arrays (T, B, H) that `forward` saves for `backward` besides z and s.
    INPUT_PLANES, HIDDEN_PLANES
            Arrays (G,): the planes of z to which gate g adds W_ih x + b_ih and W_hh h + b_hh.
            `backward` must leave the gradients of both sums in these planes.
    OPERANDS
            A tuple of G: what gate g's W_hh multiplies; -1 for h of the step before, i >= 0 for
            saved[i]. The weight gradients need it.
    PEEPHOLES
            {name: (plane, state, shift)} of weights (H,), such as peepholes. The gradient is the
            sum over t of dz[t, plane] * s[state, t + shift]; shift 0 is the state before step t.
    BIAS    A tuple of G: the initial value of each gate's b_ih, 0 unless a paper gives a reason.
            b_hh starts at 0.
    SIGMOIDS
            {name: plane} of the gates whose values from 0 to 1 `forward` leaves in z. `charrnn
            inspect` shows them under these names, which are those of the paper.

and two kernels, which work in place on rows first:last of the batch
    forward(z, s, saved, W, peepholes, x, record_end, held, steps, first, last)
            Computes `steps` steps from the state s[:, 0]; step t leads from s[:, t] to s[:, t + 1].
            Each step begins with `begin_step` and ends with `end_step`.
    backward(z, s, saved, W_T, peepholes, dh, dc, x, record_end, held, steps, first, last)
            Computes the gradients, from the last step to the first. Each step begins with
            `begin_step_back` and ends with `end_step_back`.

Their arguments
    z       (T, P, B, H), z[t] for step t. Before `forward`: W_ih x and all biases. After it: the
            values that `backward` needs, usually the gates. After `backward`: the gradients of
            the pre-activations.
    s       (S, T + 1, B, H). s[0] is h, s[1] is c. s[:, t] is the state before step t; `forward`
            computes s[:, 1:].
    saved   (SAVED, T, B, H).
    W       (G, H / 16, H, 16). W_hh packed in panels: product(h, W[g], z[t, p]) adds W_hh h of
            gate g to plane p.
    W_T     (G, H / 16, H, 16). Its transpose: product(dz, W_T[g], dh) adds W_hhᵀ dz to dh.
    peepholes
            (len(PEEPHOLES), H), in the order of PEEPHOLES.
    dh      (T + 1, B, H). Before `backward`: dh[1:] holds the gradients of h from the layer above,
            dh[0] is 0. `backward` adds the gradients through time, so dh[0] becomes the gradient
            of the initial h. It may use dh[t + 1] as scratch once step t is done.
    dc  (B, H). The gradient of c: on entry of the final c, on return of the initial one. It is
            scratch for cells without c.
    x, record_end, held
            The cell passes them to the four functions above. In between, s[:, t] is 0 for rows in
            which a record begins: x (T, B) are ids, of which `record_end` begins a record, and
            held (S + 1, B, H) keeps the values that `end_step` restores.

Writing the kernels
    @kernel compiles a function that Python calls, @jit one that only kernels call. `product`,
    `sigmoid_`, `tanh_`, `tanh`, `begin_step` and their like come from ../kernels. Slices such as
    z[t, p, first:last] are contiguous, which `product` relies on; `.reshape(-1)` lets elementwise
    loops run over all rows. An operation rounds as it stands there: `fma(a, b, c)` of
    ../kernels/fma is a * b + c in one. Constants take the dtype of the arrays
    (`one = z.dtype.type(1)`), or float32 becomes float64.
"""

from types import ModuleType

from . import gru, gru_original, lstm, lstm_peephole, rnn

CELLS: dict[str, ModuleType] = {
    "rnn": rnn,
    "lstm": lstm,
    "lstm-peephole": lstm_peephole,
    "gru": gru,
    "gru-original": gru_original,
}
