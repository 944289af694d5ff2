"""Planning: fits the model's size, its regularisation and the number of updates to text and time.

`--time 10m` measures this machine for a moment and chooses what ten minutes allow, so that the
learning-rate schedule ends when the time does. The rules were chosen by measurement
(tests/bench/LOG.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

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
from ..network.optimizers import OPTIMIZERS
from ..text.disk_ids import Ids
from ..text.ngrams import NgramTable
from ..text.streams import BatchStreams, clamp_batch_shape
from .ensemble import Ensemble
from .loss_model import WITH_NGRAMS, WITHOUT_NGRAMS, Curve

SIZES = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024)  # hidden units
MEMBERS = (1, 2, 4, 8)  # models that are averaged
# Of the weights of characters and n-grams, in all members: they are most of the model file.
MAX_TABLE_BYTES = 1.5e8
MAX_TABLE_BYTES_PER_CHAR = 100
MAX_WEIGHTS_PER_CHAR = 8.0  # more weights only overfit
MAX_EPOCHS = 200  # more epochs only overfit, however long the time is
# What a character costs beside the products, in multiplied weights.
WEIGHTS_PER_STEP = 40_000
TRIAL_SIZE = 192  # units of the models whose speed is measured first ...
TRIAL_MEMBERS = 2  # ... and how many
TRIAL_SECONDS = 1.2
CHECKPOINT_TIME_SHARE = 0.02  # of the time, spent on saving
VALIDATION_TIME_SHARE = 0.06  # of the time, for ten validations; they may read a part of the text
VALIDATION_SPEEDUP = 2.3  # speed of validation relative to training
MIN_VAL_CHARS = 10_000  # of such a part
MIN_UPDATES_PER_EPOCH = 16  # a short text gets fewer streams to have these
MAX_STEPS = 2**53  # of an endless run; `epochs` may ask for infinitely many

Value = TypeVar("Value", int, float)
MeasureRate = Callable[[ModelConfig, ResolvedOptions], float]  # returns characters per second


class Regularisation(NamedTuple):
    """Rates that keep a model from overfitting."""

    dropout: float
    recurrent_dropout: float
    total_decay: float  # a weight with zero gradient ends at exp(-total_decay) of its first value


# By the overfitting ratio (see `choose_regularisation`); between two of them, in proportion to its
# logarithm.
REGULARISATIONS = (
    (0.25, Regularisation(0.0, 0.0, 0.0)),
    (0.84, Regularisation(0.0, 0.0, 0.5)),
    (2.4, Regularisation(0.1, 0.0, 0.6)),
    (7.7, Regularisation(0.1, 0.1, 0.6)),
    (23.0, Regularisation(0.1, 0.25, 0.9)),
    (59.0, Regularisation(0.2, 0.35, 0.8)),
    (316.0, Regularisation(0.2, 0.5, 0.8)),
    (2000.0, Regularisation(0.4, 0.6, 0.6)),
    (8000.0, Regularisation(0.5, 0.8, 0.4)),
)
# The same for models with weights for n-grams, which learn a text by heart sooner.
NGRAM_REGULARISATIONS = (
    (0.15, Regularisation(0.0, 0.0, 0.4)),
    (0.55, Regularisation(0.1, 0.0, 0.6)),
    (1.7, Regularisation(0.1, 0.1, 0.8)),
    (4.9, Regularisation(0.2, 0.2, 0.9)),
    (12.6, Regularisation(0.2, 0.3, 0.9)),
    (45.0, Regularisation(0.2, 0.4, 0.9)),
    (316.0, Regularisation(0.3, 0.5, 0.8)),
    (2000.0, Regularisation(0.4, 0.6, 0.6)),
    (8000.0, Regularisation(0.5, 0.8, 0.4)),
)


class TextSizes(NamedTuple):
    """The numbers of a text that planning depends on."""

    vocab_size: int
    num_train: int  # characters of the training text
    num_val: int  # characters of the validation text
    num_ngrams: int = 0  # n-grams with weights of their own
    unit: str = "character"  # or "byte"


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
    defaults: dict[str, Any] = {"learning_rate": LEARNING_RATES[options.optimizer]}
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


def make_streams(train_ids: Ids, options: TrainOptions) -> BatchStreams:
    """Cut the training text into streams for the batch shape that is given or fits it.

    Raises CharRNNError for a text too short to train on.
    """
    batch_size = options.batch_size
    if batch_size is None:
        batch_size = choose_batch_size(len(train_ids), options.seq_length)
    return BatchStreams(
        train_ids, *clamp_batch_shape(len(train_ids), batch_size, options.seq_length)
    )


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
    return Plan(_config(text, options), _resolved(options, streams, steps))


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
    kept = choose_regularisation(text.num_train, chosen)
    config = replace(config, dropout=_given_or(options.dropout, kept.dropout))
    recurrent_dropout = _given_or(options.recurrent_dropout, kept.recurrent_dropout)
    rate = measure_rate(config, replace(draft, recurrent_dropout=recurrent_dropout))
    num_val = min(text.num_val, options.val_chars)
    budget = choose_budget(seconds - seconds_used(), rate, num_val, streams.chars_per_epoch)
    epochs = min(budget.epochs, max_epochs(text.num_train, config))
    steps = max(1, int(epochs * streams.num_chunks))
    weight_decay = choose_weight_decay(kept.total_decay, steps, draft)
    resolved = replace(
        draft,
        steps=steps,
        val_chars=max(budget.val_chars, 1),
        recurrent_dropout=recurrent_dropout,
        weight_decay=_given_or(options.weight_decay, weight_decay),
    )
    deadline = budget.deadline * min(1.0, epochs / budget.epochs if budget.epochs else 1.0)
    summary = _describe(config, resolved, seconds, rate, epochs < budget.epochs, text.unit)
    return Plan(config, resolved, deadline, summary)


class Choice(NamedTuple):
    """The models of a run, and what is expected of them."""

    config: ModelConfig
    members: int  # of the ensemble
    epochs: float
    loss: float  # nats per character, up to a constant of the text


def choose_model(
    seconds: float,
    text: TextSizes,
    options: TrainOptions,
    draft: ResolvedOptions,
    measure_rate: MeasureRate,
) -> Choice:
    """Choose the models that reach the lowest loss in `seconds`, of those that `options` leave."""
    trial = next(_configs(text, options, [_given_or(options.hidden_size, TRIAL_SIZE)]))
    members = _given_or(options.ensemble, TRIAL_MEMBERS)
    rate = measure_rate(trial, replace(draft, ensemble=members))
    weights_per_second = rate * members * cost_of(trial)

    def choice(config: ModelConfig, members: int) -> Choice:
        epochs = seconds * weights_per_second / (members * cost_of(config) * text.num_train)
        epochs = max(min(epochs, max_epochs(text.num_train, config)), 1e-9)
        loss = curve_of(config).loss(text.num_train, config.hidden_size, epochs, members)
        return Choice(config, members, epochs, loss)

    sizes = SIZES if options.hidden_size is None else [options.hidden_size]
    counts = MEMBERS if options.ensemble is None else [options.ensemble]
    configs = list(_configs(text, options, sizes))
    choices = [choice(c, m) for c in configs for m in counts if _is_fitting(c, m, text.num_train)]
    return min(choices or [choice(configs[0], counts[0])], key=lambda choice: choice.loss)


def _configs(text: TextSizes, options: TrainOptions, sizes: Iterable[int]) -> Iterator[ModelConfig]:
    """The models of `sizes` units: one wide layer with n-grams, whose weights do the work of a
    second one, and two layers without, as far as `options` leave the choice."""
    given = _config(text, options)
    without = replace(given, ngrams=1, num_ngrams=0)
    kinds = [without] if options.ngrams is None or not given.num_ngrams else []
    if given.num_ngrams:
        kinds.insert(0, given)
    for kind in kinds:
        layers = 1 if kind.num_ngrams else ModelConfig.num_layers
        for size in sizes:
            num_layers = _given_or(options.num_layers, layers)
            yield replace(kind, num_layers=num_layers, hidden_size=size)


def cost_of(config: ModelConfig) -> int:
    """The time of a character in one model, in that of a multiplied weight."""
    return num_multiplied_weights(config) + WEIGHTS_PER_STEP


def _is_fitting(config: ModelConfig, members: int, num_chars: int) -> bool:
    """Whether a model is not too large for its text, and its file not for its users."""
    table = 4 * members * math.prod(config.tensor_shapes()[config.lookup_table_name])
    most = MAX_WEIGHTS_PER_CHAR * num_chars
    small = config.hidden_size == SIZES[0] or num_multiplied_weights(config) <= most
    return small and table <= MAX_TABLE_BYTES + MAX_TABLE_BYTES_PER_CHAR * num_chars


def curve_of(config: ModelConfig) -> Curve:
    """The fitted losses of models of this kind."""
    return WITH_NGRAMS if config.num_ngrams else WITHOUT_NGRAMS


def max_epochs(num_chars: int, config: ModelConfig) -> float:
    """The number of epochs after which more of them only overfit."""
    return min(MAX_EPOCHS, curve_of(config).best_epochs(num_chars))


def _given_or(given: Value | None, chosen: Value) -> Value:
    return chosen if given is None else given


def _config(text: TextSizes, options: TrainOptions) -> ModelConfig:
    """The model as far as it is given; the rest has its default."""
    given = {name: getattr(options, name, None) for name in field_names(ModelConfig)}
    defaults = {"num_layers": 1, "ngrams": DEFAULT_NGRAMS}  # of a run with a time, to begin with
    of_text = {"vocab_size": text.vocab_size, "num_ngrams": text.num_ngrams}
    return ModelConfig(**defaults | {k: v for k, v in given.items() if v is not None} | of_text)


def _resolved(options: TrainOptions, streams: BatchStreams, steps: int) -> ResolvedOptions:
    """The options as far as they are given; the rest has its default."""
    given = {name: getattr(options, name) for name in field_names(ResolvedOptions)}
    chosen = {
        "batch_size": streams.batch_size,
        "seq_length": streams.seq_length,
        "steps": steps,
    }
    return ResolvedOptions(**{k: v for k, v in given.items() if v is not None} | chosen)


def choose_batch_size(num_chars: int, seq_length: int) -> int:
    """Choose fewer streams for a short text: its few epochs must have enough updates."""
    streams = ceil_div(num_chars, MIN_UPDATES_PER_EPOCH * seq_length)
    return min(max(1, streams), DEFAULT_BATCH_SIZE)


def choose_regularisation(num_chars: int, chosen: Choice) -> Regularisation:
    """Choose rates from the overfitting ratio: epochs x weights / characters / members.

    What one member learns by heart, the others do not, so that each may overfit more.
    """
    weights = num_multiplied_weights(chosen.config)
    ratio = max(chosen.epochs * weights / num_chars / chosen.members, 1e-9)
    table = NGRAM_REGULARISATIONS if chosen.config.num_ngrams else REGULARISATIONS
    ratios, rates = zip(*table, strict=True)
    columns = zip(*rates, strict=True)
    at = np.log(ratio), np.log(ratios)
    return Regularisation(*(round(float(np.interp(*at, column)), 2) for column in columns))


class Budget(NamedTuple):
    """How the time is spent."""

    deadline: float  # seconds of training
    epochs: float
    val_chars: int  # characters per validation


def choose_budget(seconds: float, rate: float, num_val: int, chars_per_epoch: int) -> Budget:
    """Divide `seconds` among training at `rate` characters per second, validation and saving.

    `num_val` is the most characters that a validation may read.
    """
    deadline = seconds * (1 - CHECKPOINT_TIME_SHARE)
    deadline -= num_val / (rate * VALIDATION_SPEEDUP)  # the last validation reads all of them
    val_chars_affordable = max(
        MIN_VAL_CHARS, VALIDATION_TIME_SHARE / 10 * deadline * rate * VALIDATION_SPEEDUP
    )
    val_chars = min(num_val, int(val_chars_affordable))
    return Budget(deadline, _num_epochs(deadline * rate, chars_per_epoch, val_chars), val_chars)


def _num_epochs(num_chars: float, chars_per_epoch: int, val_chars: int) -> float:
    """Epochs that leave time for validations: one per epoch, but ten at least.

    Validating on a character, and writing the model, cost half the time of training on one.
    """
    cost = val_chars / 2
    epochs = num_chars / (chars_per_epoch + cost)
    return epochs if epochs >= 10 else max(0.0, num_chars - 10 * cost) / chars_per_epoch


def choose_weight_decay(total_decay: float, steps: int, options: ResolvedOptions) -> float:
    """Choose the decay per step that adds up to `total_decay` over a run of `steps`.

    The mean learning rate is taken as half the initial one. Zero for an optimizer without decay.
    """
    if "weight_decay" not in OPTIMIZERS[options.optimizer].defaults():
        return 0.0
    steps = max(steps, 100)  # in a short run no single step may shrink the weights much
    sum_of_rates = max(options.learning_rate * steps / 2, 1e-9)  # less would overflow the decay
    return float(f"{total_decay / sum_of_rates:.1g}")


def num_multiplied_weights(config: ModelConfig) -> int:
    """Multiplications per character: all weights but the lookup table."""
    shapes = config.tensor_shapes()
    return sum(
        math.prod(shape) for name, shape in shapes.items() if name != config.lookup_table_name
    )


def measure_chars_per_second(
    streams: BatchStreams,
    threads: int,
    ngrams: NgramTable,
    config: ModelConfig,
    options: ResolvedOptions,
) -> float:
    """Measure the speed of training over TRIAL_SECONDS, after a first step that compiles.

    At least three steps are measured.
    """
    ngrams = ngrams[: config.ngrams - 1]
    models = Ensemble(config, options, np.random.default_rng(0), threads, ngrams)
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
