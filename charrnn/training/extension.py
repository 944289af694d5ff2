"""Going on with a run beyond its end: `--resume` with more epochs, steps or time than it had."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ..config import LIMITS, ResolvedOptions, TrainOptions
from ..errors import UsageError
from .planner import CHECKPOINT_TIME_SHARE, MAX_STEPS
from .progress import Progress

WARM_UP = 0.05  # of the new steps, in which the learning rate rises (tests/bench/LOG.md)
RESTARTED = "linear", "cosine"  # the schedules that fall to zero


class Extension(NamedTuple):
    """What a run becomes by another limit."""

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
    """Give a run another length, by `limit`, one of LIMITS with its value; changes `progress`.

    num_chunks: updates of an epoch. seconds: of training so far.
    Raises UsageError unless that is more than what the run has done already.
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
    """The share of the initial learning rate from which it falls again: that of the added steps.

    It is 1 if they are as many as were planned: after one epoch, a second one from all of the rate
    gives 1.441 nats, from half of it 1.445; a quarter of an epoch gains nothing from all of it.
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
