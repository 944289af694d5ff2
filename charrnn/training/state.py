"""The state file: everything that `--resume` needs besides the text.

A state file is untrusted: everything read is checked in full before it is used. Its bytes depend
on the run alone, not on time or machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ..config import (
    CELL_SHAPES,
    MAX_NGRAMS,
    ModelConfig,
    ResolvedOptions,
    TrainOptions,
    check_int,
    field_names,
)
from ..errors import CharRNNError, UsageError, display_path, escape_unprintable
from ..storage.checkpoint import Arrays, checked_ngrams, corrupt_file, load_state, save_state
from ..text.ngrams import NgramTable
from .progress import Progress

# Fields that earlier versions of state files lack, with the values of their runs.
ADDED_IN_4: dict[str, dict[str, Any]] = {
    "config": {"record_end_id": -1},
    "options": {"ensemble": 1},
    "requested": {"separator": None, "min_count": 1, "errors": "strict", "ensemble": None},
}
ADDED_IN_5: dict[str, dict[str, Any]] = {
    "progress": {"extended_step": 0, "warm_up_steps": 0},
    "config": {"backward": False},
    "requested": {"init_from": None, "prune_vocabulary": False, "backward": False},
}
ADDED_IN_6: dict[str, dict[str, Any]] = {
    "options": {"local_steps": 1},
    "requested": {"local_steps": 1},
}
KEYS = {
    "config",
    "options",
    "requested",
    "fingerprint",
    "encoding",
    "num_bytes",
    "characters",
    "progress",
    "rng",
    "ranks",
}

Part = TypeVar("Part", ModelConfig, ResolvedOptions, TrainOptions, Progress)


class TrainerState(NamedTuple):
    """One model of a run and its optimizers.

    `flat_arrays` are the weights and each array of the optimizer, float32, by tensor name:
    {"weights": {name: array}, "mean": {name: array}, ...}. Those of the optimizer lack n-grams.
    """

    flat_arrays: dict[str, Arrays]
    ngram_mean_square: npt.NDArray[np.float32]  # (K, N), of RowOptimizer, as ...
    ngram_last_step: npt.NDArray[np.int32]  # ... (K,)

    def arrays(self) -> Arrays:
        """All arrays by their names in the file."""
        arrays: Arrays = {
            "ngram_mean_square": self.ngram_mean_square,
            "ngram_last_step": self.ngram_last_step,
        }
        for group, tensors in self.flat_arrays.items():
            arrays |= {f"{group}.{name}": tensor for name, tensor in tensors.items()}
        return arrays


@dataclass
class State:
    """All of a run but its text."""

    config: ModelConfig
    options: ResolvedOptions
    requested: TrainOptions  # the options that the user asked for
    fingerprint: str  # of the text
    encoding: str  # of the text, or "bytes"
    num_bytes: int  # of the text; 0: unknown
    characters: str | None  # of the vocabulary, if those of the text are not all
    progress: Progress
    rng: np.random.Generator
    hidden: npt.NDArray[np.float32]  # (L, S, B, M H) of M members
    ngrams: NgramTable
    recent: npt.NDArray[np.int32]  # (n - 1, B), the last ids before the next chunk
    members: tuple[TrainerState, ...]  # of the ensemble
    ranks: int = 1  # that trained together until now; 0: unknown

    def save(self, path: Path) -> None:
        """Write the state file. Raises CharRNNError as write_atomically does."""
        info = {
            "config": asdict(self.config),
            "options": asdict(self.options),
            "requested": asdict(self.requested),
            "fingerprint": self.fingerprint,
            "encoding": self.encoding,
            "num_bytes": self.num_bytes,
            "characters": self.characters,
            "progress": asdict(self.progress),
            "rng": self.rng.bit_generator.state,
            "ranks": self.ranks,
        }
        arrays: Arrays = {"hidden": self.hidden, "recent": self.recent}
        arrays |= {f"{n}-grams": ngrams for n, ngrams in enumerate(self.ngrams, 2)}
        for i, member in enumerate(self.members):
            arrays |= {f"{i}.{name}": array for name, array in member.arrays().items()}
        save_state(path, arrays, info)


def read_state(path: Path) -> State:
    """Read a state file. Raises CharRNNError for anything but a complete and valid one."""
    arrays, info = load_state(path)
    with corrupt_if_invalid(path):
        arrays, info = _upgraded(arrays, info)
        if info.keys() != KEYS:
            raise corrupt_file("its description of the run has entries missing or too many")
        if not isinstance(info["fingerprint"], str) or not isinstance(info["encoding"], str):
            raise corrupt_file("it does not identify its text")
        check_int("num_bytes", info["num_bytes"], minimum=0)
        check_int("ranks", info["ranks"], minimum=0)
        if not isinstance(info["characters"], str | None):
            raise corrupt_file("its characters are not a string")
        config, progress = _part(info, "config", ModelConfig), _part(info, "progress", Progress)
        options = _part(info, "options", ResolvedOptions)
        ngrams = _ngrams(arrays, config)
        recent = _integers(arrays, "recent", -1, config.vocab_size - 1)
        hidden = arrays.pop("hidden", np.zeros(0, np.float32))
        shape = hidden.ndim == 4 and _hidden_shape(config, options, hidden.shape[2])
        _check_values({"hidden": hidden})
        if hidden.shape != shape:
            raise corrupt_file("its hidden state does not fit its model")
        fits = recent.shape == (config.ngrams - 1, hidden.shape[2])
        if not fits or sum(map(len, ngrams)) != config.num_ngrams:
            raise corrupt_file("its n-grams do not fit its model")
        updates = progress.step - progress.last_recovery_step
        members = _members(arrays, options.ensemble)
        return State(
            config=config,
            options=options,
            requested=_part(info, "requested", TrainOptions),
            fingerprint=info["fingerprint"],
            encoding=info["encoding"],
            num_bytes=info["num_bytes"],
            characters=info["characters"],
            progress=progress,
            rng=_generator(info["rng"]),
            hidden=hidden,
            ngrams=ngrams,
            recent=recent,
            members=tuple(_trainer_state(member, config, updates) for member in members),
            ranks=info["ranks"],
        )


@contextmanager
def corrupt_if_invalid(path: Path) -> Iterator[None]:
    """Turn every error of the checks into one that says the file `path` is damaged."""
    try:
        yield
    except UsageError as error:
        how = escape_unprintable(str(error)[:200].rstrip("."))
        raise CharRNNError(f"{display_path(path)}: {corrupt_file(how)}") from None
    except CharRNNError as error:
        raise CharRNNError(f"{display_path(path)}: {error}") from None


def _upgraded(arrays: Arrays, info: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the description of a run as this version would have written them."""
    if not any(name.startswith("0.") for name in arrays):  # version 4 numbers the trainers
        shared = {"hidden", "recent", *(f"{n}-grams" for n in range(2, MAX_NGRAMS + 1))}
        arrays = {k if k in shared else f"0.{k}": array for k, array in arrays.items()}
        _add_fields(info, ADDED_IN_4)
    if "characters" not in info:
        info |= {"characters": None, "num_bytes": 0}
        _add_fields(info, ADDED_IN_5)
    if "ranks" not in info:
        info |= {"ranks": 0}
        _add_fields(info, ADDED_IN_6)
    return arrays, info


