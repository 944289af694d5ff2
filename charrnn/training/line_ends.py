"""The ends of lines of the training text, after which generated and evaluated texts start."""

from __future__ import annotations

import numpy as np

from ..generation.primes import states_after
from ..network.arrays import Workspace
from ..network.model import Model
from ..network.start import TextStart
from ..text.disk_ids import Ids
from ..text.vocabulary import Vocabulary

# With one line end, texts begin like the one line that follows it. 16 give the kinds of lines as
# often as the text has them (tests/bench/LOG.md).
NUM_ENDS = 16
MAX_STATE_BYTES = 1 << 20  # of all states together: the model file has them in its header
CONTEXT = 128  # ids read before a line end, from a zero state; 32 would give as good texts
MAX_SEARCHED = 1 << 20  # ids searched for each line end


class RecordStarts:
    """Where records start: every one in a zero state, after the id that ends records."""

    def start(self, model: Model, workspace: Workspace | None = None) -> TextStart:
        return model.blank_start()


def text_starts(ids: Ids, vocabulary: Vocabulary, record_end_id: int) -> LineEnds | RecordStarts:
    """The starts of texts of a model that learns the training text `ids`."""
    return LineEnds(ids, vocabulary) if record_end_id < 0 else RecordStarts()


class LineEnds:
    """Up to NUM_ENDS line ends spread evenly over the training text `ids`, the last one first.

    Without a newline, a space ends a line; without both, the last id does.
    """

    def __init__(self, ids: Ids, vocabulary: Vocabulary) -> None:
        bounds = [len(ids) * k // NUM_ENDS for k in range(NUM_ENDS, -1, -1)]
        parts = list(zip(bounds[1:], bounds, strict=False))
        self._id, ends = int(ids[len(ids) - 1]), [len(ids) - 1]
        for i in vocabulary.look_up(" \n"):  # -1 is found nowhere
            found = [end for part in parts if (end := _last_of(ids, int(i), *part)) is not None]
            if found:
                self._id, ends = int(i), found
        self._contexts = np.stack([_context(ids, end) for end in ends], axis=1)  # (n, K)

    def start(self, model: Model, workspace: Workspace | None = None) -> TextStart:
        """Where texts start under the present weights of `model`. `workspace` is as of Stack."""
        num_ends = max(1, MAX_STATE_BYTES // model.zero_state(1).hidden.nbytes)
        contexts = self._contexts[:, :num_ends]
        zero = model.zero_state(contexts.shape[1])
        states = states_after(model, list(contexts.T), zero, workspace)
        return TextStart(states, np.array([self._id], np.int32))


def _last_of(ids: Ids, i: int, start: int, end: int) -> int | None:
    """The last position of id `i` in ids[start:end]."""
    start = max(start, end - MAX_SEARCHED)
    places = np.flatnonzero(ids[start:end] == i)
    return start + int(places[-1]) if len(places) else None


def _context(ids: Ids, end: int) -> np.ndarray:
    """The CONTEXT ids before `end`, or as many as there are; the last ids precede the first."""
    start = end - min(CONTEXT, len(ids))
    if start >= 0:
        return np.asarray(ids[start:end], np.int32)
    return np.concatenate([ids[len(ids) + start :], ids[:end]]).astype(np.int32)
