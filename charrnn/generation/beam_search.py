"""Beam search for the likeliest text (Graves 2012; Sutskever et al. 2014)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import count as count_from
from itertools import repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..network.model import Model
from ..network.stack import Stack
from ..network.start import TextStart
from .primes import states_after
from .stopping import StopMatcher, StoppingCriteria

# A linked list of ids, the last one first: hypotheses share their beginnings.
_Ids = tuple[()] | tuple[int, "_Ids"]
_Scores = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]


class _Hypothesis(NamedTuple):
    """The beginning of a text, and its state of matching the stopping criteria."""

    ids: _Ids
    matcher: StopMatcher

    def extended(self, i: int, character: str) -> _Hypothesis:
        matcher = copy.copy(self.matcher)
        matcher.feed(character)
        return _Hypothesis((i, self.ids), matcher)


def beam_search(
    model: Model,
    prime: np.ndarray,
    width: int,
    criteria: StoppingCriteria,
    symbols: Callable[[np.ndarray], str],
    allowed: _Mask,
    start: TextStart | None = None,
    count: int = 1,
) -> list[tuple[str, float]]:
    """Return the `count` likeliest texts found after `prime`, the likeliest first.

    Each has its log-probability in nats. There are fewer if fewer are possible. Records are whole
    and not empty.

    The prime is read from the first state of `start`, by default the model's.

    At each length the beam holds the `width` likeliest hypotheses; finished ones leave it. The
    log-probability includes a stop that ends the text. Only ids `allowed`, (V,) bool, are
    generated. Of equally likely texts the first counts. `symbols` turns ids into a str of one
    character per id.
    """
    alphabet = symbols(np.arange(model.config.vocab_size))
    beam, scores = [_Hypothesis((), StopMatcher(criteria))], np.zeros(1)
    if beam[0].matcher.finished:
        return [("", 0.0)]
    stack = Stack(model, width, 1)
    allowed_ids = _allowed_ids(model, criteria, allowed, len(prime))
    start = (start or model.start).first
    prime = start.prepend(prime)
    stack.set_state(states_after(model, [prime[:-1]], start.states).repeat(width))
    x = np.full((1, width), prime[-1], np.int32)
    found = _Likeliest(count)
    # Extending a hypothesis never makes it likelier: texts ahead of the whole beam are the best.
    while beam and found.least < scores[0]:
        stack.forward(x)
        candidates = scores[:, None] + log_probabilities(stack, len(beam), next(allowed_ids))
        previous, beam, places = beam, [], []
        for place in likeliest(candidates, width):
            row, i = divmod(int(place), len(alphabet))
            hypothesis = previous[row].extended(i, alphabet[i])
            if not hypothesis.matcher.finished:
                beam.append(hypothesis)
                places.append(int(place))
            elif candidates[row, i] > found.least:
                text = StopMatcher(criteria).feed(_text(hypothesis.ids, alphabet))
                found.add(text, float(candidates[row, i]))
        scores = candidates.reshape(-1)[places]
        parents, ids = np.divmod(np.resize(np.array(places or [0]), width), len(alphabet))
        stack.advance_state(1, parents)
        x[0] = ids
    return found.texts or [("", -np.inf)]


def _allowed_ids(
    model: Model, criteria: StoppingCriteria, allowed: _Mask, prime_length: int
) -> Iterator[_Mask]:
    """Yield the ids that may come next: a record does not end at once, and ends by its length."""
    if not criteria.record_end:
        yield from repeat(allowed)
    is_end = np.arange(len(allowed)) == model.config.record_end_id
    for length in count_from():
        if length == criteria.length:
            yield allowed & is_end
        else:
            yield allowed & ~is_end if prime_length + length == 0 else allowed


class _Likeliest:
    """The `count` likeliest of the texts that are added; of equally likely ones, the first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.texts: list[tuple[str, float]] = []  # and their log-probabilities, highest first

    @property
    def least(self) -> float:
        """The log-probability that a text must exceed."""
        return self.texts[-1][1] if len(self.texts) == self._count else -np.inf

    def add(self, text: str, score: float) -> None:
        """Add a text. Of two that differ only in the stop after them, the likelier remains."""
        known = dict(self.texts)
        known[text] = max(score, known.get(text, -np.inf))
        self.texts = sorted(known.items(), key=lambda found: -found[1])[: self._count]


def log_probabilities(stack: Stack, rows: int, allowed: _Mask) -> _Scores:
    """The log-probabilities (rows, V), -inf for ids that are not allowed."""
    logits = stack.logits[0, :rows, : len(allowed)].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.where(allowed, logits, -np.inf)


def likeliest(scores: _Scores, count: int) -> npt.NDArray[np.intp]:
    """The flat indices of the `count` highest scores above -inf, highest first."""
    flat = scores.reshape(-1)
    if count < flat.size:
        least = np.partition(flat, flat.size - count)[flat.size - count]
        places = np.flatnonzero((flat >= least) & (flat > -np.inf))
    else:
        places = np.flatnonzero(flat > -np.inf)
    return places[np.argsort(-flat[places], kind="stable")][:count]


def _text(ids: _Ids, alphabet: str) -> str:
    characters = []
    while ids:
        i, ids = ids
        characters.append(alphabet[i])
    return "".join(reversed(characters))
