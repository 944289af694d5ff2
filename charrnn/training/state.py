"""The state file: everything that `--resume` needs besides the text.

A state file is untrusted: everything read is checked in full before it is used. Its bytes depend
on the run alone, not on time or machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..config import CELL_SHAPES, ModelConfig, ResolvedOptions, TrainOptions, field_names
from ..errors import CharRNNError, UsageError, display_path, escape_unprintable
from ..storage.checkpoint import Arrays, corrupt_file, load_state, save_state
from .progress import Progress

KEYS = {"config", "options", "requested", "fingerprint", "encoding", "progress", "rng"}

Part = TypeVar("Part", ModelConfig, ResolvedOptions, TrainOptions, Progress)


@dataclass
class State:
    """All of a run but its text.

    `flat_arrays` are the weights and each array of the optimizer, float32, by tensor name:
    {"weights": {name: array}, "mean": {name: array}, ...}.
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
        arrays: Arrays = {"hidden": self.hidden}
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
        config = _part(info, "config", ModelConfig)
        _check_values(arrays)
        hidden = arrays.pop("hidden", np.zeros(0, np.float32))
        if hidden.ndim != 4 or hidden.shape != _hidden_shape(config, hidden.shape[2]):
            raise corrupt_file("its hidden state does not fit its model")
        return State(
            config=config,
            options=_part(info, "options", ResolvedOptions),
            requested=_part(info, "requested", TrainOptions),
            fingerprint=info["fingerprint"],
            encoding=info["encoding"],
            progress=_part(info, "progress", Progress),
            rng=_generator(info["rng"]),
            hidden=hidden,
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
    if not isinstance(values, dict) or values.keys() != set(field_names(cls)):
        raise corrupt_file(f"its {name} is not complete")
    return cls(**values)


def _check_values(arrays: Arrays) -> None:
    for array in arrays.values():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise corrupt_file("one of its arrays holds a value that is not a finite float32")


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
    expected = config.tensor_shapes()
    for tensors in groups.values():
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
