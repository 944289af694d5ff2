"""What can be chosen: the shape of a model and how it is trained (no Numba: it loads slowly)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import Enum, auto
from typing import Any, NamedTuple

from .errors import UsageError


class CellShape(NamedTuple):
    """The sizes of a cell's weights and state, for code that must not import Numba.

    They repeat GATES, STATES and VECTOR_WEIGHTS of the modules in `charrnn.network.cells`.
    """

    gates: int
    states: int
    vectors: tuple[str, ...] = ()  # names of the (H,) weights


CELL_SHAPES = {
    "rnn": CellShape(1, 1),
    "lstm": CellShape(4, 2),
    "lstm-peephole": CellShape(4, 2, ("weight_ci", "weight_cf", "weight_co")),
    "gru": CellShape(3, 1),
    "gru-original": CellShape(3, 1),
}
CELL_NAMES = tuple(CELL_SHAPES)
LEARNING_RATES = {  # to begin with
    "cautious-adam": 0.01,
    "adam": 0.01,
    "rmsprop": 0.002,
    "adagrad": 0.05,
    "sgd": 0.5,
}
OPTIMIZER_NAMES = tuple(LEARNING_RATES)
MAX_TIME = 1e9  # seconds; what can be made in it can still be counted
SCHEDULE_NAMES = ("constant", "cosine", "linear", "exponential")
PRECISIONS = ("float32", "bfloat16")


class TensorRole(Enum):
    """The part a weight tensor plays, on which layout, initial values and learning rate depend."""

    EMBEDDING = auto()
    ONE_HOT_WEIGHT = auto()  # W_ih of a one-hot input: a column per character
    INPUT_WEIGHT = auto()  # W_ih of any other input
    RECURRENT_WEIGHT = auto()  # W_hh
    INPUT_BIAS = auto()  # b_ih
    RECURRENT_BIAS = auto()  # b_hh
    PEEPHOLE = auto()
    OUTPUT_WEIGHT = auto()
    OUTPUT_BIAS = auto()


class TensorSpec(NamedTuple):
    """A weight tensor: its name and shape in PyTorch, its role, and the gates its rows hold."""

    name: str
    shape: tuple[int, ...]
    role: TensorRole
    gates: int = 1  # equal blocks along the first axis

    @property
    def is_lookup_table(self) -> bool:
        """Whether characters select its rows or columns, so that it is never multiplied."""
        return self.role in (TensorRole.EMBEDDING, TensorRole.ONE_HOT_WEIGHT)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model; stored in every model file."""

    vocab_size: int  # V
    cell: str = "lstm"
    hidden_size: int = 128  # H, units a layer
    num_layers: int = 2  # L
    embedding_size: int = 0  # E; 0: one-hot input
    dropout: float = 0.0  # between layers and before the output

    def __post_init__(self) -> None:
        check_choice("cell", self.cell, CELL_NAMES)
        check_int("vocab_size", self.vocab_size, 1, 0x110000)
        check_int("hidden_size", self.hidden_size, 1, 2**16)
        check_int("num_layers", self.num_layers, 1, 1000)
        check_int("embedding_size", self.embedding_size, 0, 2**16)
        check_float("dropout", self.dropout, 0, 1, exclusive_max=True)

    @property
    def input_size(self) -> int:
        """D, what the first layer is given: the embedding's size or, one-hot, the vocabulary's."""
        return self.embedding_size or self.vocab_size

    @property
    def lookup_table_name(self) -> str:
        """The tensor with a row or column per character: it is looked up, not multiplied."""
        return next(spec.name for spec in self.tensor_specs() if spec.is_lookup_table)

    def tensor_specs(self) -> list[TensorSpec]:
        """All weight tensors, as in a PyTorch module of the parts embedding, rnn and output."""
        h, v, e = self.hidden_size, self.vocab_size, self.embedding_size
        embedding = [TensorSpec("embedding.weight", (v, e), TensorRole.EMBEDDING)] if e else []
        layers = [spec for k in range(self.num_layers) for spec in self._layer_specs(k)]
        return [
            *embedding,
            *layers,
            TensorSpec("output.weight", (v, h), TensorRole.OUTPUT_WEIGHT),
            TensorSpec("output.bias", (v,), TensorRole.OUTPUT_BIAS),
        ]

    def _layer_specs(self, k: int) -> list[TensorSpec]:
        """The tensors of recurrent layer k."""
        gates, _, vectors = CELL_SHAPES[self.cell]
        h, d = self.hidden_size, self.hidden_size if k else self.input_size
        one_hot = k == 0 and not self.embedding_size
        role = TensorRole.ONE_HOT_WEIGHT if one_hot else TensorRole.INPUT_WEIGHT
        matrices = [
            TensorSpec(f"rnn.weight_ih_l{k}", (gates * h, d), role, gates),
            TensorSpec(f"rnn.weight_hh_l{k}", (gates * h, h), TensorRole.RECURRENT_WEIGHT, gates),
            TensorSpec(f"rnn.bias_ih_l{k}", (gates * h,), TensorRole.INPUT_BIAS, gates),
            TensorSpec(f"rnn.bias_hh_l{k}", (gates * h,), TensorRole.RECURRENT_BIAS, gates),
        ]
        return matrices + [
            TensorSpec(f"rnn.{name}_l{k}", (h,), TensorRole.PEEPHOLE) for name in vectors
        ]

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of all weight tensors."""
        return {spec.name: spec.shape for spec in self.tensor_specs()}

    def num_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a model whose configuration is `config`, as read from a file, not yet trusted.

    Raises UsageError for anything that is not one.
    """
    odd = config.keys() ^ field_names(ModelConfig)
    if odd:
        raise UsageError(f"The configuration has {', '.join(sorted(odd))} missing or too many.")
    return ModelConfig(**config).tensor_shapes()


