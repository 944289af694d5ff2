"""Many texts at once: each row of a Writer writes one, and then the next that nobody writes yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from ..network.model import Model
from .sampler import BatchSampler
from .stopping import StopMatcher, StoppingCriteria

ROWS = 256  # texts written side by side: about what the processor's cache holds
STEPS = 16  # characters of each that are written before one looks whether a text has ended
KNOWN = 64  # the same where all end at a known length: nothing is written in vain
SAVED = 2**22  # characters that wait to be read, at most; ...
KEPT_OF_ENDLESS = 2**18  # ... those of texts that may have no end wait in small pieces, and in vain
WORK = 2**27  # products before a text is shown again: some milliseconds


class _Text:
    """A text that a row writes, or has written."""

    def __init__(self, ending: StoppingCriteria) -> None:
        self.cutter = StopMatcher(ending)
        self.pieces: deque[str] = deque()  # not yet read


class BatchGenerator:
    """`count` texts after one prime, text i drawn with the seed `seed` + i: iterators of pieces.

    `symbols` turns ids into a str, a character each; `how` is Writer's. The texts are to be read
    in order, each to its end. They are written side by side, as far ahead as KEPT allows; a text
    is the same whatever it is written beside.
    """

    def __init__(
        self,
        model: Model,
        prime: np.ndarray,
        count: int,
        seed: int,
        ending: StoppingCriteria,
        symbols: Callable[[np.ndarray], str],
        **how,
    ) -> None:
        self._writer = BatchSampler(model, prime, 1, **how)
        self._rows: list[int | None] = [None]  # the number of the text that each row writes
        self._count, self._seed, self._ending, self._symbols = count, seed, ending, symbols
        steps = STEPS if ending.stops or ending.lines else KNOWN
        self._steps = max(1, min(steps, WORK // model.parameters.flat.size))
        self._most = min(ROWS, max(1, SAVED // (ending.length or 1)))  # rows
        self._room = SAVED if ending.length else KEPT_OF_ENDLESS
        self._texts: dict[int, _Text] = {}  # begun and not yet read to the end
        self._begun = 0  # texts
        self._kept = 0  # characters in all pieces

    def __iter__(self) -> Iterator[Iterator[str]]:
        return map(self._read, range(self._count))

    def _read(self, i: int) -> Iterator[str]:
        """The pieces of text i."""
        while True:
            if i not in self._texts:
                self._write(i)
            text = self._texts[i]
            while text.pieces:
                self._kept -= len(text.pieces[0])
                yield text.pieces.popleft()
            if text.cutter.over:
                break
            self._write(i)
        del self._texts[i]

    def _write(self, i: int) -> None:
        """Write on in all rows, while text i is read."""
        if self._kept > self._room:
            self._forget_all_but(i)
        self._begin(i)
        lefts = [self._texts[t].cutter.left for t in self._rows if t is not None]
        steps = min([self._steps, *(left for left in lefts if left is not None)])
        # One str of all rows is quicker than one a row.
        symbols = self._symbols(np.ascontiguousarray(self._writer.write(steps).T).reshape(-1))
        for row, t in enumerate(self._rows):
            if t is not None:
                self._take(row, self._texts[t], symbols[row * steps : (row + 1) * steps])

    def _take(self, row: int, text: _Text, symbols: str) -> None:
        if piece := text.cutter.feed(symbols):
            text.pieces.append(piece)
            self._kept += len(piece)
        if text.cutter.over:
            self._rows[row] = None

    def _begin(self, i: int) -> None:
        """Begin the texts that there is room for, in as many rows as they are worth."""
        ahead = i + 4 * self._most if self._kept <= self._room // 2 else 0
        new = max(0, min(self._count, ahead) - self._begun)
        active = [row for row, t in enumerate(self._rows) if t is not None]
        left = len(active) + self._count - self._begun
        size = min(len(active) + new, -(-left // -(-left // self._most)))  # rounds of equal size
        if not len(self._rows) // 2 < size <= len(self._rows):
            self._arrange(active, size)
        for row, t in enumerate(self._rows):
            if t is None and new > 0:
                self._texts[self._begun] = _Text(self._ending)
                self._writer.begin(row, np.random.default_rng(self._seed + self._begun))
                self._rows[row] = self._begun
                self._begun, new = self._begun + 1, new - 1

    def _arrange(self, active: list[int], size: int) -> None:
        rows = active + [None] * (size - len(active))
        self._writer.arrange(rows)
        self._rows = [None if row is None else self._rows[row] for row in rows]

    def _forget_all_but(self, i: int) -> None:
        """Go on with text i alone: the others are begun anew, fewer at once, when it is over."""
        self._arrange([self._rows.index(i)], 1)
        self._texts = {i: self._texts[i]}
        self._begun, self._kept = i + 1, sum(map(len, self._texts[i].pieces))
        self._most = max(1, self._most // 4)
