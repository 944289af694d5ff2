"""Autoregressive sampling: every character drawn is the next input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..network.model import Model
from ..network.stack import Draws, Stack
from ..network.start import TextStart
from .primes import ReadPrime, read_primes

PENALTY_WINDOW = 32  # last characters that a repetition penalty applies to
MAX_STEPS = 16  # ids that `generate` draws at once, at most
WORK_PER_THREAD = 2**21  # multiply-adds of a step that make another thread worthwhile


@dataclass(frozen=True, eq=False)
class SamplingOptions:
    """How the next character is drawn from the logits. The steps apply in this order:

    1. Only the ids `allowed`, (V,) bool, remain; None allows all.
    2. `repetition_penalty` multiplies the log-probability of each of the last PENALTY_WINDOW ids,
       the prime's included. Keskar et al. 2019 (CTRL) divide logits, whose sign is arbitrary;
       log-probabilities are never positive.
    3. p = softmax(scores / temperature); temperature 0 always takes the likeliest id.
    4. Only the `top_k` likeliest ids remain; 0 keeps all.
    5. Only the likeliest ids that together reach probability `top_p` remain.
    6. Only ids at least `min_p` times as likely as the likeliest remain.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    allowed: npt.NDArray[np.bool_] | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest id is taken each time, so that nothing is drawn."""
        return self.temperature == 0 or self.top_k == 1


DEFAULT_SAMPLING = SamplingOptions()


def generate(
    model: Model,
    prime: np.ndarray,
    rng: np.random.Generator,
    options: SamplingOptions = DEFAULT_SAMPLING,
    start: TextStart | None = None,
) -> Iterator[int]:
    """Yield ids that continue `prime` (n,) without end, from a state of `start`.

    `rng` draws the state, too, and then a number for each id, from which some more may have been
    taken by then. `start` is the model's by default. With `prime` it has at least one id.
    """
    start = (start or model.start).drawn(rng, len(prime))
    sampler = BatchSampler(model, 1, options)
    [read] = read_primes(model, [start.prepend(prime)], start.states)
    sampler.begin(0, rng, read)
    steps = 1  # the first id comes at once, others together, which is faster
    while True:
        yield from sampler.sample(steps)[:, 0].tolist()
        steps = min(2 * steps, MAX_STEPS)


class RowDraws:
    """How the texts of several rows are drawn: the options, last ids and generators of numbers."""

    def __init__(self, vocab_size: int, rows: int, options: SamplingOptions) -> None:
        allowed, penalty = options.allowed, float(options.repetition_penalty)
        if allowed is None:
            allowed = np.ones(vocab_size, bool)
        # One type each, or the kernel would be compiled again.
        self._filters = (
            allowed, penalty, float(options.temperature), options.top_k, float(options.top_p),
            float(options.min_p),
        )  # fmt: skip
        self._recent = np.full((rows, PENALTY_WINDOW if penalty != 1 else 0), -1, np.int32)
        self._rngs: list[np.random.Generator | None] = [None] * rows

    def begin(self, row: int, rng: np.random.Generator, prime: np.ndarray) -> None:
        """Begin a new text in this row, after the ids `prime` (n,), drawn with `rng`."""
        if width := self._recent.shape[1]:
            prime = prime[-width:]
            self._recent[row] = -1
            self._recent[row, width - len(prime) :] = prime
        self._rngs[row] = rng

    def arguments(self, steps: int) -> Draws:
        """The arguments of `draw_rows` from `allowed` to `u`, for the next steps."""
        u = np.zeros((len(self._rngs), steps))
        for rng, numbers in zip(self._rngs, u, strict=True):
            if rng is not None:
                rng.random(out=numbers)
        return (*self._filters, self._recent, u)

    def reassign_rows(self, rows: list[int | None]) -> None:
        """Replace the rows, as BatchSampler does."""
        self._recent = self._recent[[row or 0 for row in rows]]
        self._rngs = [None if row is None else self._rngs[row] for row in rows]


class BatchSampler:
    """Samples several texts in parallel, one per row, each after a prime of its own.

    Each character takes one number of its row's generator and equals rng.choice(V, p=p), with p
    as SamplingOptions defines it. A text does not depend on the other rows.
    """

    def __init__(
        self,
        model: Model,
        rows: int,
        options: SamplingOptions = DEFAULT_SAMPLING,
    ) -> None:
        self._draws = RowDraws(model.config.vocab_size, rows, options)
        self._stack = Stack(model, rows, 1)
        self._ids = np.zeros((1, rows), np.int32)

    @property
    def work(self) -> int:
        """Multiply-adds for a character of a row."""
        return int(self._stack.model.parameters.dense.size)

    def begin(self, row: int, rng: np.random.Generator, read: ReadPrime) -> None:
        """Begin a new text in this row, after a prime, drawn with `rng`."""
        self._stack.set_state(read.state, slice(row, row + 1))
        self._ids[0, row] = read.ids[-1]
        self._draws.begin(row, rng, read.ids)

    def sample(
        self, steps: int, log_p: npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[np.int32]:
        """Return the next ids (steps, rows) of all texts; rows without a text hold any ids.

        log_p: is filled, (steps, rows), with the log-probabilities of the ids in nats: those of
            the model, which the options do not change.
        """
        rows = self._ids.size
        ids = np.empty((steps, rows), np.int32)
        work = rows * self.work
        threads = max(1, min(self._stack.model.team.size, rows, work // WORK_PER_THREAD))
        if log_p is None:
            log_p = np.empty((0, rows))
        self._stack.sample_steps(self._ids, ids, self._draws.arguments(steps), log_p, threads)
        return ids

    def reassign_rows(self, rows: list[int | None]) -> None:
        """Replace the rows: each continues the text of the row it names, or has none (None)."""
        source = [row or 0 for row in rows]
        state = self._stack.get_state().select(source)
        self._stack = Stack(self._stack.model, len(rows), 1)
        self._stack.set_state(state)
        self._ids = self._ids[:, source]
        self._draws.reassign_rows(rows)
