"""The recurrent cells. A cell is a module; to add one, write the module and its line in CELLS.

A cell sees T steps of rows first:last of a batch B of one layer. All widths H here are padded to
whole panels of 16; padding units are 0 in every array and must stay so (0 = tanh(0), for one).

    z     (T, PLANES, B, H)  pre-activations, with biases and the input's product already in;
                             forward leaves what backward needs there, backward the gradients of
                             the pre-activations
    s     (STATES, T+1, B, H)  s[0] = h, s[1] = c; s[:, 0] is the start, forward fills the rest
    kept  (KEPT, T, B, H)    more that forward keeps for backward and for weight gradients
    W     (G, H/16, H, 16)   W_hh packed: gate by gate, for product(h, W[gate], z)
    W_T   (G, H/16, H, 16)   its transpose packed, for product(dz, W_T[gate], dh)
    extra (len(EXTRA), H)    vectors a cell has beside the matrices
    dh    (T+1, B, H)        in: gradients of h[1:] from above; backward adds those through time, so
                             that dh[0] becomes the start's
    carry (B, H)             gradient of the last state but h, in at the end and out at the start;
                             room for scratch where there is none

A module states
    GATES, PLANES, STATES, KEPT   how many of each
    INPUT_PLANES, HIDDEN_PLANES   arrays: for each gate the plane of z that W_ih x + b_ih and
                                  W_hh h + b_hh are added to (b_hh and all of the input's before
                                  `forward`), and whose gradient is theirs after `backward`
    OPERANDS                      for each gate what W_hh multiplies: -1 for h of the step before,
                                  else the index in `kept`
    EXTRA                         {name: (plane, state, shift)}: its gradient is the sum of
                                  dz[t, plane] * s[state, t + shift]
    BIAS                          for each gate the bias it starts from
    SIGMOIDS                      {name: plane of z in which `forward` leaves a gate from 0 to 1}
    forward(z, s, kept, W, extra, steps, first, last)
    backward(z, s, kept, W_T, extra, dh, carry, steps, first, last)
"""

from . import gru, gru_original, lstm, lstm_peephole, rnn

CELLS = {
    "rnn": rnn,
    "lstm": lstm,
    "lstm-peephole": lstm_peephole,
    "gru": gru,
    "gru-original": gru_original,
}
