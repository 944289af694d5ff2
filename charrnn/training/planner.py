"""Planning: fits models, their regularisation and the number of updates to text and time.

`--time 10m` measures this machine for a moment and chooses what ten minutes allow, so that the
learning-rate schedule ends when the time does. `model_choice` has the candidates, `loss_model` what
is expected of them, `regularisation` their rates; all are fitted to measurements
(tests/bench/LOG.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..arithmetic import ceil_div
from ..config import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_NGRAMS,
    DEFAULT_TIME,
    LEARNING_RATES,
    ModelConfig,
    ResolvedOptions,
    TrainOptions,
    field_names,
)
from ..text.disk_ids import Ids
from ..text.ngrams import NgramTable
from ..text.streams import BatchStreams, clamp_batch_shape
from .ensemble import Ensemble
from .model_choice import (
    MeasureRate,
    TextSizes,
    choose_model,
    config_of,
    given_or,
    max_epochs,
    num_saves,
    save_seconds,
)
from .ranks import Ranks
from .regularisation import choose_regularisation, choose_weight_decay

TRIAL_SECONDS = 1.2
CHECKPOINT_TIME_SHARE = 0.02  # of the time, spent on saving
VALIDATION_TIME_SHARE = 0.06  # of the time, for ten validations; they may read a part of the text
VALIDATION_SPEEDUP = 2.3  # speed of validation relative to training
MIN_VAL_CHARS = 10_000  # of such a part
MIN_UPDATES_PER_EPOCH = 16  # a short text gets fewer streams to have these
FULL_RATE_STEPS = 100  # up to which a run that starts from a model has the usual learning rate
MAX_STEPS = 2**53  # of an endless run; `epochs` may ask for infinitely many


class Plan(NamedTuple):
    """What a run trains, and how."""

    config: ModelConfig
    options: ResolvedOptions
    deadline: float | None = None  # seconds of training after which to end; None: no time was given
    summary: str = ""  # the choices, in a sentence


def with_defaults(options: TrainOptions) -> TrainOptions:
    """Set every option that does not depend on the text; without any limit, the default time.

    What is None afterwards is chosen by `fit_to_time`; the precision, by the processor.
    """
    defaults: dict[str, Any] = {}
    if options.init_from is None:
        defaults["learning_rate"] = LEARNING_RATES[options.optimizer]
    if not options.limit:
        defaults["time"] = DEFAULT_TIME
    elif options.time is None:
        defaults |= {
            "batch_size": DEFAULT_BATCH_SIZE,
            "hidden_size": ModelConfig.hidden_size,
            "num_layers": ModelConfig.num_layers,
            "ngrams": DEFAULT_NGRAMS,
            "dropout": ModelConfig.dropout,
            "recurrent_dropout": ResolvedOptions.recurrent_dropout,
            "weight_decay": ResolvedOptions.weight_decay,
            "precision": ResolvedOptions.precision,
            "ensemble": ResolvedOptions.ensemble,
        }
    unset = {name: value for name, value in defaults.items() if getattr(options, name) is None}
    return replace(options, **unset)


def make_streams(
    train_ids: Ids, options: TrainOptions, streams: Callable[..., BatchStreams] = BatchStreams
) -> BatchStreams:
    """Cut the training text into `streams` for the batch shape that is given or fits it.

    Raises CharRNNError for a text too short to train on.
    """
    batch_size = options.batch_size
    if batch_size is None:
        batch_size = choose_batch_size(len(train_ids), options.seq_length)
    return streams(train_ids, *clamp_batch_shape(len(train_ids), batch_size, options.seq_length))


def make_plan(
    streams: BatchStreams,
    text: TextSizes,
    options: TrainOptions,
    measure_rate: MeasureRate,
    seconds_used: Callable[[], float],
) -> Plan:
    """Choose what `options`, returned by `with_defaults`, leave open.

    With `options.time`, `measure_rate` measures the speed of training, and `seconds_used` returns
    how much of the time has passed.
    """
    if options.time is not None:
        return fit_to_time(options.time, streams, text, options, measure_rate, seconds_used)
    epochs = math.inf if options.epochs is None else options.epochs
    steps = options.steps or max(1, round(min(epochs * streams.num_chunks, MAX_STEPS)))
    return Plan(config_of(text, options), _resolved(options, streams, steps))


def fit_to_time(
    seconds: float,
    streams: BatchStreams,
    text: TextSizes,
    options: TrainOptions,
    measure_rate: MeasureRate,
    seconds_used: Callable[[], float],
) -> Plan:
    """Fit the steps, and the sizes and rates that are not given, to `seconds`.

    Other arguments as of `make_plan`.
    """
    draft = _resolved(options, streams, steps=1)
    chosen = choose_model(seconds, text, options, draft, measure_rate)
    config, draft = chosen.config, replace(draft, ensemble=chosen.members)
    kept = choose_regularisation(text.num_train, chosen, bool(options.init_from))
    config = replace(config, dropout=given_or(options.dropout, kept.dropout))
    recurrent_dropout = given_or(options.recurrent_dropout, kept.recurrent_dropout)
    rate = measure_rate(config, replace(draft, recurrent_dropout=recurrent_dropout))
    num_val = min(text.num_val, options.val_chars)
    saving = save_seconds(config, draft.ensemble)
    left = seconds - seconds_used()
    budget = choose_budget(left, rate, num_val, streams.chars_per_epoch, saving)
    epochs = min(budget.epochs, max_epochs(text.num_train, config))
    steps = max(1, int(epochs * streams.num_chunks))
    draft = replace(draft, learning_rate=_learning_rate(options, streams, steps))
    weight_decay = choose_weight_decay(kept.total_decay, steps, draft)
    resolved = replace(
        draft,
        steps=steps,
        val_chars=max(budget.val_chars, 1),
        recurrent_dropout=recurrent_dropout,
        weight_decay=given_or(options.weight_decay, weight_decay),
    )
    summary = _describe(config, resolved, seconds, rate, epochs < budget.epochs, text.unit)
    return Plan(config, resolved, budget.deadline, summary)


def _resolved(options: TrainOptions, streams: BatchStreams, steps: int) -> ResolvedOptions:
    """The options as far as they are given; the rest has its default."""
    given = {name: getattr(options, name) for name in field_names(ResolvedOptions)}
    chosen = {
        "batch_size": streams.batch_size,
        "seq_length": streams.seq_length,
        "steps": steps,
        "learning_rate": _learning_rate(options, streams, steps),
    }
    return ResolvedOptions(**{k: v for k, v in given.items() if v is not None} | chosen)


def _learning_rate(options: TrainOptions, streams: BatchStreams, steps: int) -> float:
    """Return the initial learning rate: the given one, or that of a run that starts from a model.

    The latter is proportional to the square root of the number of streams, up to the usual number,
    and inversely proportional to that of the number of steps (tests/bench/LOG.md).
    """
    if options.learning_rate is not None:
        return options.learning_rate
    fewer_streams = min(1.0, streams.batch_size / DEFAULT_BATCH_SIZE)
    factor = math.sqrt(fewer_streams * min(1.0, FULL_RATE_STEPS / steps))
    return float(f"{factor * LEARNING_RATES[options.optimizer]:.2g}")


def choose_batch_size(num_chars: int, seq_length: int) -> int:
    """Choose fewer streams for a short text: its few epochs must have enough updates."""
    streams = ceil_div(num_chars, MIN_UPDATES_PER_EPOCH * seq_length)
    return min(max(1, streams), DEFAULT_BATCH_SIZE)


class Budget(NamedTuple):
    """How the time is spent."""

    deadline: float  # seconds of training
    epochs: float
    val_chars: int  # characters per validation


def choose_budget(
    seconds: float, rate: float, num_val: int, chars_per_epoch: int, saving: float
) -> Budget:
    """Divide `seconds` among training at `rate` characters per second, validation and saving.

    `num_val` is the most characters that a validation may read, `saving` the seconds of one save.
    """
    deadline = seconds * (1 - CHECKPOINT_TIME_SHARE)
    deadline -= num_val / (rate * VALIDATION_SPEEDUP)  # the last validation reads all of them
    val_chars_affordable = max(
        MIN_VAL_CHARS, VALIDATION_TIME_SHARE / 10 * deadline * rate * VALIDATION_SPEEDUP
    )
    val_chars = min(num_val, int(val_chars_affordable))
    training = max(deadline - saving * num_saves(deadline), deadline / 2)
    return Budget(deadline, _num_epochs(training * rate, chars_per_epoch, val_chars), val_chars)


def _num_epochs(num_chars: float, chars_per_epoch: int, val_chars: int) -> float:
    """Epochs that leave time for validations: one per epoch, but ten at least.

    Validating on a character, and writing the model, cost half the time of training on one.
    """
    cost = val_chars / 2
    epochs = num_chars / (chars_per_epoch + cost)
    return epochs if epochs >= 10 else max(0.0, num_chars - 10 * cost) / chars_per_epoch


def measure_chars_per_second(
    streams: BatchStreams,
    threads: int,
    ngrams: NgramTable,
    ranks: Ranks,
    config: ModelConfig,
    options: ResolvedOptions,
) -> float:
    """Measure the speed of training over TRIAL_SECONDS, after a first step that compiles.

    At least three steps are measured.
    """
    ngrams = ngrams[: config.ngrams - 1]
    models = Ensemble(config, options, np.random.default_rng(0), threads, ngrams, ranks)
    x, y = streams.chunk(0)
    times: list[float] = []
    while len(times) < 4 or sum(times) < TRIAL_SECONDS:
        start = time.perf_counter()
        models.compute(x, y)
        models.update(0.0)
        times.append(time.perf_counter() - start)
    return x.size / float(np.quantile(times[1:], 0.25))  # not the mean: the machine may be busy


def _describe(
    config: ModelConfig,
    options: ResolvedOptions,
    seconds: float,
    rate: float,
    is_capped: bool,
    unit: str,
) -> str:
    asked = format_duration(seconds)
    capped = f"less than {asked}, as more epochs would learn the text by heart,"
    models = f"average of {options.ensemble} models, each " if options.ensemble > 1 else ""
    return (
        f"planned for {capped if is_capped else asked} "
        f"at {_two_digits(rate):,} {unit}s per second: {models}{config.num_layers} x "
        f"{config.hidden_size} units, batch size {options.batch_size}, "
        f"dropout {config.dropout:g}, recurrent dropout {options.recurrent_dropout:g}, "
        f"weight decay {options.weight_decay:g}, {options.precision}"
    )


def _two_digits(rate: float) -> int:
    digits = max(0, len(str(int(rate))) - 2)
    return int(round(rate, -digits))


def format_duration(seconds: float) -> str:
    """90 -> 90 s, 600 -> 10 minutes."""
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{seconds / 60:g} minutes" if seconds < 7200 else f"{seconds / 3600:g} hours"
