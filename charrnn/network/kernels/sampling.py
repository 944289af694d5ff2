"""Sampling a character from logits, in float64, as `rng.choice(V, p=p)` does."""

import numpy as np

from ..jit import jit, kernel
from .activations import exp, log
from .lanes import sum_lanes

LARGEST_LOGIT = 1e100  # in magnitude: larger logits, infinity and NaN count as this or its negative
LARGEST_PENALTY = 1e200  # larger ones count as this: their products with scores would overflow


@jit
def draw(logits, allowed, penalty, temperature, top_k, top_p, min_p, recent, u, scores, p):
    """Sample an id by inverting the cumulative distribution at u, 0 <= u < 1.

    The distribution is made in this order:
    1. Only ids i with allowed[i] remain; at least one must.
    2. The log-probability of each id in `recent` (-1: none) is multiplied by `penalty`.
    3. p = softmax(scores / temperature); temperature 0 returns the likeliest id.
    4. Only the top_k likeliest remain (0: all).
    5. Only the smallest set of the likeliest that reaches probability top_p remains (Holtzman et
       al. 2020).
    6. Only ids at least min_p times as likely as the likeliest remain (Nguyen et al. 2024).

    Of equally likely ids the lowest ranks first. Ids are ranked by their scores, which differ at
    temperatures that make all probabilities equal. logits (V,); scores and p (V,) float64 are
    scratch.
    """
    _score(logits, allowed, scores)
    if penalty != 1:
        _penalize(scores, logits, allowed, recent, min(penalty, LARGEST_PENALTY))
    likeliest = _likeliest(scores)
    if temperature == 0:
        return likeliest
    if 0 < top_k < p.size:
        _keep_likeliest(scores, top_k)
    _exponentials(scores, scores[likeliest], temperature, p)
    if top_p < 1:
        _keep_nucleus(scores, top_p, p)
    if min_p > 0:
        least = min_p * p[likeliest]
        for i in range(p.size):
            p[i] = p[i] if p[i] >= least else 0.0
    return _invert(p, u * sum_lanes(p))


@jit
def _likeliest(scores):
    """np.argmax. (To load Numba's own from the cache would import its NumPy part, and SciPy.)"""
    best = 0
    for i in range(scores.size):
        best = i if scores[i] > scores[best] else best
    return best


@jit
def bounded(logit):
    """The logit as a finite float64."""
    x = np.float64(logit)
    if abs(x) <= LARGEST_LOGIT:
        return x
    return LARGEST_LOGIT if x > 0 else -LARGEST_LOGIT


@jit
def _score(logits, allowed, scores):
    """scores = logits, or -inf for ids that are not allowed."""
    for i in range(scores.size):
        scores[i] = bounded(logits[i]) if allowed[i] else -np.inf


@jit
def _penalize(scores, logits, allowed, recent, penalty):
    """Turn scores into log-probabilities, multiplied by the penalty for ids in `recent`."""
    highest, total = scores[_likeliest(scores)], 0.0
    for i in range(scores.size):
        total += exp(scores[i] - highest)
    log_total = highest + log(total)
    for i in range(scores.size):
        scores[i] -= log_total
    for i in recent:
        if i >= 0 and allowed[i]:
            scores[i] = penalty * (bounded(logits[i]) - log_total)


@jit
def _exponentials(scores, highest, temperature, p):
    """p = weights proportional to exp(score / temperature); the highest score has weight 1."""
    for i in range(p.size):
        p[i] = exp((scores[i] - highest) / temperature)


@jit
def _keep_likeliest(scores, k):
    """Set all but the k highest scores to -inf, in place."""
    least, left = _kth_largest(scores, k), k
    for i in range(scores.size):
        left -= 1 if scores[i] > least else 0
    for i in range(scores.size):
        if scores[i] == least and left > 0:
            left -= 1
        elif scores[i] <= least:
            scores[i] = -np.inf


