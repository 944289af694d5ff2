"""The losses of training runs over time, updates, epochs or characters, read from their logs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from ...errors import CharRNNError, escape_unprintable
from ...evaluation.training_log import Curve, log_beside, read_loss_history
from ..output import echo_err

TIME_UNITS = ((3600, "hours", "h"), (60, "minutes", "min"), (1, "seconds", "s"))
COUNT_UNITS = {"steps": "steps", "epochs": "epochs", "chars": "characters"}


class RunCurves(NamedTuple):
    """The losses of a run; x is the axis asked for, y is in nats per character."""

    name: str
    train: Curve
    val: Curve

    def has_losses(self) -> bool:
        return bool(len(self.train.x) or len(self.val.x))

    def best_point(self) -> tuple[float, float] | None:
        """The point with the lowest validation loss, if there is any."""
        if not len(self.val.x):
            return None
        index = int(self.val.y.argmin())
        return float(self.val.x[index]), float(self.val.y[index])


class AxisUnit(NamedTuple):
    """The label of the x axis, and the `size` that its values are divided by."""

    size: float
    name: str

    def describe(self, value: float) -> str:
        """Return a value with its unit; a time in the unit that suits it."""
        if self.name in COUNT_UNITS.values():
            return f"{value:,.0f} {self.name}" if value >= 1000 else f"{value:.3g} {self.name}"
        size, _, short = _time_unit(value)
        return f"{value / size:.3g} {short}"


def axis_unit(axis: str, runs: list[RunCurves]) -> AxisUnit:
    """Return the unit of an axis; a time axis has at least two of its unit, if it can."""
    if axis in COUNT_UNITS:
        return AxisUnit(1, COUNT_UNITS[axis])
    end = max(float(curve.x.max(initial=0)) for run in runs for curve in (run.train, run.val))
    size, name, _ = _time_unit(end / 2)
    return AxisUnit(size, name)


def _time_unit(seconds: float) -> tuple[float, str, str]:
    """Return the largest unit not above a time: its seconds, its name and its abbreviation."""
    return next((unit for unit in TIME_UNITS if seconds >= unit[0]), TIME_UNITS[-1])


def read_runs(paths: Sequence[str], axis: str) -> list[RunCurves]:
    """Read the runs that have losses, over `axis`, and say on stderr which have none.

    Raises CharRNNError when a log cannot be read or no run has a loss.
    """
    logs = list(dict.fromkeys(map(log_beside, paths)))
    all_runs = [_read_run(log, name, axis) for log, name in zip(logs, _names(logs), strict=True)]
    runs = [run for run in all_runs if run.has_losses()]
    empty = [run.name for run in all_runs if not run.has_losses()]
    if not runs:
        raise CharRNNError(
            f"{' and '.join(empty)}: the log has no loss yet; the run has only just begun, or "
            "failed to start."
        )
    for name in empty:
        echo_err(f"note    {name} is omitted: its log has no loss yet")
    return runs


def _read_run(log: str, name: str, axis: str) -> RunCurves:
    history = read_loss_history(log)
    if history.damaged:
        echo_err(f"Warning: {escape_unprintable(log)}: damaged lines skipped: {history.damaged:,}.")
    return RunCurves(name, history.curve(history.train, axis), history.curve(history.val, axis))


def _names(logs: list[str]) -> list[str]:
    """Return the file names without their ending, or the paths where two names are equal."""
    paths = ["stdin" if log == "-" else log.removesuffix(".log.jsonl") for log in logs]
    names = [os.path.basename(path) or path for path in paths]
    return [escape_unprintable(n) for n in (names if len(set(names)) == len(names) else paths)]
