"""All that a run needs to go on, besides its text: to a state file and back.

The file may come from anywhere: what is read is checked in full before anything is made of it.
Its bytes depend on the run alone, not on time or machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import CELL_SHAPES, ModelConfig, TrainOptions, check_float, check_int, field_names
from ..errors import CharRNNError, UsageError, display_path, escape_unprintable
from ..storage.checkpoint import Arrays, corrupt_file, load_state, save_state

WORSE = 0.02  # of the best validation loss, and so many nats at the least: more than noise


@dataclass
class Progress:
    """Where a run is: all its numbers. Losses in nats per character."""

    total_steps: int  # updates of the whole run, as planned now
    deadline: float | None = None  # seconds of training after which it should end
    step: int = 0  # updates made
    planned: int = 0  # step at which the plan was last changed ...
    planned_done: float = 0.0  # ... and the share of the schedule that was behind it then
    shift: int = 0  # chunks by which the place in the text is ahead of the steps
    recoveries: int = 0  # times that training has blown up
    restarted: int = 0  # step at which it then began again
    loss_sum: float = 0.0  # over the characters read since the last line of the log
    loss_count: int = 0  # how many these are
    first_loss: float | None = None
    val_loss: float | None = None
    best_val_loss: float | None = None
    history: list[list] = field(default_factory=list)  # [step, train loss, validation loss]

    def __post_init__(self) -> None:
        check_int("total_steps", self.total_steps, minimum=1)
        check_int("step", self.step, minimum=0, maximum=self.total_steps)
        for name in "planned", "restarted":
            check_int(name, getattr(self, name), minimum=0, maximum=self.step)
        check_int("shift", self.shift, minimum=0)
        check_int("recoveries", self.recoveries, minimum=0, maximum=1000)
        check_float("planned_done", self.planned_done, 0, 1)
        _check_number("deadline", self.deadline, missing=True)
        check_int("loss_count", self.loss_count, minimum=0)
        _check_number("loss_sum", self.loss_sum)
        for name in "first_loss", "val_loss", "best_val_loss":
            _check_number(name, getattr(self, name), missing=True)
        if (self.first_loss is None) != (self.step == 0):
            raise UsageError("the first loss is not that of a first step.")
        if (self.val_loss is None) != (self.best_val_loss is None):
            raise UsageError("there is a best loss, or a latest one, but not both.")
        if not isinstance(self.history, list):
            raise UsageError("the history is not a list.")
        for entry in self.history:
            _check_entry(entry)

    @property
    def done(self) -> float:
        """The share of the schedule that is behind, 0 to 1."""
        left = self.total_steps - self.planned
        steps = self.step - self.planned
        return self.planned_done + (1 - self.planned_done) * (steps / left if left else 1.0)

    def plan(self, total_steps: int) -> None:
        """Let the run have so many steps, its schedule going on from where it is."""
        self.planned_done, self.planned = self.done, self.step
        self.total_steps = total_steps

    def count(self, loss: float, characters: int) -> None:
        """One more step, of so many characters."""
        if self.step == 0:
            self.first_loss = loss
        self.step += 1
        self.loss_sum += loss * characters
        self.loss_count += characters

    def should_stop_early(self, patience: int) -> bool:
        """Whether the last `patience` validations were all worse than the best, beyond noise,
        while the loss in training fell on. 0: never."""
        recent = self.history[-patience:] if patience else []
        unknown = any(loss is None for _, _, loss in self.history)
        if not recent or len(self.history) <= patience or unknown:
            return False
        best = min(self.history, key=lambda entry: entry[2])
        beyond = best[2] + WORSE * max(best[2], 1)
        return recent[-1][1] < best[1] and all(val > beyond for _, _, val in recent)


def _check_entry(entry: Any) -> None:
    if not isinstance(entry, list) or len(entry) != 3:
        raise UsageError("the history has an entry that is none.")
    check_int("step of the history", entry[0], minimum=1)
    _check_number("loss of the history", entry[1])
    _check_number("loss of the history", entry[2], missing=True)


def _check_number(name: str, value: Any, missing: bool = False) -> None:
    """Refuse what is not finite; a loss may be just below zero, by rounding."""
    if value is not None or not missing:
        check_float(name, value, -math.inf, math.inf)


@dataclass
class State:
    """A run at rest. `groups` are the weights and each array of the optimizer, by tensor name."""

    config: ModelConfig
    options: TrainOptions
    fingerprint: str  # of the text
    encoding: str  # of the text, or "bytes"
    progress: Progress
    rng: np.random.Generator
    hidden: np.ndarray  # (L, S, B, H)
    groups: dict[str, Arrays]  # {"weights": {name: array}, "mean": ...}, float32

    def save(self, path: Path) -> None:
        """Write it. Raises CharRNNError as files.write_atomically."""
        info = {
            "config": asdict(self.config),
            "options": asdict(self.options),
            "fingerprint": self.fingerprint,
            "encoding": self.encoding,
            "progress": asdict(self.progress),
            "rng": self.rng.bit_generator.state,
        }
        arrays = {"hidden": self.hidden}
        for group, tensors in self.groups.items():
            arrays |= {f"{group}.{name}": tensor for name, tensor in tensors.items()}
        save_state(path, arrays, info)


def read_state(path: Path) -> State:
    """Read a state file. Raises CharRNNError for anything but a whole and sound one."""
    arrays, info = load_state(path)
    with corrupt_if_invalid(path):
        if info.keys() != {"config", "options", "fingerprint", "encoding", "progress", "rng"}:
            raise corrupt_file("what it tells of its run is not all, or too much")
        if not isinstance(info["fingerprint"], str) or not isinstance(info["encoding"], str):
            raise corrupt_file("it does not tell which text it is of")
        config = _part(info, "config", ModelConfig)
        _check_values(arrays)
        hidden = arrays.pop("hidden", np.zeros(0))
        if hidden.ndim != 4 or hidden.shape != _hidden_shape(config, hidden.shape[2]):
            raise corrupt_file("its hidden state is not of its model")
        return State(
            config=config,
            options=_options(info),
            fingerprint=info["fingerprint"],
            encoding=info["encoding"],
            progress=_part(info, "progress", Progress),
            rng=_generator(info["rng"]),
            hidden=hidden,
            groups=_groups(arrays, config),
        )


@contextmanager
def corrupt_if_invalid(path: Path) -> Iterator[None]:
    """Whatever is found wrong is wrong with the file."""
    try:
        yield
    except UsageError as error:
        how = escape_unprintable(str(error)[:200].rstrip("."))
        raise CharRNNError(f"{display_path(path)}: {corrupt_file(how)}") from None
    except CharRNNError as error:
        raise CharRNNError(f"{display_path(path)}: {error}") from None


def _part(info: dict[str, Any], name: str, cls: type) -> Any:
    """info[name] as a `cls`, which has a look at each of its values."""
    values = info[name]
    if not isinstance(values, dict) or values.keys() != set(field_names(cls)):
        raise corrupt_file(f"its {name} is not complete")
    return cls(**values)


def _options(info: dict[str, Any]) -> TrainOptions:
    """Those of a run that has started: nothing is left to be chosen."""
    options = _part(info, "options", TrainOptions)
    if options.learning_rate is None or (options.steps is None and options.epochs is None):
        raise corrupt_file("its options are not all chosen")
    return options


def _check_values(arrays: Arrays) -> None:
    for array in arrays.values():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise corrupt_file("an array of it holds what is not a finite float32")


def _hidden_shape(config: ModelConfig, rows: int) -> tuple[int, ...]:
    return config.num_layers, CELL_SHAPES[config.cell].states, rows, config.hidden_size


def _groups(arrays: Arrays, config: ModelConfig) -> dict[str, Arrays]:
    """The arrays by the part of their names before the first dot, each group a set of tensors."""
    groups: dict[str, Arrays] = {"weights": {}}
    for name, array in arrays.items():
        group, _, tensor = name.partition(".")
        groups.setdefault(group, {})[tensor] = array
    if config.num_layers > len(arrays):  # or the shapes to expect might not end
        raise corrupt_file("it has more layers than arrays")
    expected = config.tensor_shapes()
    for tensors in groups.values():
        if {name: tensor.shape for name, tensor in tensors.items()} != expected:
            raise corrupt_file("its arrays are not those of its model")
    return groups


def _generator(state: Any) -> np.random.Generator:
    rng = np.random.default_rng(0)
    try:
        rng.bit_generator.state = state
    except (KeyError, TypeError, ValueError, OverflowError):
        raise corrupt_file("its random numbers have no state") from None
    return rng
