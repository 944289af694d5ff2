"""What fits a text and a time: size of the model, dropout, number of steps.

`--time 10m` measures this machine for a moment and chooses what ten minutes allow, so that the
schedule ends when the time does. The rules were chosen by measurement (tests/bench/LOG.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..arithmetic import ceil_div
from ..config import ModelConfig, TrainOptions
from ..network.optimizers import OPTIMIZERS
from ..text.disk_ids import Ids
from ..text.streams import BatchStreams, clamp_batch_shape
from .trainer import Trainer

SIZES = (64, 128, 192, 256, 384, 512, 768, 1024)
TRIAL_SECONDS = 1.2
SAVING = 0.02  # share of the time that goes into files
VALIDATION_RATE = 2.3  # times as fast as training
# Ten validations may take this share of the time; if need be they read a part of what is held out.
VALIDATING = 0.06
LEAST_VAL_CHARS = 10_000  # of that part
# 256 units must be able to make so many passes over a text of 10^6 characters, or a smaller size is
# taken; of a larger text they must read as many characters, of a smaller one somewhat fewer.
# More units must make more, as the square root of their number.
PASSES_WANTED = 2.7
WEIGHTS_A_CHARACTER = 8.0  # of the text: more are only learned by heart
MOST_PASSES = 200  # over a text; however long the time, from more nothing is learned but the text
LEAST_CHUNKS = 16  # updates in a pass, for which there may be fewer streams

Settings = TypeVar("Settings", ModelConfig, TrainOptions)


class Regularisation(NamedTuple):
    """What keeps a model from learning by heart."""

    dropout: float
    recurrent_dropout: float
    shrinking: float  # weights that nothing pulls shrink to e^-shrinking over the run


# For a product of passes and weights a character below (what is looked up is not counted):
REGULARISATIONS = (
    (0.5, Regularisation(0.0, 0.0, 0.0)),
    (1.4, Regularisation(0.0, 0.0, 0.5)),
    (4.0, Regularisation(0.1, 0.0, 0.6)),
    (15.0, Regularisation(0.1, 0.1, 0.6)),
    (35.0, Regularisation(0.1, 0.25, 0.9)),
    (100.0, Regularisation(0.2, 0.35, 0.8)),
    (1000.0, Regularisation(0.2, 0.5, 0.8)),
    (4000.0, Regularisation(0.4, 0.6, 0.6)),
    (math.inf, Regularisation(0.5, 0.8, 0.4)),
)


class Plan(NamedTuple):
    config: ModelConfig
    options: TrainOptions
    seconds: float | None = None  # of training after which to end
    why: str = ""  # what was chosen, in a sentence


def fit_to_time(
    train_ids: Ids,
    num_val: int,
    config: ModelConfig,
    options: TrainOptions,
    threads: int,
    given: Collection[str],
    began: float,
) -> Plan:
    """Fit the steps, and what is not `given` of sizes and regularisation, to `options.time`.

    `num_val` characters are held out; where to read them all ten times would take too much of the
    time, validations read a part. `began` is when the time started to run, as
    time.monotonic() tells it.
    """
    options = _unless(given, options, batch_size=_batch_size(len(train_ids), options))
    base = _unless(given, config, hidden_size=128)
    power = _characters_a_second(train_ids, base, options, threads) * _weights(base)
    passes = options.time * power / len(train_ids)  # of a model of one weight
    config = _unless(given, config, hidden_size=_size(len(train_ids), passes, config))
    against = _regularisation(len(train_ids), passes, config)
    config = _unless(given, config, dropout=against.dropout)
    options = _unless(given, options, recurrent_dropout=against.recurrent_dropout)
    rate = _characters_a_second(train_ids, config, options, threads)
    seconds = (options.time - (time.monotonic() - began)) * (1 - SAVING)
    num_val = min(num_val, options.val_chars)
    seconds -= num_val / (rate * VALIDATION_RATE)  # the best weights are measured on all of it
    looks = max(LEAST_VAL_CHARS, VALIDATING / 10 * seconds * rate * VALIDATION_RATE)
    val_chars = min(num_val, int(looks))
    streams = BatchStreams(
        train_ids, *clamp_batch_shape(len(train_ids), options.batch_size, options.seq_length)
    )
    epochs = _epochs(seconds * rate, streams.chars_per_epoch, val_chars)
    steps = max(1, int(min(epochs, MOST_PASSES) * streams.num_chunks))
    options = replace(options, steps=steps, val_chars=max(val_chars, 1))
    options = _unless(given, options, weight_decay=_weight_decay(against.shrinking, options))
    return Plan(config, options, seconds, _why(config, options, rate, epochs))


def _unless(given: Collection[str], settings: Settings, **chosen: Any) -> Settings:
    """The settings with what is chosen for them, but for what was given."""
    return replace(settings, **{k: value for k, value in chosen.items() if k not in given})


def _why(config: ModelConfig, options: TrainOptions, rate: float, epochs: float) -> str:
    asked = format_duration(options.time)
    enough = f"{MOST_PASSES} epochs, not {asked}, as the text is short,"
    return (
        f"planned for {asked if epochs < MOST_PASSES else enough} "
        f"at {_rounded(rate):,} characters a second: {config.num_layers} x {config.hidden_size} "
        f"units, batch size {options.batch_size}, dropout {config.dropout:g}, "
        f"recurrent dropout {options.recurrent_dropout:g}, weight decay {options.weight_decay:g}"
    )


def _batch_size(characters: int, options: TrainOptions) -> int:
    """Fewer streams for a short text: its few passes must make updates enough."""
    streams = ceil_div(characters, LEAST_CHUNKS * options.seq_length)
    return min(max(1, streams), options.batch_size)


def _size(characters: int, passes: float, config: ModelConfig) -> int:
    """The largest size that can make the passes it needs and has not too many weights."""
    wanted = PASSES_WANTED * (1e6 / characters) ** (0.75 if characters < 1e6 else 1.0)
    chosen = SIZES[0]
    for size in SIZES:
        tried = replace(config, hidden_size=size)
        too_many = _weights(tried) > WEIGHTS_A_CHARACTER * characters
        if too_many or passes / _weights(tried) < wanted * math.sqrt(size / 256):
            break
        chosen = size
    return chosen


def _epochs(characters: float, per_epoch: int, num_val: int) -> float:
    """Passes that leave time for the validations: one a pass, but ten at the least.

    To read a character there, and to write the model, takes half the time of learning from one.
    """
    cost = num_val / 2
    epochs = characters / (per_epoch + cost)
    if epochs < 10:
        epochs = max(0.0, characters - 10 * cost) / per_epoch
    return epochs


def _weights(config: ModelConfig) -> int:
    """Multiplications a character: all weights but what is looked up."""
    shapes = config.tensor_shapes()
    return sum(
        math.prod(shape) for name, shape in shapes.items() if name != config.lookup_table_name
    )


def _regularisation(characters: int, passes: float, config: ModelConfig) -> Regularisation:
    """The more weights there are to learn a text by heart, and passes to do it in, the more.

    A model of one weight makes so many passes; the product is the same for any.
    """
    chances = min(passes, MOST_PASSES * _weights(config)) / characters
    return next(against for most, against in REGULARISATIONS if chances < most)


def _weight_decay(shrinking: float, options: TrainOptions) -> float:
    """What shrinks weights so far in all steps, whose mean learning rate is half the first."""
    if "weight_decay" not in OPTIMIZERS[options.optimizer].defaults():
        return options.weight_decay
    steps = max(options.steps, 100)  # no single one may shrink them much
    rates = max(options.learning_rate * steps / 2, 1e-9)  # of less nothing comes
    return float(f"{shrinking / rates:.1g}")


def _characters_a_second(train_ids, config, options, threads) -> float:
    """The speed of training, measured: at least three steps after one that does not count."""
    shape = clamp_batch_shape(len(train_ids), options.batch_size, options.seq_length)
    learner = Trainer(config, options, np.random.default_rng(0), threads, *shape)
    x, y = BatchStreams(train_ids, *shape).chunk(0)
    times = []
    while len(times) < 4 or sum(times) < TRIAL_SECONDS:
        start = time.perf_counter()
        learner.compute(x, y, 0 if learner.needs_dropout_seed else None)
        learner.update(0.0)
        times.append(time.perf_counter() - start)
    return x.size / float(np.quantile(times[1:], 0.25))  # a busy moment must not decide


def _rounded(rate: float) -> int:
    digits = max(0, len(str(int(rate))) - 2)
    return int(round(rate, -digits))


def format_duration(seconds: float) -> str:
    """90 -> 90 s, 600 -> 10 minutes."""
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{seconds / 60:g} minutes" if seconds < 7200 else f"{seconds / 3600:g} hours"
