"""Dynamic evaluation: the loss of a model that continues to learn from the text it reads.

Krause, Kahembwe, Murray & Renals 2018, "Dynamic evaluation of neural sequence models".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..network.model import Model
from ..network.optimizers import Adam, norm
from ..network.stack import Stack
from ..text.disk_ids import Ids
from .loss import require_predicted

# Chosen by measurement on texts of several kinds (tests/bench/LOG.md).
STEPS = 32  # characters per update
LEARNING_RATE = 0.0005
DECAY = 2.0  # each update takes back LEARNING_RATE * DECAY of what was learned before


def adapted_loss(model: Model, ids: Ids, progress: Callable[[int], object] | None = None) -> float:
    """Return the mean surprisal of `ids` (n,) in nats per character for a model that adapts.

    The same characters are predicted as by `mean_loss`. A copy of the model reads the text as one
    stream and learns from each STEPS characters after their losses are counted; `model` itself does
    not change. `progress` and the errors are those of `mean_loss`.
    """
    count = require_predicted(model, ids)
    reader, last, total = _AdaptiveReader(model), model.start.ids, 0.0
    for start in range(0, len(ids), STEPS):
        chunk = np.concatenate([last, ids[start : start + STEPS]]).astype(np.int32)
        last = chunk[-1:]
        total += reader.read(chunk[:-1, None], chunk[1:, None])
        if progress is not None:
            progress(len(chunk) - 1)
    return float(total / count)


class _AdaptiveReader:
    """A copy of a model that learns from a text, which it reads from the model's first start.

    The rows of n-grams stay as they are: a text has too few examples of each.
    """

    def __init__(self, model: Model) -> None:
        self._model = _copy(model)
        self._weights = self._model.parameters.dense
        self._trained = self._weights.copy()
        # The optimizer works on the difference from the trained weights, so that its weight decay
        # draws the weights back to them. Without momentum, Adam is RMSprop whose first updates are
        # no larger than the others.
        self._learned = np.zeros_like(self._weights)
        self._optimizer = Adam(
            self._weights.size,
            model.dtype,
            self._model.team,
            beta1=0.0,
            beta2=0.999,
            weight_decay=DECAY,
        )
        self._stack = Stack(self._model, 1, STEPS, training=True)
        self._stack.set_state(model.start.first.states)

    def read(self, x: np.ndarray, y: np.ndarray) -> float:
        """Return the sum of the losses of y after x, both (T, 1), then learn from them."""
        self._stack.loss_and_gradients(x, y, None)
        self._stack.advance_state(len(x))
        self._learn()
        return float(self._stack.losses[: len(x)].sum())

    def _learn(self) -> None:
        gradients, team = self._stack.gradients.flat, self._model.team
        if math.isfinite(norm(gradients, team)):  # another one would make all later losses NaN
            self._optimizer.step(self._learned, gradients, LEARNING_RATE)
            np.add(self._trained, self._learned, out=self._weights)
            self._model.pack()


def _copy(model: Model) -> Model:
    precision = "float32" if model.panel_dtype == model.dtype else "bfloat16"
    table, threads = model.ngrams.table, model.team.size
    copy = Model(model.config, None, model.dtype, threads, precision, table)
    copy.load_state_dict(model.parameters.tensors())
    return copy
