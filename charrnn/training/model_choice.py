"""Which models to train in a given time: their number, kind, size and epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple, TypeVar

from ..config import (
    DEFAULT_NGRAMS,
    SAVE_EVERY,
    ModelConfig,
    ResolvedOptions,
    TrainOptions,
    field_names,
)
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
SAVED_BYTES = 12  # per parameter: weights in two files, what the optimizer keeps of them
SAVED_BYTES_PER_SECOND = 1e8  # with copies, checksums and flushing to a disk of usual speed
TRIAL_SIZE = 192  # units of the models whose speed is measured first ...
TRIAL_MEMBERS = 2  # ... and how many

Value = TypeVar("Value", int, float)
MeasureRate = Callable[[ModelConfig, ResolvedOptions], float]  # returns characters per second


class TextSizes(NamedTuple):
    """The numbers of a text that planning depends on."""

    vocab_size: int
    num_train: int  # characters of the training text
    num_val: int  # characters of the validation text
    num_ngrams: int = 0  # n-grams with weights of their own
    unit: str = "character"  # or "byte"
    record_end_id: int = -1  # as of ModelConfig


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
    trial = next(_configs(text, options, [given_or(options.hidden_size, TRIAL_SIZE)]))
    members = given_or(options.ensemble, TRIAL_MEMBERS)
    rate = measure_rate(trial, replace(draft, ensemble=members))
    weights_per_second = rate * members * cost_of(trial)

    def choice(config: ModelConfig, members: int) -> Choice:
        training = seconds - save_seconds(config, members) * num_saves(seconds)
        epochs = training * weights_per_second / (members * cost_of(config) * text.num_train)
        epochs = max(min(epochs, max_epochs(text.num_train, config)), 1e-9)
        loss = curve_of(config).loss(text.num_train, config.hidden_size, epochs, members)
        return Choice(config, members, epochs, loss)

    sizes = SIZES if options.hidden_size is None else [options.hidden_size]
    counts = MEMBERS if options.ensemble is None else [options.ensemble]
    configs = list(_configs(text, options, sizes))
    choices = [choice(c, m) for c in configs for m in counts if _is_fitting(c, m, text.num_train)]
    return min(choices or [choice(configs[0], counts[0])], key=lambda choice: choice.loss)


def _configs(text: TextSizes, options: TrainOptions, sizes: Iterable[int]) -> Iterator[ModelConfig]:
    """The models of `sizes` units, with n-grams and without, as far as `options` leave the choice.

    Those with n-grams have one wide layer: the n-grams do the work of a second one.
    """
    given = config_of(text, options)
    kinds = [given] if given.num_ngrams else []
    if options.ngrams is None or not kinds:
        kinds.append(replace(given, ngrams=1, num_ngrams=0))
    for kind in kinds:
        layers = 1 if kind.num_ngrams else ModelConfig.num_layers
        num_layers = given_or(options.num_layers, layers)
        for size in sizes:
            yield replace(kind, num_layers=num_layers, hidden_size=size)


def cost_of(config: ModelConfig) -> int:
    """The time of a character in one model, in that of a multiplied weight."""
    return num_multiplied_weights(config) + WEIGHTS_PER_STEP


def save_seconds(config: ModelConfig, members: int) -> float:
    """About how long it takes to save a run once."""
    return members * config.num_parameters() * SAVED_BYTES / SAVED_BYTES_PER_SECOND


def num_saves(seconds: float) -> float:
    """How often a run is saved: when it starts and ends, and in between."""
    return 2 + seconds / SAVE_EVERY


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


def given_or(given: Value | None, chosen: Value) -> Value:
    return chosen if given is None else given


def config_of(text: TextSizes, options: TrainOptions) -> ModelConfig:
    """The model as far as it is given; the rest has its default."""
    given = {name: getattr(options, name, None) for name in field_names(ModelConfig)}
    defaults = {"ngrams": DEFAULT_NGRAMS}
    of_text = {name: getattr(text, name) for name in ("vocab_size", "num_ngrams", "record_end_id")}
    return ModelConfig(**defaults | {k: v for k, v in given.items() if v is not None} | of_text)


def num_multiplied_weights(config: ModelConfig) -> int:
    """Multiplications per character: all weights but the lookup table."""
    shapes = config.tensor_shapes()
    return sum(
        math.prod(shape) for name, shape in shapes.items() if name != config.lookup_table_name
    )
