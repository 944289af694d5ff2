"""What a model would write next, while somebody types: proposed, taken piece by piece, or not.

No terminal here, and no thread: `work` does a little at a time, between one key and the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from ..network.model import Model
from ..network.stack import Stack
from ..text.vocabulary import Vocabulary

STEPS = 64  # characters read at a time; the state after each such piece is kept


class Suggester:
    """A text, and the `suggestion` of how it goes on: what `sample` would write after it.

    Suggestion i of seed s, each new one counted from 0, is what `LanguageModel.sample` gives for
    seed s + i with the text as its prime. It stays while the text grows into it, and grows in turn:
    it has `length` characters whenever there is no more work to do. Characters that the model has
    never seen (`unknown`, each once) it does not read.
    """

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        text: str = "",
        *,
        length: int = 80,
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> None:
        self._vocabulary, self._vocab_size = vocabulary, model.config.vocab_size
        self._length, self._temperature = length, temperature
        self._seed = int(np.random.default_rng().integers(2**32)) if seed is None else seed
        self._stack = Stack(model, 1, STEPS)
        self._ids = np.empty(0, np.int32)
        self._states = {0: model.zero_state(1)}  # after so many of the ids
        self._begin(text)

    @property
    def suggestion(self) -> str:
        return self._drawn[len(self._text) - len(self._start) :]

    @property
    def character(self) -> str:
        return self.suggestion[:1]

    @property
    def word(self) -> str:
        """The first word of the suggestion with the white space before it."""
        return re.match(r"\s*\S*", self.suggestion)[0]

    @property
    def line(self) -> str:
        """The first line of the suggestion with its newline, or all there is."""
        return self.suggestion[: self.suggestion.find("\n") + 1] or self.suggestion

    def follow(self, text: str) -> None:
        """The text is now `text`: the suggestion goes on if it fits, or a new one begins."""
        if text == self._text:
            return
        if text.startswith(self._start) and (self._start + self._drawn).startswith(text):
            self._text = text
        else:
            self._seed += 1
            self._begin(text)

    def another(self) -> None:
        """Begin another suggestion for the same text."""
        self._seed += 1
        self._begin(self._text)

    def work(self) -> bool:
        """Do a little of what is left to do, some milliseconds at most; False: nothing was."""
        if len(self.suggestion) >= self._length:
            return False
        self._drawn += next(self._pieces)
        return True

    def _begin(self, text: str) -> None:
        self._text = self._start = text
        self._drawn = ""  # what follows _start; _text may reach into it
        self.unknown = self._vocabulary.unknown(text)
        ids = self._vocabulary.encode(text, "skip")
        if len(ids) == 0:
            ids = np.array([self._vocabulary.line_start])
        self._pieces = self._written(ids, np.random.default_rng(self._seed))

    def _written(self, ids: np.ndarray, rng: np.random.Generator) -> Iterator[str]:
        """New text after `ids` without end, in pieces; they are empty while `ids` is read."""
        yield from self._read(ids[:-1])
        decoder, last = self._vocabulary.decoder(), ids[-1:]
        while True:
            last = [self._draw(self._forward(last), rng)]
            yield decoder.feed(self._vocabulary.symbols(last))

    def _read(self, ids: np.ndarray) -> Iterator[str]:
        """Bring the stack to the state after `ids`, from the nearest that is kept."""
        same = _same(self._ids, ids)
        last = max(n for n in self._states if n <= same)
        kept = [n for n in self._states if n == last or (n < last and n % STEPS == 0)]
        self._states = {n: self._states[n] for n in kept}
        self._ids = ids
        self._stack.set_state(self._states[last])
        for start, end in _pieces(last, len(ids)):
            self._forward(ids[start:end])
            self._states[end] = self._stack.get_state()
            yield ""

    def _forward(self, ids: np.ndarray | list[int]) -> np.ndarray:
        """The logits (V,) after the last of `ids` (T,)."""
        self._stack.forward(np.array(ids, np.int32)[:, None])
        self._stack.advance_state(len(ids))
        return self._stack.logits[len(ids) - 1, 0, : self._vocab_size]

    def _draw(self, logits: np.ndarray, rng: np.random.Generator) -> int:
        if self._temperature == 0:
            return int(np.argmax(logits))
        logits = logits.astype(np.float64)
        with np.errstate(over="ignore"):  # at a temperature near 0
            p = np.exp((logits - logits.max()) / self._temperature)
        return int(rng.choice(len(p), p=p / p.sum()))


def _same(a: np.ndarray, b: np.ndarray) -> int:
    """How many first elements of `a` and `b` are the same."""
    size = min(len(a), len(b))
    different = a[:size] != b[:size]
    return int(different.argmax()) if different.any() else size


def _pieces(start: int, end: int) -> Iterator[tuple[int, int]]:
    """range(start, end) cut at the multiples of STEPS."""
    while start < end:
        stop = min(end, start - start % STEPS + STEPS)
        yield start, stop
        start = stop
