"""Progress: all numbers of a run, and early stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ..config import check_float, check_int
from ..errors import UsageError

# Early stopping: a validation is worse if its loss exceeds the best by this fraction of the best,
# and by this many nats at least. Smaller differences are noise.
MIN_DELTA = 0.02


@dataclass
class Progress:
    """All numbers of a run, as its state file stores them. Losses in nats per character.

    Raises UsageError for numbers that no run can have.
    """

    total_steps: int  # updates of the whole run, as planned now
    deadline: float | None = None  # seconds of training after which the run should end
    step: int = 0  # updates made
    replanned_step: int = 0  # step at which total_steps was last changed ...
    replanned_fraction: float = 0.0  # ... and the fraction of the schedule completed then
    extended_step: int = 0  # step at which the run was given another length; 0: never
    warm_up_steps: int = 0  # from then on, steps in which the learning rate rises
    chunk_offset: int = 0  # chunks by which the position in the text is ahead of the steps
    recoveries: int = 0  # from divergence
    last_recovery_step: int = 0  # step from which the last recovery restarted
    loss_sum: float = 0.0  # over the characters read since the last line of the log
    loss_count: int = 0  # number of these characters
    first_loss: float | None = None  # of the first step
    val_loss: float | None = None  # of the latest validation
    best_val_loss: float | None = None
    history: list[list[Any]] = field(default_factory=list)  # [step, train loss, validation loss]

    def __post_init__(self) -> None:
        check_int("total_steps", self.total_steps, minimum=1)
        check_int("step", self.step, minimum=0, maximum=self.total_steps)
        for name in "replanned_step", "last_recovery_step", "extended_step":
            check_int(name, getattr(self, name), minimum=0, maximum=self.step)
        check_float("replanned_fraction", self.replanned_fraction, 0, 1)
        check_int("warm_up_steps", self.warm_up_steps, minimum=0)
        check_int("chunk_offset", self.chunk_offset, minimum=0)
        check_int("recoveries", self.recoveries, minimum=0, maximum=1000)
        check_int("loss_count", self.loss_count, minimum=0)
        _check_finite("loss_sum", self.loss_sum)
        for name in "deadline", "first_loss", "val_loss", "best_val_loss":
            _check_finite(name, getattr(self, name), optional=True)
        if (self.first_loss is None) != (self.step == 0):
            raise UsageError("first_loss must be given exactly when a step has been made.")
        if (self.val_loss is None) != (self.best_val_loss is None):
            raise UsageError("val_loss and best_val_loss must be given together.")
        if not isinstance(self.history, list):
            raise UsageError("the history is not a list.")
        for record in self.history:
            _check_record(record)

    @property
    def schedule_fraction(self) -> float:
        """The fraction of the learning-rate schedule that is completed, 0 to 1."""
        remaining = self.total_steps - self.replanned_step
        made = self.step - self.replanned_step
        since = made / remaining if remaining else 1.0
        return self.replanned_fraction + (1 - self.replanned_fraction) * since

    def set_total_steps(self, total_steps: int) -> None:
        """Change the length of the run; the schedule continues from its current fraction."""
        self.replanned_fraction, self.replanned_step = self.schedule_fraction, self.step
        self.total_steps = total_steps

    @property
    def warm_up(self) -> float:
        """The factor on the learning rate of the next step, below 1 soon after an extension."""
        since = self.step - self.extended_step
        return min(1.0, (since + 1) / (self.warm_up_steps + 1)) if self.extended_step else 1.0

    def extend(self, total_steps: int, peak: float, warm_up: float) -> bool:
        """Change the length of the run; returns whether its schedule goes back to `peak`.

        It does if less than that fraction of it remains. The learning rate then rises in the
        fraction `warm_up` of the new steps.
        """
        restarts = 1 - self.schedule_fraction < peak
        self.set_total_steps(total_steps)
        self.extended_step, self.warm_up_steps = self.step, 0
        if restarts:
            self.replanned_fraction = 1 - peak
            self.warm_up_steps = round(warm_up * (total_steps - self.step))
        return restarts

    def record_step(self, loss: float, characters: int) -> None:
        """Count one update whose mean loss over `characters` was `loss`."""
        if self.step == 0:
            self.first_loss = loss
        self.step += 1
        self.loss_sum += loss * characters
        self.loss_count += characters

    def record_validation(self, val_loss: float | None) -> None:
        """Append to the history; None: there is no validation text."""
        self.val_loss = val_loss
        self.history.append([self.step, self.mean_loss, val_loss])

    @property
    def mean_loss(self) -> float:
        """Training loss since the last line of the log."""
        return self.loss_sum / self.loss_count

    def should_stop_early(self, patience: int) -> bool:
        """Whether the model overfits.

        It does when the last `patience` validations were all worse than the best by MIN_DELTA
        while the training loss has fallen below that of the best. `patience` 0: never. Those before
        an extension do not count.
        """
        since = [record for record in self.history if record[0] > self.extended_step]
        recent = since[-patience:] if patience else []
        unknown = any(loss is None for _, _, loss in self.history)
        if not recent or len(since) <= patience or unknown:
            return False
        _, train_loss_at_best, best = min(self.history, key=lambda record: float(record[2]))
        threshold = best + MIN_DELTA * max(best, 1)
        train_loss_fell = bool(recent[-1][1] < train_loss_at_best)
        return train_loss_fell and all(loss > threshold for _, _, loss in recent)


def _check_record(record: Any) -> None:
    if not isinstance(record, list) or len(record) != 3:
        raise UsageError("the history has a record that is not [step, loss, loss].")
    check_int("step of the history", record[0], minimum=1)
    _check_finite("loss of the history", record[1])
    _check_finite("loss of the history", record[2], optional=True)


def _check_finite(name: str, value: Any, optional: bool = False) -> None:
    """Raise UsageError unless `value` is finite; rounding can make a loss slightly negative."""
    if value is not None or not optional:
        check_float(name, value, -math.inf, math.inf)
