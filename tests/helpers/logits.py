"""What a model expects at each position of a text."""

import numpy as np

from charrnn.network.stack import forward


def text_logits(model, ids):
    """The logits (n, V) for each of ids (n,), from the model's first start."""
    start = model.start.first
    logits, _ = forward(model, np.concatenate([start.ids, ids])[:-1, None], start.states)
    return logits[:, 0]
