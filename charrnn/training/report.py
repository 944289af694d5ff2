"""What a run tells: before it starts, and after each step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import ModelConfig, TrainOptions


@dataclass(frozen=True)
class Summary:
    """What a run has before it starts."""

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
    notes: tuple[str, ...]  # what was fitted to the text
    resumed_step: int  # 0: a new run
    config: ModelConfig
    options: TrainOptions


@dataclass(frozen=True)
class Report:
    """How training goes, after one step. Losses in nats per character."""

    step: int
    total_steps: int  # as planned now: with a time to keep to, it moves
    epoch: float  # passes over the training text so far
    total_epochs: float
    chars: int  # characters read so far
    train_loss: float  # mean since the last logged report
    val_loss: float | None  # the latest
    best_val_loss: float | None
    learning_rate: float
    chars_per_second: float  # of this process
    seconds: float  # of training, all processes together
    logged: bool  # whether it is a line of the log
    notice: str | None = None  # sentences to show: what has gone wrong, or is well again
