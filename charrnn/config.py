"""Options of models and of training, and their limits. Does not import Numba: it loads slowly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class CellShape(NamedTuple):
    """The sizes of a cell's weights and state, for code that must not import Numba.

    They repeat GATES, STATES and PEEPHOLES of the modules in `charrnn.network.cells`.
    """

    gates: int
    states: int
    peepholes: tuple[str, ...] = ()  # names of the weights (H,)


CELL_SHAPES = {
    "rnn": CellShape(1, 1),
    "lstm": CellShape(4, 2),
    "lstm-peephole": CellShape(4, 2, ("weight_ci", "weight_cf", "weight_co")),
    "gru": CellShape(3, 1),
    "gru-original": CellShape(3, 1),
}
CELL_NAMES = tuple(CELL_SHAPES)
LEARNING_RATES = {  # initial, by optimizer
    "cautious-adam": 0.01,
    "adam": 0.01,
    "rmsprop": 0.002,
    "adagrad": 0.05,
    "sgd": 0.5,
}
OPTIMIZER_NAMES = tuple(LEARNING_RATES)
MAX_TIME = 1e9  # seconds; the number of updates made in this time still fits an integer
SCHEDULE_NAMES = ("constant", "cosine", "linear", "exponential")
PRECISIONS = ("float32", "bfloat16")
DISTRIBUTED = ("auto", "mpi", "none")  # how several processes find each other
DECODING_ERRORS = ("strict", "replace")
LIMITS = ("time", "epochs", "steps")  # the options for the length of a run
DEFAULT_TIME = 180.0  # seconds; used when neither a time, epochs nor steps are given
SAVE_EVERY = 30.0  # seconds between two saves of a run
DEFAULT_BATCH_SIZE = 16
MAX_NGRAMS = 4  # ids of the longest n-grams with weights of their own; as text.ngrams.MAX_ORDER
DEFAULT_NGRAMS = 3
MAX_ENSEMBLE = 64
MAX_UNITS = 2**16
MAX_LOCAL_STEPS = 1000  # a run is saved between two averages only
FILL_BEAM = 128  # hypotheses of the beam search that fills gaps, by default and ...
MAX_FILL_BEAM = 10_000  # ... at most
# The surprisal that `score` and `eval` assume with `--unknown skip` for a character that a model
# does not know. It is the same for all models, so that the size of an alphabet decides nothing, and
# above the surprisals of known characters, which reach 32 nats on texts unlike the training text
# (tests/bench/LOG.md).
UNKNOWN_NATS = 50.0


def check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise UsageError unless `value` is one of `known`."""
    if value not in known:
        raise UsageError(f"{_words(name)} must be one of {', '.join(known)}, not {value!r}.")


def check_int(name: str, value: object, minimum: int, maximum: int = 2**63 - 1) -> None:
    """Raise UsageError unless `value` is an integer and minimum <= value <= maximum.

    The default maximum is the largest integer that a file can hold.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
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
    """Raise UsageError unless `value` is a finite number and minimum <= value <= maximum.

    `exclusive_min` and `exclusive_max` exclude the limit itself.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        above = minimum < value if exclusive_min else minimum <= value
        below = value < maximum if exclusive_max else value <= maximum
        if above and below:
            return
    at_least = f"{'above' if exclusive_min else 'at least'} {minimum:g}"
    at_most = f" and {'below' if exclusive_max else 'at most'} {maximum:g}"
    limits = at_least + (at_most if math.isfinite(maximum) else "")
    raise UsageError(f"{_words(name)} must be a number {limits}, not {value!r}.")


