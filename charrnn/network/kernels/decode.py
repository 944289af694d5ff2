"""Sampling as one compiled loop: each id that is drawn is the input of the next step.

The loop calls the kernels of a step by their addresses. Built into it they would be compiled once
more, and for every cell.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from ..jit import kernel
from ..numba_internals import call_by_address, kernel_address
from .cross_entropy import logits_of
from .embedding import embed, look_up
from .matmul import input_product
from .ngrams import find_rows
from .sampling import draw_rows, log_probabilities
from .state import advance_state

FIND, LOOK_UP, PRODUCT, CELL, LOGITS, DRAW, LOG_P = range(7)  # the kernels of a step


def step_kernels(
    forward: Any, x: Any, context: Any, inputs: Any, layers: Any, outputs: Any, draws: Any,
    drawn: Any, log_p: Any,
) -> Any:  # fmt: skip
    """The addresses (7,) of the kernels of a step, for arguments of `decode` of these types.

    forward: the kernel of the cell. A kernel that the model does not need is not loaded: it has 0.
    """
    table, ngram_rows, embedded, planes = inputs
    z, s, saved, w_first, _, w_hh, bias, peepholes, *records = layers
    looked_up, rows = (table, ngram_rows, x, context[-1]), (1, 0, 1)
    embedding = embed, *looked_up, embedded
    one_hot = look_up, *looked_up, planes, bias[0], z[0]
    calls = (
        (find_rows, *context, *rows),
        (*(embedding if embedded.size else one_hot), *rows),
        (input_product, s[0, 0, 1:], w_first, planes, bias[0], z[0], *rows),
        (forward, z[0], s[0], saved[0], w_hh[0], peepholes[0], x, *records, *rows),
        (logits_of, s[0, 0, 1:], *outputs, *rows),
        (draw_rows, outputs[-1], *draws, 0, drawn, x, 0, 1),
        (log_probabilities, outputs[-1], context[1], drawn, 0, log_p, 0, 1),
    )
    needed = [True] * len(calls)
    needed[FIND] = context[-1].size > 0
    needed[LOG_P] = log_p.size > 0
    needed[PRODUCT] = embedded.size > 0 or len(z) > 1
    addresses = [kernel_address(*call) if n else 0 for call, n in zip(calls, needed, strict=True)]
    return np.array(addresses)


@kernel
def decode(kernels, x, context, inputs, layers, outputs, draws, drawn, log_p, first, last):
    """Run drawn.shape[0] steps of rows first:last, each on the ids that the one before has drawn.

    kernels: the addresses of `step_kernels`.
    x: the ids (1, B) of the first step, and on return those of the step to come.
    context: ids (N, B), those before x and room for x; V; keys, rows, found of `find_rows`.
    inputs: table, ngram_rows, embedded, planes of `embed` and `look_up`.
    layers: z, s, saved of all layers; W_ih of the first layer and of the others, W_hh, biases,
        peepholes, record_end, held. See cells/__init__.py.
    outputs: W, bias, logits of `logits_of`.
    draws: allowed to u of `draw_rows`.
    drawn: the ids (steps, B) that are drawn.
    log_p: their log-probabilities (steps, B), or (0, B) if they are not wanted.
    """
    ids, vocab_size, keys, rows, found = context
    table, ngram_rows, embedded, planes = inputs
    z, s, saved, w_first, w_ih, w_hh, bias, peepholes, record_end, held = layers
    w_out, b_out, logits = outputs
    before = found.shape[2]
    for step in range(drawn.shape[0]):
        if before > 0:
            for b in range(first, last):
                ids[before, b] = x[0, b]
            call(kernels[FIND], (ids, vocab_size, keys, rows, found, 1, first, last))
            for n in range(before):
                for b in range(first, last):
                    ids[n, b] = ids[n + 1, b]
        looked_up = table, ngram_rows, x, found
        if embedded.size > 0:
            call(kernels[LOOK_UP], looked_up + (embedded, 1, first, last))
            call(kernels[PRODUCT], (embedded, w_first, planes, bias[0], z[0], 1, first, last))
        else:
            call(kernels[LOOK_UP], looked_up + (planes, bias[0], z[0], 1, first, last))
        for k in range(z.shape[0]):
            if k > 0:
                below = s[k - 1, 0, 1:]
                call(kernels[PRODUCT], (below, w_ih[k - 1], planes, bias[k], z[k], 1, first, last))
            arrays = z[k], s[k], saved[k], w_hh[k], peepholes[k]
            call(kernels[CELL], arrays + (x, record_end, held, 1, first, last))
        call(kernels[LOGITS], (s[-1, 0, 1:], w_out, b_out, logits, 1, first, last))
        for k in range(z.shape[0]):
            advance_state(s[k], first, last)
        call(kernels[DRAW], (logits,) + draws + (step, drawn, x, first, last))
        if log_p.shape[0] > 0:
            call(kernels[LOG_P], (logits, vocab_size, drawn, step, log_p, first, last))


@intrinsic
def call(typing_context, address, args):
    """Call the compiled function at `address` with the elements of a tuple; it returns nothing."""
    signature = types.void(address, args)
    kinds = [types.unliteral(kind) for kind in args]

    def generate(context, builder, signature, values):
        address, values = values
        elements = [
            context.cast(builder, builder.extract_value(values, i), given, kind)
            for i, (given, kind) in enumerate(zip(signature.args[1], kinds, strict=True))
        ]
        call_by_address(context, builder, address, kinds, elements)
        return context.get_dummy_value()

    return signature, generate
