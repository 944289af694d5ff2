"""The likeliest text that a beam search finds (Graves 2012; Sutskever et al. 2014)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from ..network.model import Model
from ..network.stack import Stack
from .sampler import state_after
from .stopping import StopMatcher, StoppingCriteria


def beam_search(
    model: Model,
    prime: np.ndarray,
    width: int,
    ending: StoppingCriteria,
    symbols: Callable[[np.ndarray], str],
    allowed: np.ndarray,
) -> tuple[str, float]:
    """The likeliest text found after `prime`, and the model's log-probability of it, in nats.

    At each length the `width` likeliest beginnings of a text are followed; those that end leave
    the beam. A stop that ends the text counts in its probability. Only `allowed` ids (V,) bool are
    written. Of equals the first comes first. `symbols` turns ids into a str, a character each.
    """
    alphabet = symbols(np.arange(model.config.vocab_size))
    stack = Stack(model, width, 1)
    stack.set_state(state_after(model, prime[:-1]).repeat(width, axis=2))
    x = np.full((1, width), prime[-1], np.int32)
    # A beginning is (its ids as a chain (last id, chain before), what follows where it ends).
    alive, scores = [((), StopMatcher(ending))], np.zeros(1)
    best, best_score = (), -np.inf
    if alive[0][1].over:
        return "", 0.0
    # No text is likelier than its beginning: a text ahead of all beginnings is the likeliest.
    while len(alive) and best_score < scores[0]:
        stack.forward(x)
        candidates = scores[:, None] + _log_probabilities(stack, len(alive), allowed)
        before, alive, rows = alive, [], []
        for place in _likeliest(candidates, width):
            row, i = divmod(int(place), len(alphabet))
            chain, cutter = (i, before[row][0]), copy.copy(before[row][1])
            cutter.feed(alphabet[i])
            if not cutter.over:
                alive.append((chain, cutter))
                rows.append(place)
            elif candidates[row, i] > best_score:
                best, best_score = chain, candidates[row, i]
        scores = candidates.reshape(-1)[rows]
        parents, ids = np.divmod(np.resize(np.array(rows or [0]), width), len(alphabet))
        stack.advance_state(1, parents)
        x[0] = ids
    return StopMatcher(ending).feed(_text(best, alphabet)), float(best_score)


def _log_probabilities(stack: Stack, rows: int, allowed: np.ndarray) -> np.ndarray:
    """(rows, V) float64, -inf for what is not allowed."""
    logits = stack.logits[0, :rows, : len(allowed)].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.where(allowed, logits, -np.inf)


def _likeliest(scores: np.ndarray, count: int) -> np.ndarray:
    """The places, in the flat array, of the highest `count` that are not -inf, highest first."""
    flat = scores.reshape(-1)
    if count < flat.size:
        least = np.partition(flat, flat.size - count)[flat.size - count]
        places = np.flatnonzero((flat >= least) & (flat > -np.inf))
    else:
        places = np.flatnonzero(flat > -np.inf)
    return places[np.argsort(-flat[places], kind="stable")][:count]


def _text(chain: tuple, alphabet: str) -> str:
    characters = []
    while chain:
        i, chain = chain
        characters.append(alphabet[i])
    return "".join(reversed(characters))
