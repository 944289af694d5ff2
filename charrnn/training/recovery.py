"""Recovery from divergence: back to the best weights with half the learning rate."""

from __future__ import annotations

import math

from ..config import ResolvedOptions
from ..errors import CharRNNError
from .ensemble import Ensemble
from .progress import Progress
from .run_writer import RunWriter

DIVERGENCE_FACTOR = 3.0  # times the first loss: a loss beyond has diverged (char-rnn's measure)
MAX_RECOVERIES = 5


class Diverged(CharRNNError):
    """Training has diverged: `how`, and advice."""

    def __init__(self, how: str, advice: str) -> None:
        super().__init__(f"{how}; {advice}")
        self.how = how


class Recovery:
    """Detects divergence and recovers from it, MAX_RECOVERIES times at most."""

    def __init__(
        self, progress: Progress, options: ResolvedOptions, ensemble: Ensemble, writer: RunWriter
    ) -> None:
        self._progress, self._options = progress, options
        self._ensemble, self._writer = ensemble, writer

    @property
    def base_learning_rate(self) -> float:
        """The initial learning rate, halved by each recovery."""
        return self._options.learning_rate * 0.5**self._progress.recoveries

    def check_update(self, loss: float, gradient_norm: float) -> None:
        """Raise Diverged before a bad gradient reaches the weights."""
        progress = self._progress
        first_loss = loss if progress.first_loss is None else progress.first_loss
        finite = math.isfinite(loss) and math.isfinite(gradient_norm)
        if not (finite and loss <= DIVERGENCE_FACTOR * first_loss + 1):
            how = f"loss {loss:.4g}, gradient norm {gradient_norm:.4g}"
            raise self.diverged(progress.step + 1, how)

    def check_weights(self) -> None:
        """Raise Diverged before bad weights are saved: finite gradients can produce them."""
        if not self._ensemble.are_finite():
            raise self.diverged(self._progress.step, "a weight is infinite or not a number")

    def check_val_loss(self, val_loss: float | None) -> None:
        """Raise Diverged for a validation loss that is not finite."""
        if val_loss is not None and not math.isfinite(val_loss):
            raise self.diverged(self._progress.step, f"validation loss {val_loss:.4g}")

    def diverged(self, step: int, how: str) -> Diverged:
        """Return the error of a divergence at `step`."""
        is_saved = self._writer.has_best and self._writer.model_is_saved
        return Diverged(
            f"training diverged at step {step:,} ({how})",
            f"{'the best model so far is saved' if is_saved else 'no model is saved'}: try a "
            f"smaller --learning-rate than {self.base_learning_rate:g}.",
        )

    def recover(self, error: Diverged) -> str:
        """Restart from the best weights with half the learning rate; returns a notice.

        Raises `error` after MAX_RECOVERIES.
        """
        progress = self._progress
        if progress.recoveries >= MAX_RECOVERIES:
            raise error
        progress.recoveries += 1
        progress.last_recovery_step = progress.step
        has_best = self._writer.has_best
        weights = self._writer.load_best().parameters if has_best else None
        self._ensemble.restart(weights, self._options.seed)
        self._ensemble.learn_new_characters()  # the best weights may be an earlier model's
        name = "the best weights so far" if has_best else "the initial weights"
        return f"{error.how}: it continues from {name} with half the learning rate."
