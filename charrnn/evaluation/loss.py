"""Cross-entropy of a text under a model: mean losses and surprisals, in nats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..arithmetic import ceil_div
from ..errors import CharRNNError
from ..network.arrays import Workspace
from ..network.model import Model
from ..network.stack import Stack
from ..text.disk_ids import Ids, JoinedIds
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


class _Row(NamedTuple):
    """A row of a validation text: `ids` (n + 1,), and which of the n predictions count."""

    ids: Ids
    counts: np.ndarray  # (n,) bool


class Validator:
    """Estimates `mean_loss` quickly: the text is cut into `rows` parallel streams.

    Each stream but the first reads WARM_UP characters of the text before it, to have a state; their
    losses do not count. Every character but the first counts once. Of several files, JoinedIds, the
    part of each file is read after the text before it; of records, each stream begins with a
    record. If there are more than `max_chars`, about that many count: the first ones of each
    stream. The state of training does not change: its stack is a separate one, which works in
    `workspace`, the memory of a training stack between two steps.
    """

    def __init__(
        self,
        model: Model,
        ids: Ids,
        rows: int,
        max_chars: int | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        max_chars = max_chars or len(ids)
        if model.config.has_records:
            self._rows = _record_rows(ids, model.config.record_end_id, rows, max_chars)
        elif isinstance(ids, JoinedIds):
            self._rows = _file_rows(ids, rows, max_chars)
        else:
            self._rows = _text_rows(ids, rows, max_chars)
        self._length = max(len(row.counts) for row in self._rows)
        self._total = sum(int(np.count_nonzero(row.counts)) for row in self._rows)
        rows = len(self._rows)
        steps = min(VALIDATION_STEPS, _chunk_length(model, rows), self._length)
        self._stack = Stack(model, rows, steps, workspace=workspace)

    def loss(self) -> float:
        """The loss of the model's present weights in nats per character."""
        stack, total = self._stack, 0.0
        stack.set_state(stack.model.zero_state(len(self._rows)))
        for start in range(0, self._length, stack.steps):
            x, y, counts = self._chunk(start)
            total += stack.losses_of(x, y)[counts].sum()
        return float(total / self._total)

    def _chunk(self, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs, targets and a mask of the losses that count, each (T, rows).

        A stream that has ended reads zeros.
        """
        steps = min(self._stack.steps, self._length - start)
        x, y = np.zeros((2, steps, len(self._rows)), np.int32)
        counts = np.zeros(x.shape, bool)
        for b, row in enumerate(self._rows):
            ids = row.ids[start : start + steps + 1]
            n = max(len(ids) - 1, 0)
            x[:n, b], y[:n, b] = ids[:n], ids[1:]
            counts[:n, b] = row.counts[start : start + n]
        return x, y, counts


def _text_rows(ids: Ids, rows: int, max_chars: int) -> list[_Row]:
    """Equal rows of one text."""
    length = ceil_div(len(ids) - 1, rows)
    read, warm_up = min(length, ceil_div(max_chars, rows)), min(WARM_UP, length)
    found = []
    for b in range(rows):
        skipped = warm_up if b else 0
        part = ids[b * length - skipped : b * length + read + 1]
        found.append(_Row(part, np.arange(len(part) - 1) >= skipped))
    return found


def _record_rows(ids: Ids, end_id: int, rows: int, max_chars: int) -> list[_Row]:
    """Rows of whole records, about equally long; the first ids of each, if `max_chars` is less."""
    ids = np.concatenate([[end_id], ids]).astype(np.int32)
    starts = np.flatnonzero(ids[:-1] == end_id)  # the end before each record
    wanted = np.arange(rows) * (len(ids) - 1) // rows
    firsts = np.unique(starts[np.minimum(np.searchsorted(starts, wanted), len(starts) - 1)])
    read = ceil_div(max_chars, len(firsts)) if max_chars < len(ids) - 1 else len(ids)
    ends = [*firsts[1:], len(ids) - 1]
    parts = [ids[a : min(b, a + read) + 1] for a, b in zip(firsts, ends, strict=True)]
    return [_Row(part, np.ones(len(part) - 1, bool)) for part in parts]


def _file_rows(ids: JoinedIds, rows: int, max_chars: int) -> list[_Row]:
    """Equal rows of the parts of several files, each part after the ids before it in its file."""
    share = min(1.0, max_chars / len(ids))
    parts = [(a, a + max(1, round((b - a) * share))) for a, b in ids.parts]
    file_starts = [0, *(b for _, b in ids.parts)]
    length = ceil_div(sum(end - start for start, end in parts), rows)
    found: list[_Row] = []
    segments: list[tuple[int, int, int]] = []  # (first id read, first that counts, end)
    space = length
    for file_start, (start, end) in zip(file_starts, parts, strict=False):
        while start < end:
            stop = min(end, start + space)
            segments.append((max(file_start, start - WARM_UP), start, stop))
            space -= stop - start
            start = stop
            if space == 0:
                found.append(_joined_row(ids.ids, segments))
                segments, space = [], length
    return found + [_joined_row(ids.ids, segments)] if segments else found


def _joined_row(ids: Ids, segments: list[tuple[int, int, int]]) -> _Row:
    """A row of (first id read, first id that counts, end) in `ids`."""
    parts = [ids[first:end] for first, _, end in segments]
    counts = [np.arange(first, end) >= max(start, first + 1) for first, start, end in segments]
    return _Row(np.concatenate(parts), np.concatenate(counts)[1:])


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
        self._p_shape = (self._stack.steps, 1, model.config.vocab_size)
        self._p = np.empty(self._p_shape, model.dtype) if self._top else None
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
        for place, nats in self._chunks(ids, self._p):
            part = scores[place]
            part["nats"] = nats
            if self._p is not None:
                part["expected"], part["probability"] = self._likeliest(self._p[: len(nats), 0])
        return scores

    def distributions(self, ids: np.ndarray) -> npt.NDArray[np.float64]:
        """Read the next ids (n,); return the predicted distribution (n, V) of each.

        It is NaN where the id is not predicted.
        """
        found = np.full((len(ids), self._p_shape[2]), np.nan)
        p = np.empty(self._p_shape, self._stack.model.dtype)
        for place, nats in self._chunks(ids, p):
            found[place] = p[: len(nats), 0]
        return found

    def _chunks(self, ids: np.ndarray, p: np.ndarray | None) -> Iterator[tuple[slice, np.ndarray]]:
        """Read the next ids (n,); yield the place of each chunk in them, and its losses in nats.

        p: an array of `_p_shape` to fill with the distributions of a chunk, if any.
        """
        unpredicted = 1 - len(self._last)
        ids = np.concatenate([self._last, ids]).astype(np.int32)
        self._last = ids[-1:]
        for start in range(0, len(ids) - 1, self.steps):
            y = ids[start + 1 : start + 1 + self.steps]
            x = ids[start : start + len(y)]
            first = unpredicted + start
            yield (
                slice(first, first + len(y)),
                self._stack.losses_of(x[:, None], y[:, None], p)[:, 0],
            )

    def scored(self, p: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """The scores of ids (n,) under the distributions p (n, V)."""
        scores = self.unscored(len(ids))
        with np.errstate(divide="ignore"):
            scores["nats"] = -np.log(p[np.arange(len(ids)), ids])
        if self._top:
            scores["expected"], scores["probability"] = self._likeliest(p)
        return scores

    def _likeliest(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest ids and their probabilities, (T, top), of the distributions p (T, V)."""
        first = p.shape[1] - self._top
        ids = np.argpartition(p, first, axis=1)[:, first:]
        order = np.argsort(-np.take_along_axis(p, ids, 1), axis=1, kind="stable")
        ids = np.take_along_axis(ids, order, 1)
        return ids, np.take_along_axis(p, ids, 1)
