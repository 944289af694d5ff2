"""From logits to the next character, in float64, as `rng.choice(V, p=p)` draws it."""

import math

import numpy as np

from ..jit import jit, kernel
from .activations import exp
from .cross_entropy import REASSOCIATIVE


@jit
def draw(logits, allowed, penalty, temperature, top_k, top_p, min_p, recent, u, p):
    """The id whose share of the cumulated probabilities holds u, from 0 to below 1.

    In this order: only ids i with allowed[i] are left; the log-probability of each id in `recent`
    (-1: none) is multiplied by `penalty`; p = softmax(scores / temperature); then all but the top_k
    likeliest are dropped (0: none), then all but the smallest set of the likeliest that reaches
    probability top_p (Holtzman et al. 2020), then what is less likely than min_p times the
    likeliest (Nguyen et al. 2024). temperature 0 gives the likeliest. Of equals the first comes
    first. logits (V,), at least one of them allowed; p (V,) float64 is scratch.
    """
    _score(logits, allowed, p)
    if penalty != 1:
        _penalize(p, logits, allowed, recent, penalty)
    if temperature == 0:
        return _likeliest(p)
    _exponentials(p, p[_likeliest(p)], temperature)
    if 0 < top_k < p.size:
        _keep_likeliest(p, top_k)
    if top_p < 1:
        _keep_nucleus(p, top_p)
    if min_p > 0:
        least = min_p * p[_likeliest(p)]
        for i in range(p.size):
            p[i] = p[i] if p[i] >= least else 0.0
    return _chosen(p, u * _sum(p))


@jit
def _likeliest(scores):
    """np.argmax, to load which from the cache would import NumPy's half of Numba, and SciPy."""
    best = 0
    for i in range(scores.size):
        best = i if scores[i] > scores[best] else best
    return best


@jit
def _score(logits, allowed, scores):
    """scores = logits, -inf for what is not allowed."""
    for i in range(scores.size):
        scores[i] = logits[i] if allowed[i] else -np.inf


@jit
def _penalize(scores, logits, allowed, recent, penalty):
    """Scores become log-probabilities, those of `recent` multiplied by the penalty."""
    highest, total = scores[_likeliest(scores)], 0.0
    for i in range(scores.size):
        total += exp(scores[i] - highest)
    log_total = highest + math.log(total)
    for i in range(scores.size):
        scores[i] -= log_total
    for i in recent:
        if i >= 0 and allowed[i]:
            scores[i] = penalty * (np.float64(logits[i]) - log_total)


@jit
def _exponentials(p, highest, temperature):
    """Scores become weights in proportion to exp(score / temperature), in place."""
    for i in range(p.size):
        p[i] = exp((p[i] - highest) / temperature)


@jit(fastmath=REASSOCIATIVE)
def _sum(p):
    total = 0.0
    for i in range(p.size):
        total += p[i]
    return total


@jit
def _keep_likeliest(p, k):
    """Drop all but the k largest of the weights p, in place."""
    least, left = _largest(p, k), k
    for i in range(p.size):
        left -= 1 if p[i] > least else 0
    for i in range(p.size):
        if p[i] == least and left > 0:
            left -= 1
        elif p[i] <= least:
            p[i] = 0


@jit
def _largest(p, k):
    """The k-th largest of p: the root of a heap of the k largest so far, the least on top."""
    heap = p[:k].copy()
    for root in range(k // 2 - 1, -1, -1):
        _sift(heap, root)
    for i in range(k, p.size):
        if p[i] > heap[0]:
            heap[0] = p[i]
            _sift(heap, 0)
    return heap[0]


@jit
def _sift(heap, root):
    """Let heap[root] sink until nothing below it is less."""
    while 2 * root + 1 < heap.size:
        child = 2 * root + 1
        if child + 1 < heap.size and heap[child + 1] < heap[child]:
            child += 1
        if heap[root] <= heap[child]:
            return
        heap[root], heap[child] = heap[child], heap[root]
        root = child


@jit
def _keep_nucleus(p, top_p):
    """Drop all but the largest of the weights p that reach the share top_p of their sum, in place.

    Only what may be left is sorted: all that is below 1 - top_p of the mean has less than the
    share 1 - top_p.
    """
    total = _sum(p)
    least, count = (1 - top_p) * total / p.size, 0
    weights, places = np.empty(p.size), np.empty(p.size, np.int64)
    for i in range(p.size):
        if p[i] >= least:
            weights[count], places[count] = -p[i], i
            count += 1
    order = np.argsort(weights[:count], kind="mergesort")
    reached, last = 0.0, -1
    for i in order:
        if reached >= top_p * total:
            break
        reached -= weights[i]
        last = places[i]
    least = p[last]
    for i in range(p.size):
        p[i] = p[i] if p[i] > least or (p[i] == least and i <= last) else 0.0


@jit
def _chosen(p, share):
    """The first id at which the sum of the weights p exceeds `share`."""
    reached, last = 0.0, 0
    for i in range(p.size):
        reached += p[i]
        if reached > share:
            return i
        if p[i] > 0:
            last = i
    return last


@kernel
def draw_rows(
    logits, allowed, penalty, temperature, top_k, top_p, min_p, recent, u, step, ids, x, first, last
):
    """ids[step, n] = x[0, n] = the draw from logits[0, n] with u[n, step], n from first to last.

    logits (1, N, padded V), allowed (V,) bool, u (N, steps), ids (steps, N) and x (1, N) int32;
    recent (N, W) int32 holds the last ids of each row, the drawn one at the end; W may be 0.
    """
    p = np.empty(allowed.size, np.float64)
    for n in range(first, last):
        i = draw(
            logits[0, n, : allowed.size], allowed, penalty, temperature, top_k, top_p, min_p,
            recent[n], u[n, step], p,
        )  # fmt: skip
        ids[step, n] = x[0, n] = i
        for j in range(1, recent.shape[1]):
            recent[n, j - 1] = recent[n, j]
        if recent.shape[1] > 0:
            recent[n, recent.shape[1] - 1] = i
