"""Validation: the loss on the validation text, on a part of it while training."""

from __future__ import annotations

from ..config import TrainOptions
from ..evaluation.loss import Validator
from ..network.arrays import Workspace
from ..network.model import Model
from ..network.parameters import Parameters
from ..text.disk_ids import Ids, JoinedIds

ROWS = 50  # streams that the validation text is cut into
MAX_CHARS = TrainOptions.val_chars  # of the validation text that are ever read


class Validation:
    """Measures a model's loss on the validation text `ids`, in nats per character.

    `loss` reads about `max_chars`, `full_loss` everything. Both work in `workspace`, the trainer's,
    between two steps.
    """

    def __init__(self, model: Model, ids: Ids, max_chars: int, workspace: Workspace) -> None:
        self._model, self._workspace = model, workspace
        # Of several files, the validator reads a part of each.
        self._ids = ids if isinstance(ids, JoinedIds) else ids[: MAX_CHARS + 1]
        self.is_empty = len(self._ids) < 2  # one id predicts nothing
        self.is_partial = min(len(self._ids), MAX_CHARS + 1) > max_chars + 1
        self._validator = None if self.is_empty else self._make_validator(max_chars)

    def _make_validator(self, max_chars: int) -> Validator:
        max_chars = min(max_chars, MAX_CHARS)
        rows = max(1, min(ROWS, len(self._ids) // 200, max_chars // 200))
        return Validator(self._model, self._ids, rows, max_chars, self._workspace)

    def loss(self) -> float | None:
        """Loss at the model's current weights; None without a validation text."""
        return None if self._validator is None else self._validator.loss()

    def full_loss(self, weights: Parameters) -> float:
        """Loss of `weights` on the whole text; the model has its own weights afterwards."""
        validator, flat = self._make_validator(len(self._ids)), self._model.parameters.flat
        current = flat.copy()
        try:
            flat[:] = weights.flat
            self._model.pack()
            return validator.loss()
        finally:
            flat[:] = current
            self._model.pack()
