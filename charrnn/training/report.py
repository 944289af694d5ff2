"""What a run reports: a summary before it starts, a report after each step, lines of the log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..config import ModelConfig, ResolvedOptions
from ..storage.run_files import RunFiles
from ..text.corpus import Corpus
from ..text.streams import BatchStreams
from .progress import Progress


class Initial(NamedTuple):
    """The model that a run starts from."""

    name: str  # of its file
    num_new: int  # characters of the text that it lacks
    loss: float | None  # on the validation text, in nats per character


@dataclass(frozen=True)
class Summary:
    """Description of a run before it starts."""

    unit: str  # of all counts of characters: "character" or "byte"
    characters: int
    bytes: int
    vocab_size: int
    train_characters: int
    val_characters: int
    parameters: int
    steps: int  # updates of the whole run
    epochs: float
    batch_size: int
    seq_length: int
    files: tuple[Path, ...]  # that will be written
    notes: tuple[str, ...]  # sentences on what was planned and fitted to the text
    resumed_step: int  # 0: a new run
    config: ModelConfig
    options: ResolvedOptions
    initial: Initial | None


@dataclass(frozen=True)
class Report:
    """Numbers of a run after one step. Losses in nats per character."""

    step: int
    total_steps: int  # as planned now: it changes in a run with a time limit
    epoch: float  # epochs so far
    total_epochs: float
    chars: int  # characters read so far
    train_loss: float  # mean since the last logged report
    val_loss: float | None  # of the latest validation
    best_val_loss: float | None
    learning_rate: float
    chars_per_second: float  # of this process
    seconds: float  # of training, all processes together
    logged: bool  # whether the log has a line for it
    notice: str | None = None  # sentences to show: problems, their end, changes of the plan
    problem: str | None = None  # the sentences of `notice` on problems and their end


class Notices(NamedTuple):
    """Sentences for a report, or None; fields as of Report."""

    notice: str | None
    problem: str | None


def summarize(
    corpus: Corpus,
    streams: BatchStreams,
    num_val: int,
    config: ModelConfig,
    options: ResolvedOptions,
    progress: Progress,
    files: RunFiles,
    notes: tuple[str, ...],
    initial: Initial | None,
) -> Summary:
    """Describe a run; `num_val` is the length of the validation text."""
    return Summary(
        unit=corpus.vocabulary.unit,
        characters=len(corpus.ids),
        bytes=corpus.num_bytes,
        vocab_size=config.vocab_size,
        train_characters=len(corpus.ids) - num_val,
        val_characters=num_val,
        parameters=options.ensemble * config.num_parameters(),
        steps=progress.total_steps,
        epochs=progress.total_steps / streams.num_chunks,
        batch_size=streams.batch_size,
        seq_length=streams.seq_length,
        files=tuple(files),
        notes=notes,
        resumed_step=progress.step,
        config=config,
        options=options,
        initial=initial,
    )


def make_report(
    progress: Progress,
    streams: BatchStreams,
    learning_rate: float,
    seconds: float,
    chars_per_second: float,
    logged: bool,
) -> Report:
    """Report on the step that `progress` has just counted."""
    return Report(
        step=progress.step,
        total_steps=progress.total_steps,
        epoch=progress.step / streams.num_chunks,
        total_epochs=progress.total_steps / streams.num_chunks,
        chars=streams.chars_in_chunks(progress.step),
        train_loss=progress.mean_loss,
        val_loss=progress.val_loss,
        best_val_loss=progress.best_val_loss,
        learning_rate=learning_rate,
        chars_per_second=chars_per_second,
        seconds=seconds,
        logged=logged,
    )


def log_record(report: Report, validated: bool, extended_step: int) -> dict[str, Any]:
    """The log's line for a report; its validation loss is null unless this step `validated`.

    extended_step: the step at which the run was extended, 0 if it was not.
    """
    return {
        "step": report.step,
        "epoch": report.epoch,
        "chars": report.chars,
        "train_loss": report.train_loss,
        "val_loss": report.val_loss if validated else None,
        "learning_rate": report.learning_rate,
        "chars_per_second": round(report.chars_per_second, 1),
        "seconds": round(report.seconds, 3),
    } | ({"extended_step": extended_step} if extended_step else {})
