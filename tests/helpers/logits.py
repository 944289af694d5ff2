"""What a model expects at each position of a text."""

import numpy as np

from charrnn.network.stack import forward


def text_logits(model, ids):
    """The logits (n, V) for each of ids (n,), from the model's first start."""
    start = model.start.first
    logits, _ = forward(model, np.concatenate([start.ids, ids])[:-1, None], start.states)
    return logits[:, 0]


def require_same_in_chunks(model, x, state, cuts):
    """Each of `cuts`, lengths of chunks of x (T, N), must give the bits of the whole."""
    whole, end = forward(model, x, state)
    for lengths in cuts:
        carried, parts = state, []
        for start, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
            logits, carried = forward(model, x[start : start + length], carried)
            parts.append(logits)
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert carried.equals(end)