def _add_fields(info: dict[str, Any], added: dict[str, dict[str, Any]]) -> None:
    for name, fields in added.items():
        if isinstance(info.get(name), dict):
            info[name] = fields | info[name]


def _part(info: dict[str, Any], name: str, cls: type[Part]) -> Part:
    """Make a `cls` of info[name]; `cls` checks each value."""
    values = info[name]
    if not isinstance(values, dict) or values.keys() != set(field_names(cls)):
        raise corrupt_file(f"its {name} is not complete")
    return cls(**values)


def _check_values(arrays: Arrays) -> None:
    for array in arrays.values():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise corrupt_file("one of its arrays holds a value that is not a finite float32")


def _integers(arrays: Arrays, name: str, minimum: int, maximum: int) -> npt.NDArray[np.int32]:
    """Remove one of `arrays` and return it if it holds int32 from `minimum` to `maximum`."""
    array = arrays.pop(name, np.zeros(0))
    if array.dtype != np.int32 or not ((minimum <= array) & (array <= maximum)).all():
        raise corrupt_file(f"its array {name} holds impossible numbers")
    return array


def _ngrams(arrays: Arrays, config: ModelConfig) -> NgramTable:
    """Remove the n-grams from `arrays`, and check that they are those of `config`."""
    table = []
    for n in range(2, config.ngrams + 1):
        ngrams = _integers(arrays, f"{n}-grams", 0, config.vocab_size - 1)
        if ngrams.ndim != 2 or ngrams.shape[1] != n:
            raise corrupt_file(f"its {n}-grams do not have {n} characters")
        table.append(ngrams)
    return checked_ngrams(table, config.vocab_size, config.record_end_id)


