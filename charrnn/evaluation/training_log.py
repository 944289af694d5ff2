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

from ..errors import CharRNNError, FilePath, explained, shown
from ..storage.run_files import run_files

# What a course can be drawn over, and the field of the log that says so.
AXES = {"seconds": "seconds", "steps": "step", "epochs": "epoch", "chars": "chars"}
LONGEST_LINE = 1 << 16  # bytes; charrnn's own lines have some 200
LARGEST = 1e15  # number that is taken for one; a log of charrnn's holds no larger
HOPELESS = 100  # damaged lines after which a file without a sound one is no log


class Curve(NamedTuple):
    x: np.ndarray  # of points in the order of the log
    y: np.ndarray  # nats per character


class Course(NamedTuple):
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
        with explained(f"cannot read {shown(path)}"):
            os.stat(path)
        raise CharRNNError(f"{shown(path)} has no log beside it: {shown(log)} is not there.")
    return log


def read_course(path: FilePath) -> Course:
    """What the log `path` (`-`: stdin) tells.

    A last line that is cut short is left out, as the run may be writing it just now; other
    damaged lines are counted. Raises CharRNNError when there is no such file or it is no log.
    """
    rows, damaged = array("d"), 0
    name = "stdin" if path == "-" else shown(path)
    with explained(f"cannot read {name}"), _opened(path) as file:
        for line in iter(partial(file.readline, LONGEST_LINE), b""):
            if (row := _row(line)) is not None:
                rows.extend(row)
            elif line.endswith(b"\n") or len(line) == LONGEST_LINE:
                damaged += 1
            if damaged == HOPELESS and not rows:
                break
    if damaged and not rows:
        raise CharRNNError(f"{name}: this is not the log of a run, which 'charrnn train' writes.")
    *times, train, val = np.frombuffer(rows).reshape(-1, len(AXES) + 2).T
    return Course(dict(zip(AXES, times, strict=True)), train, val, damaged)


def _opened(path: FilePath) -> AbstractContextManager[BinaryIO]:
    if path != "-":
        try:
            return open(path, "rb")
        except FileNotFoundError:
            raise CharRNNError(
                f"no such file: {shown(path)}; 'charrnn train' writes a log beside its model, "
                "or name another."
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
    return times + losses if all(0 <= time <= LARGEST for time in times) else None


def _loss(value: Any) -> float:
    loss = math.nan if value is None else float(value)
    return loss if abs(loss) <= LARGEST else math.nan


def thinned(curve: Curve, num_bins: int, end: float) -> Curve:
    """The means over `num_bins` equal parts of 0 to `end`, where there are points."""
    bins = (curve.x / (end or 1) * num_bins).clip(0, num_bins - 1).astype(int)
    counts = np.bincount(bins, minlength=num_bins)
    filled = counts > 0
    x, y = (np.bincount(bins, v, num_bins)[filled] / counts[filled] for v in curve)
    return Curve(x, y)


def worth_seeing(curve: Curve) -> np.ndarray:
    """The losses but those of the first twentieth, which fall so far as to flatten the rest."""
    if not len(curve.x):
        return curve.y
    late = curve.x >= curve.x[0] + (curve.x[-1] - curve.x[0]) / 20
    return curve.y[late]
