"""The history of losses of a training run, read from its log."""

from __future__ import annotations

import json
import math
import os
import sys
from array import array
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import CharRNNError, FilePath, display_path, os_errors_as
from ..storage.run_files import run_files

# The axes that losses can be drawn over, and their fields in the log.
AXES = {"seconds": "seconds", "steps": "step", "epochs": "epoch", "chars": "chars"}
MAX_LINE_BYTES = 1 << 16  # charrnn's own lines have about 200
MAX_VALUE = 1e15  # larger numbers are treated as damage; charrnn's logs have none
MAX_BAD_LINES = 100  # damaged lines after which a file without a valid line is not a log


class Curve(NamedTuple):
    """Points in the order of the log."""

    x: np.ndarray
    y: np.ndarray  # nats per character


class LossHistory(NamedTuple):
    """The contents of a log; arrays hold one value per line."""

    times: dict[str, np.ndarray]  # by axis
    train: np.ndarray  # training loss since the line before, nats per character; NaN if unknown
    val: np.ndarray  # validation loss, nats per character; NaN if not measured
    damaged: int  # number of lines that could not be read

    def curve(self, losses: np.ndarray, axis: str) -> Curve:
        """The known points of `losses`, either self.train or self.val."""
        known = ~np.isnan(losses)
        return Curve(self.times[axis][known], losses[known])


def log_beside(path: FilePath) -> str:
    """Return the log of the run that the file `path` belongs to: a log, a model or a state.

    Raises CharRNNError for a model or a state that does not exist or has no log.
    """
    name = os.fsdecode(path)
    if not name.endswith(".safetensors"):
        return name
    stem = name.removesuffix(".safetensors").removesuffix(".state")
    log = os.fspath(run_files(f"{stem}.safetensors").log)
    if not os.path.exists(log):
        with os_errors_as(f"cannot read {display_path(path)}"):
            os.stat(path)
        raise CharRNNError(f"{display_path(path)} has no log: {display_path(log)} is missing.")
    return log


def read_loss_history(path: FilePath) -> LossHistory:
    """Read the log `path`; `-` is stdin.

    An incomplete last line is ignored, since the run may be writing it; other damaged lines are
    counted. Raises CharRNNError if the file does not exist or is not a log.
    """
    rows, damaged = array("d"), 0
    name = "stdin" if path == "-" else display_path(path)
    with os_errors_as(f"cannot read {name}"), _opened(path) as file:
        for line in iter(partial(file.readline, MAX_LINE_BYTES), b""):
            if (row := _parse(line)) is not None:
                rows.extend(row)
            elif line.endswith(b"\n") or len(line) == MAX_LINE_BYTES:
                damaged += 1
            if damaged == MAX_BAD_LINES and not rows:
                break
    if damaged and not rows:
        raise CharRNNError(f"{name}: this is not the log of a run that 'charrnn train' writes.")
    *times, train, val = np.frombuffer(rows).reshape(-1, len(AXES) + 2).T
    return LossHistory(dict(zip(AXES, times, strict=True)), train, val, damaged)


def _opened(path: FilePath) -> AbstractContextManager[BinaryIO]:
    if path != "-":
        try:
            return open(path, "rb")
        except FileNotFoundError:
            raise CharRNNError(
                f"no such file: {display_path(path)}; give a log or a model that "
                "'charrnn train' writes."
            ) from None
    if sys.stdin is None:
        raise CharRNNError("cannot read stdin: it is closed.")
    return nullcontext(sys.stdin.buffer)


def _parse(line: bytes) -> list[float] | None:
    """The times and losses in a line of a log; None if it is damaged."""
    try:
        values = json.loads(line)
        times = [float(values[field]) for field in AXES.values()]
        losses = [_loss(values[field]) for field in ("train_loss", "val_loss")]
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
    return times + losses if all(0 <= time <= MAX_VALUE for time in times) else None


def _loss(value: Any) -> float:
    loss = math.nan if value is None else float(value)
    return loss if abs(loss) <= MAX_VALUE else math.nan


def binned_means(curve: Curve, num_bins: int, end: float) -> Curve:
    """The mean points of `num_bins` equal bins from 0 to `end`; empty bins have none."""
    bins = (curve.x / (end or 1) * num_bins).clip(0, num_bins - 1).astype(int)
    counts = np.bincount(bins, minlength=num_bins)
    filled = counts > 0
    x, y = (np.bincount(bins, v, num_bins)[filled] / counts[filled] for v in curve)
    return Curve(x, y)


def without_burn_in(curve: Curve) -> np.ndarray:
    """The losses after the first twentieth, whose steep fall would make the rest look flat."""
    if not len(curve.x):
        return curve.y
    late = curve.x >= curve.x[0] + (curve.x[-1] - curve.x[0]) / 20
    losses: np.ndarray = curve.y[late]
    return losses