def _hidden_shape(config: ModelConfig, options: ResolvedOptions, rows: int) -> tuple[int, ...]:
    width = options.ensemble * config.hidden_size
    return config.num_layers, CELL_SHAPES[config.cell].states, rows, width


def _members(arrays: Arrays, count: int) -> list[Arrays]:
    """Group the arrays by the number before the first dot of their names."""
    members: dict[str, Arrays] = {}
    for name, array in arrays.items():
        member, _, rest = name.partition(".")
        members.setdefault(member, {})[rest] = array
    if members.keys() != {str(i) for i in range(len(members))} or len(members) != count:
        raise corrupt_file("its arrays are not of as many models as it trains")
    return [members[str(i)] for i in range(count)]


def _trainer_state(arrays: Arrays, config: ModelConfig, updates: int) -> TrainerState:
    last_step = _integers(arrays, "ngram_last_step", 0, updates)
    _check_values(arrays)
    mean_square = arrays.pop("ngram_mean_square", np.zeros(0, np.float32))
    if not last_step.shape == mean_square.shape[:1] == (config.num_ngrams,):
        raise corrupt_file("its n-grams do not fit its model")
    return TrainerState(_flat_arrays(arrays, config), mean_square, last_step)


def _flat_arrays(arrays: Arrays, config: ModelConfig) -> dict[str, Arrays]:
    """Group the arrays by their names' part before the first dot, and check each group's shapes."""
    groups: dict[str, Arrays] = {"weights": {}}
    for name, array in arrays.items():
        group, _, tensor = name.partition(".")
        groups.setdefault(group, {})[tensor] = array
    if config.num_layers > len(arrays):  # tensor_shapes() of very many layers would not return
        raise corrupt_file("it has more layers than arrays")
    dense = replace(config, num_ngrams=0)  # the optimizer's arrays have no n-grams
    for group, tensors in groups.items():
        expected = (config if group == "weights" else dense).tensor_shapes()
        if {name: tensor.shape for name, tensor in tensors.items()} != expected:
            raise corrupt_file("its arrays do not fit its model")
    return groups


def _generator(state: Any) -> np.random.Generator:
    rng = np.random.default_rng(0)
    try:
        if _has_negative_number(state):  # NumPy 1 would take it modulo 2**64
            raise ValueError
        rng.bit_generator.state = state
    except (KeyError, TypeError, ValueError, OverflowError):
        raise corrupt_file("its random generator has no valid state") from None
    return rng


def _has_negative_number(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_negative_number, value.values()))
    return isinstance(value, int) and value < 0