def check_bool(name: str, value: object) -> None:
    """Raise UsageError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise UsageError(f"{_words(name)} must be True or False, not {value!r}.")


def check_text(name: str, value: object) -> None:
    """Raise UsageError unless `value` is a string with at least one character."""
    if not isinstance(value, str) or not value:
        raise UsageError(f"{_words(name)} must be a string that is not empty, not {value!r}.")


def _words(name: str) -> str:
    return name.replace("_", " ")


class _Check(Protocol):
    """Raises UsageError when the named option must not have this value."""

    def __call__(self, name: str, value: object, /) -> None: ...


_positive_int = partial(check_int, minimum=1)
_nonnegative_int = partial(check_int, minimum=0)
_positive = partial(check_float, minimum=0, maximum=math.inf, exclusive_min=True)
_nonnegative = partial(check_float, minimum=0, maximum=math.inf)
_fraction = partial(check_float, minimum=0, maximum=1, exclusive_max=True)

_CHECKS: dict[str, _Check] = {
    "vocab_size": partial(check_int, minimum=1, maximum=0x110000),
    "cell": partial(check_choice, known=CELL_NAMES),
    "hidden_size": partial(check_int, minimum=1, maximum=MAX_UNITS),
    "num_layers": partial(check_int, minimum=1, maximum=1000),
    "embedding_size": partial(check_int, minimum=0, maximum=MAX_UNITS),
    "ngrams": partial(check_int, minimum=1, maximum=MAX_NGRAMS),
    "num_ngrams": partial(check_int, minimum=0, maximum=2**20),
    "separator": check_text,
    "init_from": check_text,
    "prune_vocabulary": check_bool,
    "backward": check_bool,
    "record_end_id": partial(check_int, minimum=-1),
    "dropout": _fraction,
    "recurrent_dropout": _fraction,
    "seq_length": _positive_int,
    "batch_size": _positive_int,
    "time": partial(check_float, minimum=0, maximum=MAX_TIME, exclusive_min=True),
    "epochs": _positive,
    "steps": _positive_int,
    "optimizer": partial(check_choice, known=OPTIMIZER_NAMES),
    "learning_rate": _positive,
    "schedule": partial(check_choice, known=SCHEDULE_NAMES),
    "momentum": _fraction,
    "weight_decay": _nonnegative,
    "lr_decay": partial(check_float, minimum=0, maximum=1, exclusive_min=True),
    "lr_decay_after": _nonnegative,
    "clip_value": _nonnegative,
    "clip_norm": _nonnegative,
    "val_fraction": _fraction,
    "val_chars": _positive_int,
    "patience": _nonnegative_int,
    "precision": partial(check_choice, known=PRECISIONS),
    "ensemble": partial(check_int, minimum=1, maximum=MAX_ENSEMBLE),
    "local_steps": partial(check_int, minimum=1, maximum=MAX_LOCAL_STEPS),
    "seed": _nonnegative_int,
    "min_count": _positive_int,
    "errors": partial(check_choice, known=DECODING_ERRORS),
}


def _check_fields(options: DataclassInstance) -> None:
    """Raise UsageError for a value outside its limits. None is valid where it is the default."""
    for field in fields(options):
        value = getattr(options, field.name)
        if value is not None or field.default is not None:
            _CHECKS[field.name](field.name, value)


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
    """A weight tensor: its name and shape in PyTorch, its role, and the gates its rows hold.

    A lookup table has V columns (an embedding: rows) for characters, then `ngrams` for n-grams.
    """

    name: str
    shape: tuple[int, ...]
    role: TensorRole
    gates: int = 1  # equal blocks along the first axis
    ngrams: int = 0

    @property
    def is_lookup_table(self) -> bool:
        """Whether characters select its rows or columns, so that it is never multiplied."""
        return self.role in (TensorRole.EMBEDDING, TensorRole.ONE_HOT_WEIGHT)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model; stored in every model file. Raises UsageError for impossible values."""

    vocab_size: int  # V
    cell: str = "lstm"
    hidden_size: int = 128  # H, units per layer
    num_layers: int = 2  # L
    embedding_size: int = 0  # E; 0: one-hot input
    dropout: float = 0.0  # between layers and before the output layer
    ngrams: int = 1  # N: the n-grams of 2 to N characters have weights; 1: none have
    num_ngrams: int = 0  # K, how many of them are known
    # The id that ends a record and, as an input, begins the next: it resets the state. -1: none.
    record_end_id: int = -1
    backward: bool = False  # it reads texts from their end to their beginning

    def __post_init__(self) -> None:
        _check_fields(self)
        check_int("record_end_id", self.record_end_id, -1, self.vocab_size - 1)

    @property
    def has_records(self) -> bool:
        """Whether it is a model of records, which do not depend on each other."""
        return self.record_end_id >= 0

    @property
    def input_size(self) -> int:
        """D, the input size of the first layer: E, or V + K when the input is one-hot."""
        return self.embedding_size or self.vocab_size + self.num_ngrams

    @property
    def lookup_table_name(self) -> str:
        """The tensor with a row or column per character: it is looked up, not multiplied."""
        return next(spec.name for spec in self.tensor_specs() if spec.is_lookup_table)

    def tensor_specs(self) -> list[TensorSpec]:
        """All weight tensors, as in a PyTorch module of the parts embedding, rnn and output."""
        h, v, e = self.hidden_size, self.vocab_size, self.embedding_size
        rows, k = v + self.num_ngrams, self.num_ngrams
        table = TensorSpec("embedding.weight", (rows, e), TensorRole.EMBEDDING, ngrams=k)
        embedding = [table] if e else []
        layers = [spec for k in range(self.num_layers) for spec in self._layer_specs(k)]
        return [
            *embedding,
            *layers,
            TensorSpec("output.weight", (v, h), TensorRole.OUTPUT_WEIGHT),
            TensorSpec("output.bias", (v,), TensorRole.OUTPUT_BIAS),
        ]

    def _layer_specs(self, k: int) -> list[TensorSpec]:
        """The tensors of recurrent layer k."""
        gates, _, peepholes = CELL_SHAPES[self.cell]
        h, d = self.hidden_size, self.hidden_size if k else self.input_size
        one_hot = k == 0 and not self.embedding_size
        role = TensorRole.ONE_HOT_WEIGHT if one_hot else TensorRole.INPUT_WEIGHT
        ngrams = self.num_ngrams if one_hot else 0
        matrices = [
            TensorSpec(f"rnn.weight_ih_l{k}", (gates * h, d), role, gates, ngrams),
            TensorSpec(f"rnn.weight_hh_l{k}", (gates * h, h), TensorRole.RECURRENT_WEIGHT, gates),
            TensorSpec(f"rnn.bias_ih_l{k}", (gates * h,), TensorRole.INPUT_BIAS, gates),
            TensorSpec(f"rnn.bias_hh_l{k}", (gates * h,), TensorRole.RECURRENT_BIAS, gates),
        ]
        return matrices + [
            TensorSpec(f"rnn.{name}_l{k}", (h,), TensorRole.PEEPHOLE) for name in peepholes
        ]

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of all weight tensors."""
        return {spec.name: spec.shape for spec in self.tensor_specs()}

    def num_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor shapes of a model whose configuration `config` was read from an untrusted file.

    Raises UsageError when `config` is not a valid ModelConfig.
    """
    odd = config.keys() ^ field_names(ModelConfig)
    if odd:
        raise UsageError(f"the configuration has {', '.join(sorted(odd))} missing or too many.")
    return ModelConfig(**config).tensor_shapes()


