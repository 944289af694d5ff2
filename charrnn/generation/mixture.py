"""Sampling from the mixed distribution of several models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..network.kernels.mixing import log_softmax_rows, mix_rows
from ..network.kernels.sampling import draw_rows
from ..network.mixture import MixedModel
from ..network.stack import Stack
from .primes import PrimeReader, ReadPrime
from .sampler import RowDraws, SamplingOptions

_Ids = npt.NDArray[np.int32]


class MixedPrime(NamedTuple):
    """A prime that all models have read: its `ids` (n,) in the mixture, and what each has read."""

    ids: _Ids
    read: tuple[ReadPrime, ...]


class MixturePrimes:
    """Reads the primes of texts with each model, see PrimeReader.

    primes: ids (n,) in the mixture, of the prime of each text or the one of all texts. The ids of
        the first model are its first ids.
    """

    def __init__(self, readers: Sequence[PrimeReader], primes: Sequence[_Ids]) -> None:
        self._readers, self._primes = readers, primes

    def draw(self, number: int, rng: np.random.Generator) -> int:
        """Draw a state of the first model; others start from theirs of the same number."""
        return self._readers[0].draw(number, rng)

    def read(self, numbers: Sequence[int], states: Sequence[int]) -> Iterator[MixedPrime]:
        """Read the primes of the texts `numbers`, each from the state with this number."""
        first = self._readers[0].start  # the mixture has the ids of the first model
        primes = [first.prepend(self._primes[t if len(self._primes) > 1 else 0]) for t in numbers]
        read = [r.read(numbers, [s % r.start.states.rows for s in states]) for r in self._readers]
        return map(MixedPrime, primes, zip(*read, strict=True))


class MixtureSampler:
    """Samples several texts in parallel, one per row, as BatchSampler does.

    p of SamplingOptions is then made from the logarithm of the mixed probabilities.
    """

    def __init__(self, parts: Sequence[MixedModel], rows: int, options: SamplingOptions) -> None:
        self._parts, vocab_size = parts, len(parts[0].ids)
        self._draws = RowDraws(vocab_size, rows, options)
        self._stacks = [Stack(part.model, rows, 1) for part in parts]
        self._inputs = np.zeros((len(parts), rows), np.int32)  # that each model reads next, or -1
        self._log_p = np.zeros((len(parts), rows, vocab_size))  # of weight times probability
        self._mixed = np.zeros((1, rows, vocab_size))

    @property
    def work(self) -> int:
        """Multiply-adds for a character of a row."""
        return sum(int(part.model.parameters.dense.size) for part in self._parts)

    def begin(self, row: int, rng: np.random.Generator, read: MixedPrime) -> None:
        """Begin a new text in this row, after a prime, drawn with `rng`."""
        for k, prime in enumerate(read.read):
            self._stacks[k].set_state(prime.state, slice(row, row + 1))
            self._inputs[k, row] = prime.ids[-1]
        self._draws.begin(row, rng, read.ids)

    def sample(self, steps: int, log_p: npt.NDArray[np.float64] | None = None) -> _Ids:
        """Return the next ids (steps, rows) of all texts; rows without a text hold any ids.

        log_p: is filled, (steps, rows), with the log-probabilities of the ids in nats: those of
            the mixture, which the options do not change.
        """
        rows = self._inputs.shape[1]
        ids, last = np.empty((steps, rows), np.int32), np.empty((1, rows), np.int32)
        draws = self._draws.arguments(steps)
        for step in range(steps):
            for k in range(len(self._parts)):
                self._read(k)
            mix_rows(self._log_p, self._mixed, 0, rows)
            draw_rows(self._mixed, *draws, step, ids, last, 0, rows)
            for k, part in enumerate(self._parts):
                self._inputs[k] = part.inputs[last[0]]
            if log_p is not None:
                log_p[step] = self._mixed[0, np.arange(rows), last[0]]
        return ids

    def _read(self, k: int) -> None:
        """Let model k read its inputs; where it has none, its prediction stays."""
        part, stack, inputs = self._parts[k], self._stacks[k], self._inputs[k]
        known = inputs >= 0
        stack.forward(np.where(known, inputs, 0)[None])
        stack.advance_rows(known.astype(np.intp))
        vocab_size, log_weight = part.model.config.vocab_size, part.log_weight
        log_softmax_rows(
            stack.logits, vocab_size, part.ids, log_weight, known, self._log_p[k], 0, len(known)
        )

    def reassign_rows(self, rows: list[int | None]) -> None:
        """Replace the rows: each continues the text of the row it names, or has none (None)."""
        source = [row or 0 for row in rows]
        for k, stack in enumerate(self._stacks):
            self._stacks[k] = Stack(stack.model, len(rows), 1)
            self._stacks[k].set_state(stack.get_state().select(source))
        self._inputs, self._log_p = self._inputs[:, source], self._log_p[:, source]
        self._mixed = self._mixed[:, source]
        self._draws.reassign_rows(rows)
