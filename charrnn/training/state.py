"""The state file: everything that `--resume` needs besides the text.

A state file is untrusted: everything read is checked in full before it is used. Its bytes depend
on the run alone, not on time or machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..config import CELL_SHAPES, ModelConfig, ResolvedOptions, TrainOptions, field_names
from ..errors import CharRNNError, UsageError, display_path, escape_unprintable
from ..storage.checkpoint import Arrays, checked_ngrams, corrupt_file, load_state, save_state
from ..text.ngrams import NgramTable
from .progress import Progress

# Fields that version 3 of state files lacks, with the values of its runs.
ADDED_FIELDS: dict[str, dict[str, Any]] = {
    "config": {"record_end_id": -1},
    "requested": {"separator": None, "min_count": 1, "errors": "strict"},
}
KEYS = {"config", "options", "requested", "fingerprint", "encoding", "progress", "rng"}

Part = TypeVar("Part", ModelConfig, ResolvedOptions, TrainOptions, Progress)


@dataclass
class State:
    """All of a run but its text.

    `flat_arrays` are the weights and each array of the optimizer, float32, by tensor name:
    {"weights": {name: array}, "mean": {name: array}, ...}. Those of the optimizer lack n-grams.
    """

    config: ModelConfig
    options: ResolvedOptions
    requested: TrainOptions  # the options that the user asked for
    fingerprint: str  # of the text
    encoding: str  # of the text, or "bytes"
    progress: Progress
    rng: np.random.Generator
    hidden: npt.NDArray[np.float32]  # (L, S, B, H)
    flat_arrays: dict[str, Arrays]
    ngrams: NgramTable
    recent: npt.NDArray[np.int32]  # (n - 1, B), the last ids before the next chunk
    ngram_mean_square: npt.NDArray[np.float32]  # (K, N), of RowOptimizer, as ...
    ngram_last_step: npt.NDArray[np.int32]  # ... (K,)

    def save(self, path: Path) -> None:
        """Write the state file. Raises CharRNNError as write_atomically does."""
        info = {
            "config": asdict(self.config),
            "options": asdict(self.options),
            "requested": asdict(self.requested),
            "fingerprint": self.fingerprint,
            "encoding": self.encoding,
            "progress": asdict(self.progress),
            "rng": self.rng.bit_generator.state,
        }
        arrays: Arrays = {
            "hidden": self.hidden,
            "recent": self.recent,
            "ngram_mean_square": self.ngram_mean_square,
            "ngram_last_step": self.ngram_last_step,
        }
        arrays |= {f"{n}-grams": ngrams for n, ngrams in enumerate(self.ngrams, 2)}
        for group, tensors in self.flat_arrays.items():
            arrays |= {f"{group}.{name}": tensor for name, tensor in tensors.items()}
        save_state(path, arrays, info)


def read_state(path: Path) -> State:
    """Read a state file. Raises CharRNNError for anything but a complete and valid one."""
    arrays, info = load_state(path)
    with corrupt_if_invalid(path):
        if info.keys() != KEYS:
            raise corrupt_file("its description of the run has entries missing or too many")
        if not isinstance(info["fingerprint"], str) or not isinstance(info["encoding"], str):
            raise corrupt_file("it does not identify its text")
        config, progress = _part(info, "config", ModelConfig), _part(info, "progress", Progress)
        ngrams = _ngrams(arrays, config)
        recent = _integers(arrays, "recent", -1, config.vocab_size - 1)
        updates = progress.step - progress.last_recovery_step
        last_step = _integers(arrays, "ngram_last_step", 0, updates)
        _check_values(arrays)
        hidden = arrays.pop("hidden", np.zeros(0, np.float32))
        if hidden.ndim != 4 or hidden.shape != _hidden_shape(config, hidden.shape[2]):
            raise corrupt_file("its hidden state does not fit its model")
        mean_square = arrays.pop("ngram_mean_square", np.zeros(0, np.float32))
        fits = recent.shape == (config.ngrams - 1, hidden.shape[2])
        fits = fits and sum(map(len, ngrams)) == config.num_ngrams
        if not (fits and last_step.shape == mean_square.shape[:1] == (config.num_ngrams,)):
            raise corrupt_file("its n-grams do not fit its model")
        return State(
            config=config,
            options=_part(info, "options", ResolvedOptions),
            requested=_part(info, "requested", TrainOptions),
            fingerprint=info["fingerprint"],
            encoding=info["encoding"],
            progress=progress,
            rng=_generator(info["rng"]),
            hidden=hidden,
            ngrams=ngrams,
            recent=recent,
            ngram_mean_square=mean_square,
            ngram_last_step=last_step,
            flat_arrays=_flat_arrays(arrays, config),
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


def _part(info: dict[str, Any], name: str, cls: type[Part]) -> Part:
    """Make a `cls` of info[name]; `cls` checks each value."""
    values = info[name]
    if isinstance(values, dict):
        values = ADDED_FIELDS.get(name, {}) | values
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


def _hidden_shape(config: ModelConfig, rows: int) -> tuple[int, ...]:
    return config.num_layers, CELL_SHAPES[config.cell].states, rows, config.hidden_size


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
