"""Autoregressive sampling: every character drawn is the next input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..network.arrays import Workspace
from ..network.carried_state import CarriedState
from ..network.model import Model
from ..network.stack import Stack
from ..network.start import TextStart

PRIME_STEPS = 64  # characters of a prime per forward pass
PRIME_LOGITS = 1 << 22  # maximum number of logits of such a pass: a large vocabulary shortens it
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


DEFAULT_SAMPLING = SamplingOptions()


def generate(
    model: Model,
    prime: np.ndarray,
    rng: np.random.Generator,
    options: SamplingOptions = DEFAULT_SAMPLING,
    start: TextStart | None = None,
) -> Iterator[int]:
    """Yield ids that continue `prime` (n,) without end; `start` is as of BatchSampler.

    The i-th id takes the i-th number of `rng`, from which some more may have been taken by then.
    """
    sampler = BatchSampler(model, prime, 1, options, start)
    sampler.begin(0, rng)
    steps = 1  # the first id comes at once, others together, which is faster
    while True:
        yield from sampler.sample(steps)[:, 0].tolist()
        steps = min(2 * steps, MAX_STEPS)


class BatchSampler:
    """Samples several texts in parallel, one per row, all after the same prime.

    The prime is read from `start`, by default the model's; together they have at least one id.
    Each character takes one number of its row's generator and equals rng.choice(V, p=p), with p
    as SamplingOptions defines it. A text does not depend on the other rows.
    """

    def __init__(
        self,
        model: Model,
        prime: np.ndarray,
        rows: int,
        options: SamplingOptions = DEFAULT_SAMPLING,
        start: TextStart | None = None,
    ) -> None:
        allowed, penalty = options.allowed, float(options.repetition_penalty)
        if allowed is None:
            allowed = np.ones(model.config.vocab_size, bool)
        # One type each, or the kernel would be compiled again.
        self._filters = (
            allowed, penalty, float(options.temperature), options.top_k, float(options.top_p),
            float(options.min_p),
        )  # fmt: skip
        start = start or model.start
        self._prime = start.prepend(prime)
        self._states = state_after(model, self._prime[:-1, None], start.states)
        self._stack = Stack(model, rows, 1)
        self._ids = np.zeros((1, rows), np.int32)
        self._recent = np.full((rows, PENALTY_WINDOW if penalty != 1 else 0), -1, np.int32)
        self._rngs: list[np.random.Generator | None] = [None] * rows

    def begin(self, row: int, rng: np.random.Generator, number: int = 0) -> None:
        """Begin a new text in this row, drawn with `rng`; text `number` takes its start in turn."""
        k = number % self._states.rows
        self._stack.set_state(self._states.select([k]), slice(row, row + 1))
        self._ids[0, row] = self._prime[-1]
        if width := self._recent.shape[1]:
            prime = self._prime[-width:]
            self._recent[row] = -1
            self._recent[row, width - len(prime) :] = prime
        self._rngs[row] = rng

    def sample(self, steps: int) -> npt.NDArray[np.int32]:
        """Return the next ids (steps, rows) of all texts; rows without a text hold any ids."""
        ids, u = np.empty((steps, self._ids.size), np.int32), np.zeros((self._ids.size, steps))
        for rng, numbers in zip(self._rngs, u, strict=True):
            if rng is not None:
                rng.random(out=numbers)

        model = self._stack.model
        work = len(u) * model.parameters.dense.size
        threads = max(1, min(model.team.size, len(u), work // WORK_PER_THREAD))
        draws = (*self._filters, self._recent, u)
        self._stack.sample_steps(self._ids, ids, draws, threads)
        return ids

    def reassign_rows(self, rows: list[int | None]) -> None:
        """Replace the rows: each continues the text of the row it names, or has none (None)."""
        source = [row or 0 for row in rows]
        state = self._stack.get_state().select(source)
        self._stack = Stack(self._stack.model, len(rows), 1)
        self._stack.set_state(state)
        self._ids, self._recent = self._ids[:, source], self._recent[source]
        self._rngs = [None if row is None else self._rngs[row] for row in rows]


def state_after(
    model: Model, ids: np.ndarray, states: CarriedState, workspace: Workspace | None = None
) -> CarriedState:
    """The states after reading ids from `states`; ids are (n, N), or (n, 1) for all N rows.

    `workspace` is as of Stack.
    """
    rows = states.rows
    steps = max(1, min(PRIME_STEPS, PRIME_LOGITS // (rows * model.config.vocab_size)))
    stack = Stack(model, rows, steps, workspace=workspace)
    stack.set_state(states)
    columns = np.broadcast_to(ids, (len(ids), rows))
    for first in range(0, len(ids), steps):
        chunk = np.ascontiguousarray(columns[first : first + steps], np.int32)
        stack.forward(chunk)
        stack.advance_state(len(chunk))
    return stack.get_state()
