"""New text as ids: the model's own predictions, drawn one after the other and fed back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..network.kernels.sampling import draw_rows
from ..network.model import Model
from ..network.stack import Stack

PRIME_STEPS = 64  # characters of a prime that are fed at a time
RECENT = 32  # characters that a repetition penalty looks back on
WORTH_A_THREAD = 2**21  # products of a step that are worth a thread of their own


def generate(
    model: Model,
    prime: np.ndarray,
    rngs: np.random.Generator | Sequence[np.random.Generator],
    **how,
) -> Iterator:
    """Ids without end that continue `prime` (at least one id), which is fed but not given back.

    For one generator of random numbers an int at a time; for a sequence of N, which write N texts
    side by side, an array (N,). Each text is the one it would be alone. `how` is Writer's.
    """
    alone = isinstance(rngs, np.random.Generator)
    rngs = [rngs] if alone else rngs
    writer = BatchSampler(model, prime, len(rngs), **how)
    for row, rng in enumerate(rngs):
        writer.begin(row, rng)
    while True:
        ids = writer.write(1)[0]
        yield int(ids[0]) if alone else ids


class BatchSampler:
    """Texts written side by side, each in a row of its own, all after the same prime.

    Each character takes one number of its row's generator and is rng.choice(V, p=p) with
    p = softmax(logits / temperature), cut in this order: to the ids `allowed` (V,) bool; with a
    `repetition_penalty` the log-probability of each of the last RECENT ids, the prime's among
    them, is multiplied by it; to the `top_k` likeliest (0: all); to the likeliest that reach
    probability `top_p`; to those at least `min_p` times as likely as the likeliest.
    temperature 0: always the likeliest.

    The penalty is that of Keskar et al. 2019 (CTRL), on log-probabilities: a logit's sign, on
    which dividing it depends, means nothing.
    """

    def __init__(
        self,
        model: Model,
        prime: np.ndarray,
        rows: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        allowed: np.ndarray | None = None,
    ) -> None:
        if allowed is None:
            allowed = np.ones(model.config.vocab_size, bool)
        self._cut = (
            allowed, float(repetition_penalty), float(temperature), top_k, float(top_p),
            float(min_p),
        )  # fmt: skip
        self._prime, self._state = prime, state_after(model, prime[:-1])
        self._stack = Stack(model, rows, 1)
        self._ids = np.zeros((1, rows), np.int32)
        self._recent = np.full((rows, RECENT if repetition_penalty != 1 else 0), -1, np.int32)
        self._rngs: list[np.random.Generator | None] = [None] * rows

    def begin(self, row: int, rng: np.random.Generator) -> None:
        """A new text in this row, which draws its numbers from `rng`."""
        self._stack.set_state(self._state, slice(row, row + 1))
        self._ids[0, row] = self._prime[-1]
        if width := self._recent.shape[1]:
            prime = self._prime[-width:]
            self._recent[row] = -1
            self._recent[row, width - len(prime) :] = prime
        self._rngs[row] = rng

    def write(self, steps: int) -> np.ndarray:
        """The next ids (steps, rows) of all texts; of rows that have none, anything."""
        ids, u = np.empty((steps, self._ids.size), np.int32), np.zeros((self._ids.size, steps))
        for rng, numbers in zip(self._rngs, u, strict=True):
            if rng is not None:
                rng.random(out=numbers)

        def draw(step: int, first: int, last: int) -> None:
            logits = self._stack.logits
            draw_rows(logits, *self._cut, self._recent, u, step, ids, self._ids, first, last)

        model = self._stack.model
        work = len(u) * model.parameters.flat.size
        threads = max(1, min(model.team.size, len(u), work // WORTH_A_THREAD))
        self._stack.decode_steps(self._ids, steps, draw, threads)
        return ids

    def arrange(self, rows: list[int | None]) -> None:
        """As many rows anew, each with the text of the row it names; None: with none yet."""
        source = [row or 0 for row in rows]
        state = self._stack.get_state()[:, :, source]
        self._stack = Stack(self._stack.model, len(rows), 1)
        self._stack.set_state(state)
        self._ids, self._recent = self._ids[:, source], self._recent[source]
        self._rngs = [None if row is None else self._rngs[row] for row in rows]


def state_after(model: Model, ids: np.ndarray) -> np.ndarray:
    """The state (L, S, 1, H) after reading ids from a zero state."""
    stack = Stack(model, 1, PRIME_STEPS)
    for start in range(0, len(ids), PRIME_STEPS):
        chunk = np.ascontiguousarray(ids[start : start + PRIME_STEPS], np.int32)[:, None]
        stack.forward(chunk)
        stack.advance_state(len(chunk))
    return stack.get_state()