@dataclass(frozen=True)
class TrainOptions:
    """How a model is trained. The defaults are the command line's."""

    seq_length: int = 64  # T, steps of truncated backpropagation
    batch_size: int = 16  # B, parallel streams
    time: float | None = None  # seconds that the size, dropout and steps are fitted to, ...
    epochs: float | None = None  # or passes over the training text, ...
    steps: int | None = None  # or updates
    optimizer: str = "cautious-adam"
    learning_rate: float | None = None  # at first; None: LEARNING_RATES has it
    schedule: str = "linear"
    momentum: float = 0.9  # sgd alone
    weight_decay: float = 0.0  # decoupled; adam and cautious-adam alone
    lr_decay: float = 0.97  # exponential: factor an epoch ...
    lr_decay_after: float = 10  # ... after this many
    recurrent_dropout: float = 0.0  # of the weights from one step to the next
    clip_value: float = 0.0  # each gradient element to [-N, N]; 0: off
    clip_norm: float = 1.0  # the gradient's length; 0: off
    val_fraction: float = 0.1  # the end of the text, held out
    val_chars: int = 500_000  # of the held-out text, read at each validation at most
    patience: int = 10  # validations, all worse, after which learning by heart ends; 0: never
    precision: str = "float32"  # what products are made of; sums and weights are float32
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZER_NAMES)
        check_choice("schedule", self.schedule, SCHEDULE_NAMES)
        check_choice("precision", self.precision, PRECISIONS)
        check_int("seq_length", self.seq_length, minimum=1)
        check_int("batch_size", self.batch_size, minimum=1)
        check_int("patience", self.patience, minimum=0)
        check_int("val_chars", self.val_chars, minimum=1)
        check_int("seed", self.seed, minimum=0)
        if self.steps is not None:
            check_int("steps", self.steps, minimum=1)
        for name, most in ("time", MAX_TIME), ("epochs", math.inf), ("learning_rate", math.inf):
            if getattr(self, name) is not None:
                check_float(name, getattr(self, name), 0, most, exclusive_min=True)
        check_float("momentum", self.momentum, 0, 1, exclusive_max=True)
        check_float("recurrent_dropout", self.recurrent_dropout, 0, 1, exclusive_max=True)
        check_float("lr_decay", self.lr_decay, 0, 1, exclusive_min=True)
        check_float("val_fraction", self.val_fraction, 0, 1, exclusive_max=True)
        for name in ("weight_decay", "lr_decay_after", "clip_value", "clip_norm"):
            check_float(name, getattr(self, name), 0, math.inf)


def field_names(cls: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))


def fields_of(cls: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that are fields of this class."""
    return {name: value for name, value in settings.items() if name in field_names(cls)}


def check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raises UsageError unless `value` is one of `known`."""
    if value not in known:
        raise UsageError(f"{_words(name)} must be one of {', '.join(known)}, not {value!r}.")


def check_int(name: str, value: object, minimum: int, maximum: int = 2**63 - 1) -> None:
    """Raises UsageError unless `value` is an integer and minimum <= value <= maximum.

    The default maximum is the largest integer that a file can hold.
    """
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or not minimum <= value <= maximum:
        limit = f" and at most {maximum:,}" if isinstance(value, int) and value > maximum else ""
        raise UsageError(
            f"{_words(name)} must be a whole number of at least {minimum}{limit}, not {value!r}."
        )


def check_float(
    name: str,
    value: object,
    minimum: float,
    maximum: float,
    exclusive_min: bool = False,
    exclusive_max: bool = False,
) -> None:
    """Raises UsageError unless `value` is a finite number and minimum <= value <= maximum.

    With `exclusive_min` or `exclusive_max` the limit itself is refused, too.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    good = is_number and math.isfinite(value)
    good = good and (minimum < value if exclusive_min else minimum <= value)
    good = good and (value < maximum if exclusive_max else value <= maximum)
    if not good:
        at_least = f"{'above' if exclusive_min else 'at least'} {minimum:g}"
        at_most = f" and {'below' if exclusive_max else 'at most'} {maximum:g}"
        limits = at_least + (at_most if math.isfinite(maximum) else "")
        raise UsageError(f"{_words(name)} must be a number {limits}, not {value!r}.")


def _words(name: str) -> str:
    return name.replace("_", " ")
