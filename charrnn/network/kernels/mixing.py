"""The distribution of a mixture of models, in float64."""

import numpy as np

from ..jit import kernel
from .activations import exp, log
from .sampling import bounded, log_sum_exp


@kernel
def log_softmax_rows(logits, vocab_size, ids, log_weight, read, out, first, last):
    """out[n, i] = log_weight + log softmax(logits[0, n]) at ids[i], for rows n in first:last.

    Rows without read[n] stay. An id of -1 has probability 0. logits (1, N, padded V of the model),
    ids (V,) int32, read (N,) bool, out (N, V) float64.
    """
    for n in range(first, last):
        if read[n]:
            highest, log_total = log_sum_exp(logits[0, n], vocab_size)
            for i in range(ids.size):
                out[n, i] = -np.inf
                if ids[i] >= 0:
                    log_p = bounded(logits[0, n, ids[i]]) - highest - log_total
                    out[n, i] = log_weight + log_p


@kernel
def mix_rows(log_p, out, first, last):
    """out[0, n, i] = log(sum over k of exp(log_p[k, n, i])), for rows n in first:last.

    log_p (K, N, V), out (1, N, V), float64.
    """
    for n in range(first, last):
        for i in range(out.shape[2]):
            highest, total = -np.inf, 0.0
            for k in range(log_p.shape[0]):
                highest = max(highest, log_p[k, n, i])
            out[0, n, i] = highest
            if highest > -np.inf:
                for k in range(log_p.shape[0]):
                    total += exp(log_p[k, n, i] - highest)
                out[0, n, i] = highest + log(total)