@jit
def _kth_largest(scores, k):
    """The k-th largest score: the root of a min-heap of the k largest so far."""
    heap = scores[:k].copy()
    for root in range(k // 2 - 1, -1, -1):
        _sift(heap, root)
    for i in range(k, scores.size):
        if scores[i] > heap[0]:
            heap[0] = scores[i]
            _sift(heap, 0)
    return heap[0]


@jit
def _sift(heap, root):
    """Sift heap[root] down until neither child is smaller."""
    while 2 * root + 1 < heap.size:
        child = 2 * root + 1
        if child + 1 < heap.size and heap[child + 1] < heap[child]:
            child += 1
        if heap[root] <= heap[child]:
            return
        heap[root], heap[child] = heap[child], heap[root]
        root = child


@jit
def _keep_nucleus(scores, top_p, p):
    """Keep the weights p of the highest scores that reach top_p of their sum; zero the others.

    Weights below 1 - top_p of the mean sum to less than 1 - top_p of the total, so they can never
    be needed: only the others are sorted.
    """
    total = sum_lanes(p)
    least, count = (1 - top_p) * total / p.size, 0
    keys, places = np.empty(p.size), np.empty(p.size, np.int64)
    for i in range(p.size):
        if p[i] >= least:
            keys[count], places[count] = -scores[i], i
            count += 1
    reached, last = 0.0, -1
    for i in np.argsort(keys[:count], kind="mergesort"):
        if reached >= top_p * total:
            break
        last = places[i]
        reached += p[last]
    for i in range(p.size):
        beyond = scores[i] < scores[last] or (scores[i] == scores[last] and i > last)
        p[i] = 0.0 if beyond else p[i]


@jit
def _invert(p, target_mass):
    """The first id at which the cumulative sum of the weights p exceeds `target_mass`."""
    reached, last = 0.0, 0
    for i in range(p.size):
        reached += p[i]
        if reached > target_mass:
            return i
        if p[i] > 0:
            last = i
    return last


@kernel
def draw_rows(
    logits, allowed, penalty, temperature, top_k, top_p, min_p, recent, u, step, ids, x, first, last
):
    """ids[step, n] = x[0, n] = `draw` from logits[0, n] with u[n, step], for rows n in first:last.

    logits (1, N, padded V), allowed (V,) bool, u (N, steps), ids (steps, N) and x (1, N) int32.
    recent (N, W) int32 holds the last W ids of each row, the newest at the end; W may be 0.
    """
    scores, p = np.empty(allowed.size, np.float64), np.empty(allowed.size, np.float64)
    for n in range(first, last):
        i = draw(
            logits[0, n, : allowed.size], allowed, penalty, temperature, top_k, top_p, min_p,
            recent[n], u[n, step], scores, p,
        )  # fmt: skip
        ids[step, n] = x[0, n] = i
        for j in range(1, recent.shape[1]):
            recent[n, j - 1] = recent[n, j]
        if recent.shape[1] > 0:
            recent[n, recent.shape[1] - 1] = i


@kernel
def log_probabilities(logits, vocab_size, ids, step, out, first, last):
    """out[step, n] = log softmax(logits[0, n]) at ids[step, n], for rows n in first:last.

    logits (1, N, padded V), ids (steps, N) int32, out (steps, N) float64.
    """
    for n in range(first, last):
        highest, log_total = log_sum_exp(logits[0, n], vocab_size)
        out[step, n] = bounded(logits[0, n, ids[step, n]]) - highest - log_total


@jit
def log_sum_exp(logits, vocab_size):
    """The highest of the first logits, and the logarithm of the sum of exp(logit - highest)."""
    highest, total = -np.inf, 0.0
    for i in range(vocab_size):
        highest = max(highest, bounded(logits[i]))
    for i in range(vocab_size):
        total += exp(bounded(logits[i]) - highest)
    return highest, log(total)
