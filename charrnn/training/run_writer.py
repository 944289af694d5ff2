"""Saving: keeps the files of a run up to date while it trains, and retries after disk errors."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ..config import SAVE_EVERY, ModelConfig, tensor_shapes
from ..errors import CharRNNError, display_path, os_errors_as
from ..network.parameters import Parameters
from ..storage.checkpoint import StoredStart, load_model, save_model
from ..storage.run_files import RunFiles, RunLog
from ..text.ngrams import NgramTable
from ..text.vocabulary import Vocabulary
from .state import State

PROVENANCE = ("command", "baselines")  # the keys of RunWriter.provenance
MODEL_TIME_SHARE = 0.01  # of the time, spent on writing better models
SAVE_TIME_SHARE = 0.03  # of the time, spent on saving everything
RETRY_DELAYS = (0.1, 0.5)  # seconds before the first and the last save are tried again


class BestWeights(NamedTuple):
    """The best weights so far, with the training history that the model file records."""

    parameters: Parameters
    training: dict[str, Any]
    start: StoredStart | None


class RunWriter:
    """Writes a run's model, state and log.

    The model file gets `provenance`, too: what is known of the run besides its training history.
    A write that fails is retried at the next save; `save_last` raises the error that remains.
    """

    def __init__(
        self,
        files: RunFiles,
        config: ModelConfig,
        vocabulary: Vocabulary,
        ngrams: NgramTable,
        clock: Callable[[], float],
    ) -> None:
        self.files, self._config, self._clock = files, config, clock
        self._vocabulary, self._ngrams = vocabulary, ngrams
        self._best: BestWeights | None = None  # None: only the model file has them
        self.has_best = False
        self.provenance: dict[str, Any] = {}
        self._best_is_saved = False
        self._log = RunLog(files.log)
        self._saved_at, self._saved_step = clock(), 0
        self._save_seconds = 0.0  # that the last save took
        self._model_due_at = -math.inf
        self._failures: dict[str, CharRNNError] = {}  # by the file that could not be written
        self._failures_reported = False

    def begin(self, state: State) -> None:
        """Write the first files. Raises CharRNNError when they cannot be written.

        The state goes first: the model and the log of a run that is replaced become invalid by it.
        The model follows if there is one before the first step.
        """
        _with_retries(lambda: self._write_state(state))
        if self._best:
            _with_retries(self._write_model)
            self._model_due_at = self._clock() + SAVE_EVERY
        _with_retries(self._log.flush)

    def resume_log(self, step: int) -> float:
        """Truncate the log after `step`; returns the seconds of training until then."""
        content, seconds = _log_until(step, self.files.log)
        self._log = RunLog(self.files.log, content)
        return seconds

    def keep_provenance(self) -> None:
        """Take what the model file of a run that is resumed says, as far as it can be read."""
        with contextlib.suppress(CharRNNError):
            training = load_model(self.files.model, tensor_shapes).training
            self.provenance |= {k: v for k, v in training.items() if k in PROVENANCE}

    def set_best(self, best: BestWeights) -> None:
        """Replace the best weights; the next save writes them."""
        self._best, self.has_best, self._best_is_saved = best, True, False

    def best_buffer(self) -> Parameters:
        """The best weights, to be overwritten by better ones."""
        return self._best.parameters if self._best else Parameters(self._config)

    def load_best(self) -> BestWeights:
        """Return the best weights, from memory or from the model file."""
        if self._best:
            return self._best
        file, parameters = load_model(self.files.model, tensor_shapes), Parameters(self._config)
        parameters.load_state_dict(file.tensors)
        return BestWeights(parameters, file.training, file.start)

    def is_due(self, save_every: float) -> bool:
        """Whether it is `save_every` seconds since the last attempt to save all files, or longer.

        Large models are saved less often, so that it does not take more than SAVE_TIME_SHARE.
        """
        interval = max(save_every, self._save_seconds / SAVE_TIME_SHARE) if save_every else 0.0
        return self._clock() - self._saved_at >= interval

    def save_all(self, state: State) -> None:
        """Bring all files up to date, the state last: it refers to the others."""
        started_at = self._saved_at = self._clock()
        self._attempt("log", self._log.flush)
        if self.save_model():
            self._attempt("state", lambda: self._write_state(state))
        self._save_seconds = self._clock() - started_at

    def save_last(self, state: State) -> None:
        """Save all files, for the last time. Raises CharRNNError when one cannot be written."""

        def save() -> None:
            self.save_all(state)
            for error in self._failures.values():
                raise error

        try:
            _with_retries(save)
        except CharRNNError as error:
            raise CharRNNError(f"{str(error).rstrip('.')}; {self._describe_saved()}.") from error

    def save_model(self) -> bool:
        """Write the best weights to the model file; returns whether the file is up to date."""
        start = self._clock()
        saved = self._attempt("model", self._write_model)
        self._model_due_at = self._clock() + (self._clock() - start) / MODEL_TIME_SHARE
        return saved

    def save_model_if_due(self) -> None:
        """Call `save_model`, unless this would take more than MODEL_TIME_SHARE of the time."""
        if self._clock() >= self._model_due_at:
            self.save_model()

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to the log."""
        self._log.append(json.dumps(record))
        self._attempt("log", self._log.write)

    @property
    def model_is_saved(self) -> bool:
        """Whether the last attempt to write the model file succeeded."""
        return "model" not in self._failures

    def pop_notice(self) -> str | None:
        """Return a sentence when saving has begun to fail, or succeeds again; otherwise None."""
        if bool(self._failures) == self._failures_reported:
            return None
        self._failures_reported = bool(self._failures)
        for error in self._failures.values():
            return f"saving failed: {error} Training continues and will try to save again."
        return "the run is saved again."

    def _describe_saved(self) -> str:
        """Say what remains on the disk when the last save has failed."""
        best_is_saved = self._best is None or self._best_is_saved
        if self.files.state.exists():
            state = (
                f"what has been saved is the run as it was after step {self._saved_step:,}, and "
                "--resume continues from there"
            )
        else:
            state = f"the run that was saved after step {self._saved_step:,} is gone"
        if not self.files.model.exists():
            return f"{state}; there is no model"
        return f"{state}; the model is {'' if best_is_saved else 'not '}the best so far"

    def _attempt(self, name: str, write: Callable[[], None]) -> bool:
        """Return whether `write` succeeds; record its failure under `name`."""
        try:
            write()
        except CharRNNError as error:
            self._failures[name] = error
            return False
        self._failures.pop(name, None)
        return True

    def _write_model(self) -> None:
        if self._best and not (self._best_is_saved and self.files.model.exists()):
            config = asdict(self._config)
            parameters, training, start = self._best
            training = training | self.provenance
            texts = self._vocabulary, training, start, self._ngrams
            save_model(self.files.model, parameters.tensors(), config, *texts)
            self._best_is_saved = True

    def _write_state(self, state: State) -> None:
        state.save(self.files.state)
        self._saved_at, self._saved_step = self._clock(), state.progress.step


def _with_retries(save: Callable[[], None]) -> None:
    """Call `save`, and again after each of RETRY_DELAYS while it raises CharRNNError."""
    for delay in RETRY_DELAYS:
        try:
            return save()
        except CharRNNError:
            time.sleep(delay)
    return save()


def _log_until(step: int, path: Path) -> tuple[bytes, float]:
    """Return the log's lines up to `step`, and the seconds of training at the last of them.

    Later lines are dropped, since a resumed run writes them again; so is a line cut by a crash.
    """
    content, seconds = b"", 0.0
    with os_errors_as(f"cannot read {display_path(path)}"), contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                values = json.loads(line)
                time_then = float(values["seconds"])
                valid = values["step"] <= step and math.isfinite(time_then)
            except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
                break
            if not valid or not line.endswith(b"\n"):
                break
            seconds = time_then
            content += line
    return content, seconds
