"""How well a model foresees a text: its loss, and the surprise at each character, in nats."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..arithmetic import ceil_div
from ..errors import CharRNNError
from ..network.model import Model
from ..network.stack import Stack
from ..text.corpus import BatchStreams, Ids

STEPS = 256  # characters taken at a time, ...
LOGITS = 1 << 24  # ... or as many as have so many logits, 64 MB, if the vocabulary is large
WINDOWS = 64  # read side by side
VALIDATION_STEPS = 32  # the same, of each of many streams: what lies in between takes memory
WARM_UP = 256  # characters read before a stream's losses count, when a text is cut into streams


def _steps(model: Model, rows: int = 1) -> int:
    return max(1, min(STEPS, LOGITS // (rows * model.config.vocab_size)))


def surprisals(model: Model, ids: Ids) -> Iterator[np.ndarray]:
    """-log p of each id but the first, given all before it, from a zero state: float64 arrays.

    Chunks of up to 256; n ids give n - 1 values.
    """
    steps = _steps(model)
    streams = BatchStreams(ids, 1, steps)
    stack = Stack(model, 1, steps)
    for k in range(streams.num_chunks):
        yield stack.losses_of(*streams.chunk(k))[:, 0].copy()


def mean_loss(model: Model, ids: Ids, progress: Callable[[int], object] | None = None) -> float:
    """Nats per character of `ids`, each predicted from all before it, from a zero state.

    `progress` is called with each number of characters predicted. Raises CharRNNError for fewer
    than two ids: the first is given, not predicted.
    """
    if len(ids) < 2:
        raise CharRNNError("the text is too short to measure: it needs two characters or more.")
    total = 0.0
    for part in surprisals(model, ids):
        total += part.sum()
        if progress is not None:
            progress(len(part))
    return float(total / (len(ids) - 1))


def windowed_loss(model: Model, ids: Ids, window: int) -> float:
    """Nats per character when every `window` characters are predicted from a zero state.

    nanoGPT's measure, on windows that follow one upon the other instead of random ones: each
    gives `window` inputs and predicts what follows each of them, the mean is over all; of the
    last characters, those that fill no window are left out. Raises CharRNNError for a text
    without a whole one.
    """
    windows = (len(ids) - 1) // window
    if windows < 1:
        raise CharRNNError(
            f"the text is too short for a window of {window:,}: it has {len(ids):,} characters, "
            "one more than the window are needed."
        )
    total = 0.0
    for first in range(0, windows, WINDOWS):
        rows = min(WINDOWS, windows - first)
        steps = min(_steps(model, rows), window)
        streams = BatchStreams(ids[first * window : (first + rows) * window + 1], rows, steps)
        stack = Stack(model, rows, steps)  # its state is zero
        for k in range(streams.num_chunks):
            total += stack.losses_of(*streams.chunk(k)).sum()
    return float(total / (windows * window))


class Validator:
    """A quick estimate of `mean_loss`: the text in `rows` streams side by side.

    Each stream but the first starts WARM_UP characters early, to have a state, and those do not
    count; so every character but the first counts once or, if they are more than `most`, about so
    many do: the first of each stream. The stack is its own: evaluating never touches the state of
    training; but it works in the memory of `lender`, which is between two steps.
    """

    def __init__(
        self,
        model: Model,
        ids: Ids,
        rows: int,
        most: int | None = None,
        lender: Stack | None = None,
    ) -> None:
        length = ceil_div(len(ids) - 1, rows)
        read = min(length, ceil_div(most or len(ids), rows))
        warm_up = min(WARM_UP, length)
        self._skipped = [0] + [warm_up] * (rows - 1)
        starts = [b * length - skipped for b, skipped in enumerate(self._skipped)]
        self._streams = [ids[s : b * length + read + 1] for b, s in enumerate(starts)]
        self._length = max(map(len, self._streams)) - 1
        counted = (len(s) - 1 - k for s, k in zip(self._streams, self._skipped, strict=True))
        self._total = sum(max(n, 0) for n in counted)
        steps = min(VALIDATION_STEPS, _steps(model, rows), self._length)
        self._stack = Stack(model, rows, steps, lender=lender)

    def loss(self) -> float:
        """Nats per character at the model's weights of now."""
        stack, total = self._stack, 0.0
        stack.set_state(stack.model.zero_state(len(self._streams)))
        for start in range(0, self._length, stack.steps):
            x, y, counts = self._chunk(start)
            total += stack.losses_of(x, y)[counts].sum()
        return float(total / self._total)

    def _chunk(self, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs, targets and which of them count, (T, rows); a stream that is over reads zeros."""
        steps = min(self._stack.steps, self._length - start)
        x, y = np.zeros((2, steps, len(self._streams)), np.int32)
        counts = np.zeros(x.shape, bool)
        for b, ids in enumerate(self._streams):
            ids = ids[start : start + steps + 1]
            n = max(len(ids) - 1, 0)
            x[:n, b], y[:n, b] = ids[:n], ids[1:]
            counts[:n, b] = np.arange(start, start + n) >= self._skipped[b]
        return x, y, counts


class StreamingScorer:
    """A model that reads one text piece by piece, from a zero state, and tells its surprises.

    They are those of `surprisals`. With `top`, it also tells what it expected in each place: the
    `top` likeliest ids, the likeliest first.
    """

    def __init__(self, model: Model, top: int = 0) -> None:
        self._stack = Stack(model, 1, _steps(model))
        self._last = np.empty(0, np.int32)
        self._top = min(top, model.config.vocab_size)
        shape = (self._top,)
        self.dtype = np.dtype(
            [("nats", float), ("expected", np.int32, shape), ("probability", np.float32, shape)]
        )

    def blank(self, count: int) -> np.ndarray:
        """What is known of characters that are not predicted: (count,) of `dtype`, nats NaN."""
        found = np.zeros(count, self.dtype)
        found["nats"] = np.nan
        return found

    def read(self, ids: np.ndarray) -> np.ndarray:
        """(n,) of `dtype` for the next ids (n,); the text's first is given, not predicted."""
        found = self.blank(len(ids))
        ids = np.concatenate([self._last, ids]).astype(np.int32)
        self._last = ids[-1:]
        predicted = found[len(found) - len(ids) + 1 :]
        for start in range(0, len(ids) - 1, self._stack.steps):
            y = ids[start + 1 : start + 1 + self._stack.steps]
            part = predicted[start : start + len(y)]
            x = ids[start : start + len(y)]
            part["nats"] = self._stack.losses_of(x[:, None], y[:, None])[:, 0]
            if self._top:
                part["expected"], part["probability"] = self._likeliest(y)
        return found

    def _likeliest(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest ids and their probabilities, (T, top), in place of y (T,)."""
        steps, vocab_size = np.arange(len(y)), self._stack.model.config.vocab_size
        # The loss leaves its gradient: the probabilities, less 1 for what came.
        p = self._stack.logits[: len(y), 0, :vocab_size]
        p[steps, y] += 1
        ids = np.argpartition(p, vocab_size - self._top, axis=1)[:, vocab_size - self._top :]
        order = np.argsort(-np.take_along_axis(p, ids, 1), axis=1, kind="stable")
        ids = np.take_along_axis(ids, order, 1)
        return ids, np.take_along_axis(p, ids, 1)
