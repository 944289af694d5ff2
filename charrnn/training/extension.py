"""Extends a run: `--resume` with another number of epochs, steps or seconds than before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ..config import LIMITS, ResolvedOptions, TrainOptions
from ..errors import UsageError
from .planner import CHECKPOINT_TIME_SHARE, MAX_STEPS
from .progress import Progress

WARM_UP = 0.05  # fraction of the new steps in which the learning rate rises (tests/bench/LOG.md)
RESTARTED = "linear", "cosine"  # the schedules that fall to zero


class Extension(NamedTuple):
    """The options of an extended run, and a sentence that describes the extension."""

    requested: TrainOptions
    options: ResolvedOptions
    note: str


def extend(
    progress: Progress,
    requested: TrainOptions,
    options: ResolvedOptions,
    limit: Mapping[str, float],
    num_chunks: int,
    seconds: float,
) -> Extension:
    """Change the length of a run, and `progress`, to `limit`: one of LIMITS with its value.

    num_chunks: the number of updates per epoch. seconds: the training time so far.
    Raises UsageError if the run has already reached `limit`.
    """
    [(name, value)] = limit.items()
    progress.deadline = _deadline(progress, requested, value) if name == "time" else None
    total = _total_steps(progress, name, value, num_chunks, seconds)
    if total <= progress.step:
        done = {
            "time": f"{seconds:.0f} s",
            "epochs": f"{progress.step / num_chunks:.4g} epochs",
            "steps": f"{progress.step:,} steps",
        }
        raise UsageError(
            f"the run has already made {done[name]}: give more, or leave --{name} out to resume it."
        )
    peak = _peak(progress.total_steps, total)
    restarted = progress.extend(total, peak, WARM_UP)
    note = f"the run goes on after step {progress.step:,}, to step {total:,}"
    if restarted and options.schedule in RESTARTED:
        note += f", from {peak:.2g} times its initial learning rate down to zero"
    limits: dict[str, Any] = dict.fromkeys(LIMITS) | dict(limit)
    requested = replace(requested, **limits)
    return Extension(requested, replace(options, steps=total), note)


def _peak(planned: int, total: int) -> float:
    """Return the peak of the learning rate after an extension, as a factor of the initial one.

    It is the ratio of added to planned steps, at most 1. A second epoch after one lowers the loss
    to 1.441 nats with peak 1, to 1.445 with peak 0.5. A quarter of an epoch with peak 1 does not
    lower it.
    """
    return min(1.0, (total - planned) / planned)


def _deadline(progress: Progress, requested: TrainOptions, time: float) -> float:
    if progress.deadline is not None and requested.time is not None:
        return progress.deadline + time - requested.time
    return time * (1 - CHECKPOINT_TIME_SHARE)


def _total_steps(
    progress: Progress, name: str, value: float, num_chunks: int, seconds: float
) -> int:
    if name == "steps":
        return int(value)
    if name == "epochs":
        return max(1, round(min(value * num_chunks, MAX_STEPS)))
    assert progress.deadline is not None
    speed = progress.step / seconds if seconds else 1.0
    return progress.step + math.floor((progress.deadline - seconds) * speed)
