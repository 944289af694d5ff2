"""Batched generation: each row generates one text, then takes the next unassigned one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from ..arithmetic import ceil_div
from ..network.model import Model
from ..network.start import TextStart
from .sampler import DEFAULT_SAMPLING, BatchSampler, SamplingOptions
from .stopping import StopMatcher, StoppingCriteria

ROWS = 256  # maximum number of texts generated in parallel; their state about fills the cache
STEPS = 16  # characters per row in a round; the ends of texts are checked between rounds
STEPS_FIXED_LENGTH = 64  # the same if all texts have one known length, so that none is discarded
MAX_BUFFERED = 2**22  # maximum number of buffered characters
MAX_BUFFERED_UNBOUNDED = 2**18  # the same for unbounded texts: small pieces, most are discarded
MAX_OPS_PER_ROUND = 2**27  # multiply-adds per row between two pieces of a text: some milliseconds


class _Text:
    """A text in progress or complete, with the pieces not yet read."""

    def __init__(self, criteria: StoppingCriteria) -> None:
        self.matcher = StopMatcher(criteria)
        self.pieces: deque[str] = deque()


class BatchGenerator:
    """Generates `count` texts after one prime and iterates over them, each an iterator of pieces.

    Text i is drawn with the seed `seed` + i, from the start of that seed. `symbols` turns ids into
    a str of one character per id. The texts must be read in order, each to its end. They are
    generated in parallel, ahead of the reader until the buffer is full. A text does not depend on
    the others.
    """

    def __init__(
        self,
        model: Model,
        prime: np.ndarray,
        count: int,
        seed: int,
        criteria: StoppingCriteria,
        symbols: Callable[[np.ndarray], str],
        options: SamplingOptions = DEFAULT_SAMPLING,
        start: TextStart | None = None,
    ) -> None:
        starts = (start or model.start).for_seeds(seed, count, len(prime))
        self._sampler = BatchSampler(model, prime, 1, options, starts)
        self._rows: list[int | None] = [None]  # the index of the text that each row generates
        self._count, self._seed, self._criteria, self._symbols = count, seed, criteria, symbols
        steps = STEPS if criteria.stops or criteria.lines else STEPS_FIXED_LENGTH
        self._steps = max(1, min(steps, MAX_OPS_PER_ROUND // model.parameters.dense.size))
        self._max_rows = min(ROWS, max(1, MAX_BUFFERED // (criteria.length or 1)))
        self._max_buffered_chars = MAX_BUFFERED if criteria.length else MAX_BUFFERED_UNBOUNDED
        self._texts: dict[int, _Text] = {}  # started and not yet read to the end
        self._num_started = 0  # texts
        self._buffered_chars = 0  # in all pieces

    def __iter__(self) -> Iterator[Iterator[str]]:
        return map(self._pieces, range(self._count))

    def _pieces(self, i: int) -> Iterator[str]:
        """Yield the pieces of text i."""
        while True:
            if i not in self._texts:
                self._generate_round(i)
            text = self._texts[i]
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
        limits = [self._texts[t].matcher.remaining for t in self._rows if t is not None]
        steps = min([self._steps, *(limit for limit in limits if limit is not None)])
        # One str for all rows is faster than one per row.
        symbols = self._symbols(np.ascontiguousarray(self._sampler.sample(steps).T).reshape(-1))
        for row, t in enumerate(self._rows):
            if t is not None:
                self._append(row, self._texts[t], symbols[row * steps : (row + 1) * steps])

    def _append(self, row: int, text: _Text, symbols: str) -> None:
        """Append new characters to the text of a row; release the row if the text has ended."""
        if piece := text.matcher.feed(symbols):
            text.pieces.append(piece)
            self._buffered_chars += len(piece)
        if text.matcher.finished:
            self._rows[row] = None

    def _start_texts(self, i: int) -> None:
        """Start texts ahead of text i while the buffer has space, in a suitable number of rows."""
        has_space = self._buffered_chars <= self._max_buffered_chars // 2
        ahead = i + 4 * self._max_rows if has_space else 0
        num_new = max(0, min(self._count, ahead) - self._num_started)
        self._fit_rows(num_new)
        free = [row for row, t in enumerate(self._rows) if t is None]
        for row in free[:num_new]:
            self._texts[self._num_started] = _Text(self._criteria)
            rng = np.random.default_rng(self._seed + self._num_started)
            self._sampler.begin(row, rng, self._num_started)
            self._rows[row] = self._num_started
            self._num_started += 1

    def _fit_rows(self, num_new: int) -> None:
        """Change the number of rows if there are too few for the texts, or twice too many."""
        active = [row for row, t in enumerate(self._rows) if t is not None]
        remaining = len(active) + self._count - self._num_started
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
        self._num_started = i + 1
        self._buffered_chars = sum(map(len, self._texts[i].pieces))
        self._max_rows = max(1, self._max_rows // 4)
