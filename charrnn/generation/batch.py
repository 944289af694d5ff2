"""Batched generation: each row generates one text, then takes the next unassigned one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ..arithmetic import ceil_div
from .stopping import StopMatcher, StoppingCriteria

ROWS = 256  # maximum number of texts generated in parallel; their state about fills the cache
STEPS = 16  # characters per row in a round; the ends of texts are checked between rounds
MIN_STEPS = 4  # the same if texts are short: a round is as long as a text, since the row then waits
STEPS_FIXED_LENGTH = 64  # the same if all texts have one known length, so that none is discarded
MAX_BUFFERED = 2**22  # maximum number of buffered characters
MAX_BUFFERED_UNBOUNDED = 2**18  # the same for unbounded texts: small pieces, most are discarded
MAX_OPS_PER_ROUND = 2**27  # multiply-adds per row between two pieces of a text: some milliseconds

Read = TypeVar("Read")  # a prime that is read
ReadIn = TypeVar("ReadIn", contravariant=True)
ReadOut = TypeVar("ReadOut", covariant=True)


class Sampler(Protocol[ReadIn]):
    """Samples texts in parallel rows: BatchSampler, whose methods say how, MixtureSampler."""

    @property
    def work(self) -> int: ...

    def begin(self, row: int, rng: np.random.Generator, read: ReadIn) -> None: ...

    def sample(
        self, steps: int, log_p: npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[np.int32]: ...

    def reassign_rows(self, rows: list[int | None]) -> None: ...


class Primes(Protocol[ReadOut]):
    """Reads the primes of texts: PrimeReader, whose methods say how, MixturePrimes."""

    def draw(self, number: int, rng: np.random.Generator) -> int: ...

    def read(self, numbers: Sequence[int], states: Sequence[int]) -> Iterable[ReadOut]: ...


class GeneratedText:
    """A text that is generated while it is read: an iterator of its pieces, in symbols.

    `log_probability`: of its characters, a stop that ends it included, in nats, once it is read;
    0 if it is not computed.
    """

    def __init__(self, criteria: StoppingCriteria, source: Iterator[str]) -> None:
        self.matcher = StopMatcher(criteria)
        self.pieces: deque[str] = deque()  # not yet read
        self.log_probability = 0.0
        self._source = source

    def __iter__(self) -> Iterator[str]:
        return self._source


class BatchGenerator(Generic[Read]):
    """Generates texts and iterates over them.

    The texts must be read in order, each to its end. They are generated in parallel, ahead of the
    reader until the buffer is full. A text does not depend on the others.

    sampler: has one row and no text.
    primes: the prime that each text continues; or one for all texts.
    count: the number of texts; it may be raised while they are read.
    rng_of: gives the generator of random numbers of text i, which also draws its start.
    symbols: turns ids into a str of one character per id.
    log_probabilities: whether to compute those of the texts.
    """

    def __init__(
        self,
        sampler: Sampler[Read],
        primes: Primes[Read],
        count: int,
        rng_of: Callable[[int], np.random.Generator],
        criteria: StoppingCriteria,
        symbols: Callable[[np.ndarray], str],
        log_probabilities: bool = False,
    ) -> None:
        self.count = count
        self._sampler, self._primes = sampler, primes
        self._rows: list[int | None] = [None]  # the index of the text that each row generates
        self._rng_of, self._criteria, self._symbols = rng_of, criteria, symbols
        self._log_probabilities = log_probabilities
        steps = STEPS if criteria.all_stops or criteria.lines else STEPS_FIXED_LENGTH
        self._steps = max(1, min(steps, MAX_OPS_PER_ROUND // sampler.work))
        self._max_rows = min(ROWS, max(1, MAX_BUFFERED // (criteria.length or 1)))
        self._max_buffered_chars = MAX_BUFFERED if criteria.length else MAX_BUFFERED_UNBOUNDED
        self._texts: dict[int, GeneratedText] = {}  # started and not yet read to the end
        self._next: deque[tuple[np.random.Generator, Read]] = deque()  # of texts to start
        self._num_started = 0  # texts
        self._buffered_chars = 0  # in all pieces
        self._num_ended = self._ended_chars = 0  # texts, and their characters

    def __iter__(self) -> Iterator[GeneratedText]:
        i = 0
        while i < self.count:
            if i not in self._texts:
                self._generate_round(i)
            yield self._texts[i]
            i += 1

    def _pieces(self, i: int) -> Iterator[str]:
        """Yield the pieces of text i."""
        text = self._texts[i]
        while True:
            while text.pieces:
                self._buffered_chars -= len(text.pieces[0])
                yield text.pieces.popleft()
            if text.matcher.finished:
                break
            self._generate_round(i)
        del self._texts[i]

    def _generate_round(self, i: int) -> None:
        """Generate some characters in every row, while text i is being read."""
        if self._buffered_chars > self._max_buffered_chars:
            self._keep_only(i)
        self._start_texts(i)
        texts = [None if t is None else self._texts[t] for t in self._rows]
        limits = [text.matcher.remaining for text in texts if text is not None]
        mean = ceil_div(self._ended_chars, self._num_ended or 1) or self._steps
        steps = min(
            [self._steps, max(MIN_STEPS, mean), *(limit for limit in limits if limit is not None)]
        )
        log_p = np.zeros((steps, len(texts))) if self._log_probabilities else None
        ids = self._sampler.sample(steps, log_p)
        # One str for all rows is faster than one per row.
        symbols = self._symbols(np.ascontiguousarray(ids.T).reshape(-1))
        totals = None if log_p is None else _running_totals(texts, log_p)
        for row, text in enumerate(texts):
            if text is not None:
                total = None if totals is None else totals[:, row]
                self._append(row, text, symbols[row * steps : (row + 1) * steps], total)

    def _append(
        self, row: int, text: GeneratedText, symbols: str, totals: np.ndarray | None
    ) -> None:
        """Append new characters to the text of a row; release the row if the text has ended.

        totals: the log-probabilities of the text up to each of them.
        """
        num_read = text.matcher.num_read
        if piece := text.matcher.feed(symbols):
            text.pieces.append(piece)
            self._buffered_chars += len(piece)
        if totals is not None and text.matcher.num_read > num_read:
            text.log_probability = float(totals[text.matcher.num_read - num_read - 1])
        if text.matcher.finished:
            self._rows[row] = None
            self._num_ended += 1
            self._ended_chars += text.matcher.num_read

    def _start_texts(self, i: int) -> None:
        """Start texts ahead of text i while the buffer has space, in a suitable number of rows."""
        has_space = self._buffered_chars <= self._max_buffered_chars // 2
        ahead = i + 4 * self._max_rows if has_space else 0
        num_new = max(0, min(self.count, ahead) - self._num_started)
        self._fit_rows(num_new)
        free = [row for row, t in enumerate(self._rows) if t is None]
        for row in free[:num_new]:
            if not self._next:
                self._read_primes()
            t = self._num_started
            self._sampler.begin(row, *self._next.popleft())
            self._texts[t] = GeneratedText(self._criteria, self._pieces(t))
            self._rows[row] = t
            self._num_started += 1

    def _read_primes(self) -> None:
        """Read the primes of the next texts, as many as may be generated together."""
        last = min(self.count, self._num_started + self._max_rows)
        numbers = range(self._num_started, last)
        rngs = [self._rng_of(t) for t in numbers]
        states = [self._primes.draw(t, rng) for t, rng in zip(numbers, rngs, strict=True)]
        self._next.extend(zip(rngs, self._primes.read(numbers, states), strict=True))

    def _fit_rows(self, num_new: int) -> None:
        """Change the number of rows if there are too few for the texts, or twice too many."""
        active = [row for row, t in enumerate(self._rows) if t is not None]
        remaining = len(active) + self.count - self._num_started
        generations = ceil_div(remaining, self._max_rows)  # of texts that fill the rows evenly
        size = min(len(active) + num_new, ceil_div(remaining, generations))
        if not len(self._rows) // 2 < size <= len(self._rows):
            self._reassign_rows(active, size)

    def _reassign_rows(self, active: list[int], size: int) -> None:
        """Use `size` rows; the first ones continue the texts of the rows `active`."""
        rows = active + [None] * (size - len(active))
        self._sampler.reassign_rows(rows)
        self._rows = [None if row is None else self._rows[row] for row in rows]

    def _keep_only(self, i: int) -> None:
        """Discard all texts but i; generate them again after it, fewer in parallel."""
        self._reassign_rows([self._rows.index(i)], 1)
        self._texts = {i: self._texts[i]}
        self._next.clear()
        self._num_started = i + 1
        self._buffered_chars = sum(map(len, self._texts[i].pieces))
        self._max_rows = max(1, self._max_rows // 4)


def _running_totals(texts: Sequence[GeneratedText | None], log_p: np.ndarray) -> np.ndarray:
    """The log-probability (steps, rows) of each text up to each character of `log_p`.

    They are added in the order of the characters, so that a sum does not depend on the rounds.
    """
    before = [0.0 if text is None else text.log_probability for text in texts]
    return np.cumsum(np.concatenate([[before], log_p]), axis=0)[1:]
