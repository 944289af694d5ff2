"""Cross-entropy of a text under a model: mean losses and surprisals, in nats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ..arithmetic import ceil_div
from ..errors import CharRNNError
from ..network.arrays import Workspace
from ..network.model import Model
from ..network.stack import Stack
from ..text.disk_ids import Ids
from ..text.streams import BatchStreams

STEPS = 256  # characters per chunk
LOGITS = 1 << 24  # maximum number of logits per chunk, 64 MB: chunks of a large vocabulary shrink
WINDOWS = 64  # windows evaluated in parallel
VALIDATION_STEPS = 32  # the chunk length of validation: the activations of many rows need memory
WARM_UP = 256  # characters that a stream reads, when a text is cut, before its losses count


def _chunk_length(model: Model, rows: int = 1) -> int:
    return max(1, min(STEPS, LOGITS // (rows * model.config.vocab_size)))


def surprisals(model: Model, ids: Ids) -> Iterator[np.ndarray]:
    """Yield -log p of each id of `ids` (n,) given all ids before it, in nats.

    The text starts from the model's first start; from a blank one, the first id is not predicted.
    The values are in float64 arrays of up to 256.
    """
    scorer = StreamingScorer(model)
    first = len(ids) - num_predicted(model, ids)
    for start in range(first, len(ids), scorer.steps):
        skipped, first = first, 0
        chunk = ids[start - skipped : start + scorer.steps]
        yield scorer.read(chunk)["nats"][skipped:].copy()


def num_predicted(model: Model, ids: Ids) -> int:
    """The number of `ids` (n,) that have a surprisal: all, or all but the first."""
    return max(0, len(ids) - 1 + len(model.start.ids))


def require_predicted(model: Model, ids: Ids) -> int:
    """Return `num_predicted`; raise CharRNNError when it is 0."""
    count = num_predicted(model, ids)
    if count == 0:
        needed = "one character is" if len(model.start.ids) else "two characters are"
        raise CharRNNError(f"the text is too short to measure: at least {needed} needed.")
    return count


def mean_loss(model: Model, ids: Ids, progress: Callable[[int], object] | None = None) -> float:
    """Return the mean surprisal of `ids` (n,) in nats per character.

    `progress` is called with the number of characters predicted since its last call. Raises
    CharRNNError when no id is predicted.
    """
    count, total = require_predicted(model, ids), 0.0
    for chunk in surprisals(model, ids):
        total += chunk.sum()
        if progress is not None:
            progress(len(chunk))
    return float(total / count)


def perplexity(loss: float) -> float:
    """exp(loss) of a loss in nats; infinity where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def windowed_loss(model: Model, ids: Ids, window: int) -> float:
    """Return the mean surprisal, in nats per character, with a zero state before each window.

    nanoGPT measures random windows; these are consecutive. A window of `window` inputs predicts
    as many characters, each shifted by one. The characters after the last whole window do not
    count. Raises CharRNNError for a text shorter than one window and one character.
    """
    windows = (len(ids) - 1) // window
    if windows < 1:
        raise CharRNNError(
            f"the text is too short for a window of {window:,}: it has {len(ids):,} characters "
            f"and needs {window + 1:,}."
        )
    total = 0.0
    for first in range(0, windows, WINDOWS):
        rows = min(WINDOWS, windows - first)
        steps = min(_chunk_length(model, rows), window)
        streams = BatchStreams(ids[first * window : (first + rows) * window + 1], rows, steps)
        stack = Stack(model, rows, steps)  # with a zero state
        for k in range(streams.num_chunks):
            total += stack.losses_of(*streams.chunk(k)).sum()
    return float(total / (windows * window))


class Validator:
    """Estimates `mean_loss` quickly: the text is cut into `rows` parallel streams.

    Each stream but the first reads WARM_UP characters of the stream before it, to have a state;
    their losses do not count. Every character but the first counts once. If there are more than
    `max_chars`, about that many count: the first ones of each stream. The state of training does
    not change: its stack is a separate one, which works in `workspace`, the memory of a
    training stack between two steps.
    """

    def __init__(
        self,
        model: Model,
        ids: Ids,
        rows: int,
        max_chars: int | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        length = ceil_div(len(ids) - 1, rows)
        read = min(length, ceil_div(max_chars or len(ids), rows))
        warm_up = min(WARM_UP, length)
        self._skipped = [0] + [warm_up] * (rows - 1)
        starts = [b * length - skipped for b, skipped in enumerate(self._skipped)]
        self._streams = [ids[s : b * length + read + 1] for b, s in enumerate(starts)]
        self._length = max(map(len, self._streams)) - 1
        counted = (len(s) - 1 - k for s, k in zip(self._streams, self._skipped, strict=True))
        self._total = sum(max(n, 0) for n in counted)
        steps = min(VALIDATION_STEPS, _chunk_length(model, rows), self._length)
        self._stack = Stack(model, rows, steps, workspace=workspace)

    def loss(self) -> float:
        """The loss of the model's present weights in nats per character."""
        stack, total = self._stack, 0.0
        stack.set_state(stack.model.zero_state(len(self._streams)))
        for start in range(0, self._length, stack.steps):
            x, y, counts = self._chunk(start)
            total += stack.losses_of(x, y)[counts].sum()
        return float(total / self._total)

    def _chunk(self, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs, targets and a mask of the losses that count, each (T, rows).

        A stream that has ended reads zeros.
        """
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
    """Scores one text that arrives in pieces, from the model's first start.

    Scores are arrays of `dtype`: the surprisal `nats` of each id, as `surprisals` gives it, and the
    `top` ids that the model `expected` most at that position, the likeliest first, with their
    `probability`.
    """

    def __init__(self, model: Model, top: int = 0) -> None:
        self.steps = _chunk_length(model)  # the pieces that are scored fastest
        self._stack = Stack(model, 1, self.steps)
        self._stack.set_state(model.start.first.states)
        self._last = model.start.ids
        self._top = min(top, model.config.vocab_size)
        p_shape = (self._stack.steps, 1, model.config.vocab_size)
        self._p = np.empty(p_shape, model.dtype) if self._top else None
        shape = (self._top,)
        self.dtype = np.dtype(
            [("nats", float), ("expected", np.int32, shape), ("probability", np.float32, shape)]
        )

    def unscored(self, count: int) -> np.ndarray:
        """The scores (count,) of characters that are not predicted; their surprisal is NaN."""
        scores = np.zeros(count, self.dtype)
        scores["nats"] = np.nan
        return scores

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Score the next ids (n,); from a blank start, the first of the text is not predicted."""
        scores = self.unscored(len(ids))
        ids = np.concatenate([self._last, ids]).astype(np.int32)
        self._last = ids[-1:]
        predicted = scores[len(scores) - len(ids) + 1 :]
        for start in range(0, len(ids) - 1, self.steps):
            y = ids[start + 1 : start + 1 + self.steps]
            part = predicted[start : start + len(y)]
            x = ids[start : start + len(y)]
            part["nats"] = self._stack.losses_of(x[:, None], y[:, None], self._p)[:, 0]
            if self._p is not None:
                part["expected"], part["probability"] = self._likeliest(self._p[: len(y), 0])
        return scores

    def _likeliest(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest ids and their probabilities, (T, top), of the distributions p (T, V)."""
        first = p.shape[1] - self._top
        ids = np.argpartition(p, first, axis=1)[:, first:]
        order = np.argsort(-np.take_along_axis(p, ids, 1), axis=1, kind="stable")
        ids = np.take_along_axis(ids, order, 1)
        return ids, np.take_along_axis(p, ids, 1)
