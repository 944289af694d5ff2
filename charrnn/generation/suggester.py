"""Suggested continuations of a text that is being edited.

This module knows neither terminals nor threads: `Suggester.step` does a few milliseconds of work
between two keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from ..network.model import Model
from ..network.stack import Stack
from ..text.vocabulary import Vocabulary
from .seeds import fresh_seed, rng_of_text

STEPS = 64  # characters per forward pass; the state after each pass is saved
_WORD = re.compile(r"\s*\S*")


class Suggester:
    """Suggests how a text continues: `suggestion` is what `LanguageModel.sample` gives after it.

    Suggestion i, counted from 0, is text i of the seed `seed` (None: a random seed) and has the
    text as its prime. The suggestion stays while the text grows into it, and is extended to
    `length` characters by calls of `step`. With a model of records, the text is a list of records,
    and a suggestion ends with its record, whose separator is its last part. `unknown` holds the
    characters that the model does not know, each once; it skips them.
    """

    unknown: str
    _text: str
    _drawn: str  # follows the text that the suggestion began after; _text may reach into it

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
        self._end_id = model.config.record_end_id
        self._writable = vocabulary.writable
        within_record = self._writable & (np.arange(self._vocab_size) != self._end_id)
        self._first = within_record if within_record.any() else self._writable  # ids of a record
        self._length, self._temperature = length, temperature
        self._seed = fresh_seed() if seed is None else seed
        self._number = 0
        self._stack = Stack(model, 1, STEPS)
        self._text_start = model.start.first if temperature == 0 else model.start
        self._ids: np.ndarray = np.empty(0, np.int32)
        self._states = {0: self._text_start.first.states}  # after the first n of the ids, by n
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
        match = _WORD.match(self.suggestion)
        return match[0] if match else ""

    @property
    def line(self) -> str:
        """The first line of the suggestion with its newline, or all of an unfinished line."""
        return self.suggestion[: self.suggestion.find("\n") + 1] or self.suggestion

    def update(self, text: str) -> None:
        """Set the text; keep the suggestion if it begins with the new characters."""
        if text == self._text:
            return
        end = self._start + self._drawn
        is_next_record = self._record_is_complete and text == end
        if text.startswith(self._start) and end.startswith(text) and not is_next_record:
            self._text = text
        else:
            self._begin_next(text)

    def resample(self) -> None:
        """Begin another suggestion for the same text."""
        self._begin_next(self._text)

    def step(self) -> bool:
        """Work on the suggestion for a few milliseconds; return False if it is complete."""
        if self._record_is_complete or len(self.suggestion) >= self._length:
            return False
        self._drawn += next(self._pieces)
        return True

    def _begin_next(self, text: str) -> None:
        self._number += 1
        self._begin(text)

    def _begin(self, text: str) -> None:
        self._text = self._start = text
        self._drawn, self._record_is_complete = "", False
        self.unknown = self._vocabulary.unknown(text)
        ids = self._vocabulary.encode(text, "skip")
        rng = rng_of_text(self._seed, self._number)
        start = self._text_start.drawn(rng, len(ids))
        if not start.states.equals(self._states[0]):
            self._ids, self._states = np.empty(0, np.int32), {0: start.states}
        ids = start.prepend(ids)
        if len(ids) == 0:
            ids = np.array([self._vocabulary.line_start])
        self._pieces = self._generate(ids, rng)

    def _generate(self, ids: np.ndarray, rng: np.random.Generator) -> Iterator[str]:
        """Yield new text after `ids` without end; the pieces are empty while `ids` are read."""
        yield from self._read(ids[:-1])
        decoder = self._vocabulary.decoder()
        last: Sequence[int] | np.ndarray = ids[-1:]
        while True:
            allowed = self._first if last[0] == self._end_id else self._writable  # no empty record
            last = [self._draw(self._forward(last), rng, allowed)]
            self._record_is_complete = last[0] == self._end_id
            yield decoder.feed(self._vocabulary.symbols(last))

    def _read(self, ids: np.ndarray) -> Iterator[str]:
        """Bring the stack to the state after `ids`, from the nearest saved state."""
        common = _common_prefix_length(self._ids, ids)
        nearest = max(n for n in self._states if n <= common)
        # Of the states before the nearest only every STEPS-th is saved, not one per key.
        saved = [n for n in self._states if n == nearest or (n < nearest and n % STEPS == 0)]
        self._states = {n: self._states[n] for n in saved}
        self._ids = ids
        self._stack.set_state(self._states[nearest])
        for start, end in _chunks(nearest, len(ids)):
            self._forward(ids[start:end])
            self._states[end] = self._stack.get_state()
            yield ""

    def _forward(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The logits (V,) after the last of `ids` (T,)."""
        self._stack.forward(np.array(ids, np.int32)[:, None])
        self._stack.advance_state(len(ids))
        return self._stack.logits[len(ids) - 1, 0, : self._vocab_size]

    def _draw(self, logits: np.ndarray, rng: np.random.Generator, allowed: np.ndarray) -> int:
        logits = np.where(allowed, logits.astype(np.float64), -np.inf)
        if self._temperature == 0:
            return int(np.argmax(logits))
        with np.errstate(over="ignore"):  # at a temperature near 0
            p = np.exp((logits - logits.max()) / self._temperature)
        return int(rng.choice(len(p), p=p / p.sum()))


def _common_prefix_length(a: np.ndarray, b: np.ndarray) -> int:
    size = min(len(a), len(b))
    different = a[:size] != b[:size]
    return int(different.argmax()) if different.any() else size


def _chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut range(start, end) at the multiples of STEPS."""
    while start < end:
        stop = min(end, start - start % STEPS + STEPS)
        yield start, stop
        start = stop
