"""From logits to the next character, in float64, as `rng.choice(V, p=p)` draws it."""

import math

import numpy as np

from ..jit import entry, jit


@jit
def draw(logits, temperature, top_k, top_p, u):
    """The id whose share of the cumulated probabilities holds u, from 0 to below 1.

    p = softmax(logits / temperature); then all but the top_k likeliest are dropped (0: none), then
    all but the smallest set of the likeliest that reaches probability top_p (Holtzman et al. 2020).
    temperature 0 gives the likeliest. Of equals the first comes first. logits (V,).
    """
    if temperature == 0:
        return _likeliest(logits)
    p = _softmax(logits, temperature)
    if 0 < top_k < p.size or top_p < 1:
        _truncate(p, top_k, top_p)
    total = 0.0
    for i in range(p.size):
        total += p[i]
        p[i] = total
    last = 0
    for i in range(p.size):
        if p[i] / total > u:
            return i
        last = i
    return last


@jit
def _likeliest(logits):
    """np.argmax, to load which from the cache would import NumPy's half of Numba, and SciPy."""
    best = 0
    for i in range(logits.size):
        best = i if logits[i] > logits[best] else best
    return best


@jit
def _softmax(logits, temperature):
    p = np.empty(logits.size, np.float64)
    highest = np.float64(logits[0])
    for i in range(p.size):
        highest = max(highest, np.float64(logits[i]))
    total = 0.0
    for i in range(p.size):
        p[i] = math.exp((np.float64(logits[i]) - highest) / temperature)
        total += p[i]
    for i in range(p.size):
        p[i] /= total
    return p


@jit
def _truncate(p, top_k, top_p):
    """Drop all but the likeliest from p, in place, and make the rest sum to 1."""
    order = np.argsort(-p, kind="mergesort")
    kept = p.size if top_k == 0 else min(top_k, p.size)
    total = 0.0
    for i in range(kept):
        total += p[order[i]]
    reached = 0.0
    for i in range(kept):
        if reached >= top_p * total:
            kept = i
            break
        reached += p[order[i]]
    for i in range(kept, p.size):
        p[order[i]] = 0
    rest = 0.0
    for i in range(kept):
        rest += p[order[i]]
    for i in range(p.size):
        p[i] /= rest


@entry
def draw_rows(logits, temperature, top_k, top_p, u, ids):
    """ids[0, n] = the draw from logits[0, n] with u[n]. logits (1, N, V), ids (1, N) int32."""
    for n in range(ids.shape[1]):
        ids[0, n] = draw(logits[0, n], temperature, top_k, top_p, u[n])
