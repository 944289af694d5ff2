"""The files of a run, kept up to date while it trains, whatever the disk does meanwhile."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ..config import ModelConfig
from ..errors import CharRNNError, display_path, os_errors_as
from ..storage.checkpoint import Arrays, save_model
from ..storage.run_files import RunFiles, RunLog
from ..text.vocabulary import Vocabulary
from .state import State


class BestWeights(NamedTuple):
    """The best weights so far, and what the model file tells of them."""

    tensors: Arrays
    training: dict[str, Any]


class RunWriter:
    """Writes a run's model, state and log. What cannot be written now is tried again later.

    `best` are the weights to be written; None: the file has the best there are, or there are none.
    """

    def __init__(self, files: RunFiles, config: ModelConfig, vocabulary: Vocabulary) -> None:
        self.files, self._config, self._vocabulary = files, config, vocabulary
        self.best: BestWeights | None = None
        self._best_is_saved = False
        self._log = RunLog(files.log)
        self._saved, self._saved_step = time.monotonic(), 0
        self._failures: dict[str, CharRNNError] = {}  # what could not be written, and why
        self._failures_are_told = False

    @property
    def age(self) -> float:
        """Seconds since the last attempt to save all."""
        return time.monotonic() - self._saved

    def begin(self, state: State) -> None:
        """Write the first files; the state first: what it belongs to may replace another run.

        Raises CharRNNError, here at once.
        """
        self._write_state(state)
        self._log.flush()

    def go_on(self, step: int) -> float:
        """Take the log up to a step, as a resumed run does; returns its seconds of training."""
        content, seconds = _log_until(step, self.files.log)
        self._log = RunLog(self.files.log, content)
        return seconds

    def keep(self, best: BestWeights) -> None:
        self.best, self._best_is_saved = best, False

    def all(self, state: State) -> None:
        """Bring all files up to date: those that the state tells of first, it last."""
        self._saved = time.monotonic()
        self._attempt("log", self._log.flush)
        if self.model():
            self._attempt("state", lambda: self._write_state(state))

    def model(self) -> bool:
        """Have the best model in its file; whether it is."""
        return self._attempt("model", self._write_model)

    def log(self, line: dict[str, Any]) -> None:
        self._log.append(json.dumps(line))
        self._attempt("log", self._log.write)

    @property
    def has_model(self) -> bool:
        """Whether no attempt to write the model is still to be made good."""
        return "model" not in self._failures

    def news(self) -> str | None:
        """What to tell when saving begins to fail, and when it succeeds again."""
        if bool(self._failures) == self._failures_are_told:
            return None
        self._failures_are_told = bool(self._failures)
        for error in self._failures.values():
            return f"Saving has failed, {error} Training goes on, and will try to save again."
        return "The run is saved again."

    def require_all(self) -> None:
        """Raise CharRNNError if the last attempt at something failed."""
        for error in self._failures.values():
            raise CharRNNError(
                f"{str(error).rstrip('.')}; what has been saved is the run as it was after step "
                f"{self._saved_step:,}, and --resume goes on from there."
            ) from error

    def _attempt(self, what: str, write: Callable[[], None]) -> bool:
        """Whether `write` succeeds; a failure is kept, and the next save is another chance."""
        try:
            write()
        except CharRNNError as error:
            self._failures[what] = error
            return False
        self._failures.pop(what, None)
        return True

    def _write_model(self) -> None:
        if self.best and not (self._best_is_saved and self.files.model.exists()):
            tensors, training = self.best
            save_model(self.files.model, tensors, asdict(self._config), self._vocabulary, training)
            self._best_is_saved = True

    def _write_state(self, state: State) -> None:
        state.save(self.files.state)
        self._saved, self._saved_step = time.monotonic(), state.progress.step


def _log_until(step: int, path: Path) -> tuple[bytes, float]:
    """The lines of a log up to that of `step`, and the seconds of training then.

    Those after it will be made, and written, again; a crash may have cut the last one short.
    """
    content, seconds = b"", 0.0
    with os_errors_as(f"cannot read {display_path(path)}"), contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                values = json.loads(line)
                time_then = float(values["seconds"])
                sound = values["step"] <= step and math.isfinite(time_then)
            except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
                break
            if not sound or not line.endswith(b"\n"):
                break
            seconds = time_then
            content += line
    return content, seconds
