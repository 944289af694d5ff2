"""A run made ready: a new one planned, or an earlier one taken up."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

from ..config import LEARNING_RATES, ModelConfig, TrainOptions, fields_of
from ..errors import FilePath, UsageError, display_path
from ..network.jit import usable_cores
from ..storage.checkpoint import corrupt_file
from ..storage.run_files import RunFiles, acquire_run, run_files
from ..text.corpus import Corpus
from ..text.streams import clamp_batch_shape, split
from .planner import Plan, fit_to_time
from .run import TrainingRun
from .state import State, corrupt_if_invalid, read_state

DEFAULT_TIME = 180.0  # seconds


def start_run(
    corpus: Corpus,
    settings: dict[str, Any],
    output: FilePath,
    *,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    save_every: float = 30.0,
    began: float | None = None,
) -> TrainingRun:
    """A run on `corpus`, new or resumed. `settings` are fields of ModelConfig and TrainOptions.

    With `resume` the settings must agree with those the run was started with; others are taken
    from it. `save_every` is the least time between two saves of the state, in seconds; `began` is
    when the time the run may take started to run, by time.monotonic().

    Raises UsageError or CharRNNError, before anything is written.
    """
    hold = acquire_run(output, resume=resume, overwrite=overwrite)
    try:
        files = run_files(output)
        threads = threads or usable_cores()
        state = read_state(files.state) if resume else None
        if state is not None:
            _require_same_run(corpus, settings, state, files)
            plan = Plan(state.config, state.options)
        else:
            plan = _planned(corpus, settings, threads, began or time.monotonic())
        run = TrainingRun(corpus, plan, files, hold, threads, save_every)
        if state is not None:
            run.restore(state)
        return run
    except BaseException:
        hold.release()
        raise


def _planned(corpus: Corpus, settings: dict[str, Any], threads: int, began: float) -> Plan:
    """The settings of a new run; what they leave open is fitted to the time it may take."""
    config = ModelConfig(len(corpus.vocabulary), **fields_of(ModelConfig, settings))
    options = TrainOptions(**fields_of(TrainOptions, settings))
    if options.learning_rate is None:
        options = replace(options, learning_rate=LEARNING_RATES[options.optimizer])
    if options.epochs or options.steps:
        return Plan(config, options)
    options = replace(options, time=options.time or DEFAULT_TIME)
    train_ids, val_ids = split(corpus.ids, options.val_fraction)
    return fit_to_time(train_ids, len(val_ids), config, options, threads, settings.keys(), began)


def _require_same_run(
    corpus: Corpus, settings: dict[str, Any], state: State, files: RunFiles
) -> None:
    """Refuse a text or settings other than those of the run, and a state of no possible run."""
    if state.fingerprint != corpus.fingerprint:
        raise UsageError(
            f"the text is not the one that {display_path(files.state)} was trained on: "
            "give the same files in the same order, with the same encoding."
        )
    for name, value in settings.items():
        before = (asdict(state.config) | asdict(state.options))[name]
        if value != before:
            raise UsageError(
                f"the run was started with {name.replace('_', ' ')} {before}, not {value}: leave "
                "the option out to resume it, or start another run with -o."
            )
    with corrupt_if_invalid(files.state):
        train_ids, _ = split(corpus.ids, state.options.val_fraction)
        rows, _ = clamp_batch_shape(
            len(train_ids), state.options.batch_size, state.options.seq_length
        )
        if (state.config.vocab_size, state.hidden.shape[2]) != (len(corpus.vocabulary), rows):
            raise corrupt_file("its model is not of its text")
