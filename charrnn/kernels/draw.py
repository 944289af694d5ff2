"""From logits to the next character, in float64, as `rng.choice(V, p=p)` draws it."""

import math

import numpy as np

from ..jit import entry, jit


@jit
def draw(logits, allowed, penalty, temperature, top_k, top_p, min_p, recent, u):
    """The id whose share of the cumulated probabilities holds u, from 0 to below 1.

    In this order: only ids i with allowed[i] are left; the log-probability of each id in `recent`
    (-1: none) is multiplied by `penalty`; p = softmax(scores / temperature); then all but the top_k
    likeliest are dropped (0: none), then all but the smallest set of the likeliest that reaches
    probability top_p (Holtzman et al. 2020), then what is less likely than min_p times the
    likeliest (Nguyen et al. 2024). temperature 0 gives the likeliest. Of equals the first comes
    first. logits (V,), at least one of them allowed.
    """
    p = _scores(logits, allowed, recent, penalty)
    if temperature == 0:
        return _likeliest(p)
    _exponentials(p, temperature)
    if 0 < top_k < p.size or top_p < 1:
        _truncate(p, top_k, top_p)
    if min_p > 0:
        least = min_p * p[_likeliest(p)]
        for i in range(p.size):
            p[i] = p[i] if p[i] >= least else 0.0
    return _chosen(p, u)


@jit
def _likeliest(scores):
    """np.argmax, to load which from the cache would import NumPy's half of Numba, and SciPy."""
    best = 0
    for i in range(scores.size):
        best = i if scores[i] > scores[best] else best
    return best


@jit
def _scores(logits, allowed, recent, penalty):
    """logits in float64, -inf for what is not allowed; log-probabilities if there is a penalty."""
    scores = np.empty(logits.size, np.float64)
    for i in range(scores.size):
        scores[i] = logits[i] if allowed[i] else -np.inf
    if penalty == 1:
        return scores
    highest, total = scores[_likeliest(scores)], 0.0
    for i in range(scores.size):
        total += math.exp(scores[i] - highest)
    log_total = highest + math.log(total)
    for i in range(scores.size):
        scores[i] -= log_total
    for i in recent:
        if i >= 0 and allowed[i]:
            scores[i] = penalty * (np.float64(logits[i]) - log_total)
    return scores


@jit
def _exponentials(p, temperature):
    """Scores become weights in proportion to exp(score / temperature), in place."""
    highest = p[_likeliest(p)]
    for i in range(p.size):
        p[i] = math.exp((p[i] - highest) / temperature)


@jit
def _truncate(p, top_k, top_p):
    """Drop all but the likeliest from the weights p, in place."""
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


@jit
def _chosen(p, u):
    """The first id at which the sum of the weights p exceeds the share u of all."""
    total = 0.0
    for i in range(p.size):
        total += p[i]
    reached, last = 0.0, 0
    for i in range(p.size):
        reached += p[i]
        if reached > u * total:
            return i
        if p[i] > 0:
            last = i
    return last


@entry
def draw_rows(
    logits, allowed, penalty, temperature, top_k, top_p, min_p, recent, u, step, ids, first, last
):
    """ids[0, n] = the draw from logits[0, n] with u[n, step], for the rows n from first to last.

    logits (1, N, padded V), allowed (V,) bool, u (N, steps), ids (1, N) int32; recent (N, W) int32
    holds the last ids of each row, the drawn one at the end; W may be 0.
    """
    for n in range(first, last):
        i = draw(
            logits[0, n, : allowed.size], allowed, penalty, temperature, top_k, top_p, min_p,
            recent[n], u[n, step],
        )  # fmt: skip
        ids[0, n] = i
        for j in range(1, recent.shape[1]):
            recent[n, j - 1] = recent[n, j]
        if recent.shape[1] > 0:
            recent[n, recent.shape[1] - 1] = i