@dataclass(frozen=True, kw_only=True)
class _FixedOptions:
    """Options of training that never depend on the text or the machine."""

    optimizer: str = "cautious-adam"
    schedule: str = "linear"  # of the learning rate
    momentum: float = 0.9  # sgd only
    lr_decay: float = 0.97  # exponential schedule: factor per epoch ...
    lr_decay_after: float = 10  # ... after this epoch
    clip_value: float = 0.0  # limit of each gradient element; 0: off
    clip_norm: float = 1.0  # limit of the gradient's norm; 0: off
    val_fraction: float = 0.1  # of the text, from its end: the validation text
    patience: int = 10  # early stopping: consecutive worse validations; 0: off
    local_steps: int = 1  # of several processes, between two averages of their weights; 1: none
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainOptions(_FixedOptions):
    """Options of training as the user asks for them; defaults are the command line's.

    None means: choose for me. At most one of `time`, `epochs` and `steps` may be given. Raises
    UsageError for impossible values.
    """

    cell: str = ModelConfig.cell
    hidden_size: int | None = None
    num_layers: int | None = None
    embedding_size: int = ModelConfig.embedding_size
    ngrams: int | None = None
    dropout: float | None = None
    recurrent_dropout: float | None = None  # of the hidden-to-hidden weights
    seq_length: int = 64  # T, steps of truncated backpropagation
    batch_size: int | None = None  # B, parallel streams
    time: float | None = None  # seconds of training, planning included
    epochs: float | None = None
    steps: int | None = None  # updates
    learning_rate: float | None = None  # initial
    weight_decay: float | None = None  # decoupled; adam and cautious-adam only
    precision: str | None = None  # of matrix products; weights and sums stay float32
    ensemble: int | None = None  # models trained side by side, whose logits are averaged
    val_chars: int = 500_000  # maximum validation characters per evaluation
    min_count: int = 1  # one symbol stands for all characters that occur fewer times
    errors: str = "strict"  # at bytes that cannot be decoded; "replace": U+FFFD stands for them
    separator: str | None = None  # the string that ends each record; None: the text has none
    init_from: str | None = None  # the file of a model whose weights are the initial ones ...
    prune_vocabulary: bool = False  # ... without its characters that the text lacks
    backward: bool = ModelConfig.backward

    def __post_init__(self) -> None:
        _check_fields(self)
        if len(self.limit) > 1:
            raise UsageError("give one of --time, --epochs and --steps.")

    @property
    def limit(self) -> dict[str, float]:
        """The limit that was given, by name: `time`, `epochs` or `steps`; empty without one."""
        limits = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in limits.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ResolvedOptions(_FixedOptions):
    """Options of a run with every choice made; the batch shape fits the training text."""

    steps: int  # updates, as planned when the run was started
    learning_rate: float  # initial
    seq_length: int = TrainOptions.seq_length  # T
    batch_size: int = DEFAULT_BATCH_SIZE  # B
    recurrent_dropout: float = 0.0
    weight_decay: float = 0.0
    precision: str = "float32"
    ensemble: int = 1
    val_chars: int = TrainOptions.val_chars

    def __post_init__(self) -> None:
        _check_fields(self)


def train_options(settings: Mapping[str, Any]) -> TrainOptions:
    """Make TrainOptions of keyword arguments. Raises UsageError for unknown names, bad values."""
    unknown = settings.keys() - set(field_names(TrainOptions))
    if unknown:
        raise UsageError(f"there is no such setting: {', '.join(sorted(unknown))}.")
    options = TrainOptions(**settings)
    if options.prune_vocabulary and options.init_from is None:
        raise UsageError("there is no vocabulary to prune: give --init-from.")
    return options


def field_names(cls: type[DataclassInstance]) -> tuple[str, ...]:
    """Names of a dataclass's fields."""
    return tuple(f.name for f in fields(cls))
