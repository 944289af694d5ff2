"""The course of a run: its losses over time, read back from the log that it wrote."""

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

# What a course can be drawn over, and the field of the log that says so.
AXES = {"seconds": "seconds", "steps": "step", "epochs": "epoch", "chars": "chars"}
MAX_LINE_BYTES = 1 << 16  # bytes; charrnn's own lines have some 200
MAX_VALUE = 1e15  # number that is taken for one; a log of charrnn's holds no larger
MAX_BAD_LINES = 100  # damaged lines after which a file without a sound one is no log


class Curve(NamedTuple):
    x: np.ndarray  # of points in the order of the log
    y: np.ndarray  # nats per character


class LossHistory(NamedTuple):
    """What a log tells of a run."""

    times: dict[str, np.ndarray]  # by axis, one value a line
    train: np.ndarray  # nats per character since the line before; NaN: not known
    val: np.ndarray  # nats per character of the text held out; NaN: not measured
    damaged: int  # lines that could not be read

    def curve(self, losses: np.ndarray, axis: str) -> Curve:
        """The points of `losses`, which are self.train or self.val, that are known."""
        known = ~np.isnan(losses)
        return Curve(self.times[axis][known], losses[known])


def log_beside(path: FilePath) -> str:
    """The log of the run that the file `path` is of: a log itself, a model or a state.

    Raises CharRNNError when a model, or what is beside it, is not there.
    """
    name = os.fsdecode(path)
    if not name.endswith(".safetensors"):
        return name
    stem = name.removesuffix(".safetensors").removesuffix(".state")
    log = os.fspath(run_files(f"{stem}.safetensors").log)
    if not os.path.exists(log):
        with os_errors_as(f"cannot read {display_path(path)}"):
            os.stat(path)
        raise CharRNNError(
            f"{display_path(path)} has no log beside it: {display_path(log)} is missing."
        )
    return log


def read_loss_history(path: FilePath) -> LossHistory:
    """What the log `path` (`-`: stdin) tells.

    A last line that is cut short is left out, as the run may be writing it just now; other
    damaged lines are counted. Raises CharRNNError when there is no such file or it is no log.
    """
    rows, damaged = array("d"), 0
    name = "stdin" if path == "-" else display_path(path)
    with os_errors_as(f"cannot read {name}"), _opened(path) as file:
        for line in iter(partial(file.readline, MAX_LINE_BYTES), b""):
            if (row := _row(line)) is not None:
                rows.extend(row)
            elif line.endswith(b"\n") or len(line) == MAX_LINE_BYTES:
                damaged += 1
            if damaged == MAX_BAD_LINES and not rows:
                break
    if damaged and not rows:
        raise CharRNNError(f"{name}: this is not the log of a run, which 'charrnn train' writes.")
    *times, train, val = np.frombuffer(rows).reshape(-1, len(AXES) + 2).T
    return LossHistory(dict(zip(AXES, times, strict=True)), train, val, damaged)


def _opened(path: FilePath) -> AbstractContextManager[BinaryIO]:
    if path != "-":
        try:
            return open(path, "rb")
        except FileNotFoundError:
            raise CharRNNError(
                f"no such file: {display_path(path)}; 'charrnn train' writes a log beside its "
                "model, or name another."
            ) from None
    if sys.stdin is None:
        raise CharRNNError("there is nothing to read: stdin is closed.")
    return nullcontext(sys.stdin.buffer)


def _row(line: bytes) -> list[float] | None:
    """The times and losses in a line of a log; None: it is damaged."""
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
    """The means over `num_bins` equal parts of 0 to `end`, where there are points."""
    bins = (curve.x / (end or 1) * num_bins).clip(0, num_bins - 1).astype(int)
    counts = np.bincount(bins, minlength=num_bins)
    filled = counts > 0
    x, y = (np.bincount(bins, v, num_bins)[filled] / counts[filled] for v in curve)
    return Curve(x, y)


def without_burn_in(curve: Curve) -> np.ndarray:
    """The losses but those of the first twentieth, which fall so far as to flatten the rest."""
    if not len(curve.x):
        return curve.y
    late = curve.x >= curve.x[0] + (curve.x[-1] - curve.x[0]) / 20
    return curve.y[late]
