"""Data-parallel training: ranks share the rows of each batch.

They sum their gradients (RankTrainer), or make some updates of their own and then average their
weights (LocalTrainer).

Rank 0 leads: its run calls the methods of a LeadingTrainer, which sends each call to the other
ranks. They follow: they make the same call on their rows. Everything that depends on the clock, the
text or the disk is thereby decided once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig, ResolvedOptions
from ..errors import CharRNNError
from ..network.carried_state import CarriedState
from ..network.jit import chunk_bounds
from ..network.optimizers import norm
from ..text.ngrams import NgramTable
from .ranks import END, Ranks
from .state import TrainerState
from .trainer import Trainer, Weights

SEED_STEP = 0x85EBCA6B  # between the dropout seeds of two ranks
IdMatrix = npt.NDArray[np.int32]


class RankTrainer(Trainer):
    """The trainer of one of several ranks. Arguments are those of a trainer of the whole batch."""

    SHARES_BATCH = True  # whether losses and gradients are means over the whole batch

    def __init__(
        self,
        ranks: Ranks,
        config: ModelConfig,
        options: ResolvedOptions,
        rng: np.random.Generator,
        threads: int,
        ngrams: NgramTable = (),
    ) -> None:
        self._ranks = ranks
        rows = range(*chunk_bounds(options.batch_size, ranks.rank, ranks.size))
        self._rows = slice(rows.start, rows.stop)
        if not self.SHARES_BATCH:
            options, rows = replace(options, batch_size=len(rows)), range(len(rows))
        super().__init__(config, options, rng, threads, ngrams, rows)

    def _own(self, ids: IdMatrix) -> IdMatrix:
        """The columns of ids (T, B) that this rank reads."""
        return np.ascontiguousarray(ids[:, self._rows])

    def compute(self, x: IdMatrix, y: IdMatrix, dropout_seed: int = 0) -> tuple[float, float]:
        loss = self._loss_and_gradients(self._own(x), self._own(y), dropout_seed)
        loss = self._sum_gradients(loss)
        rows = self.stack.ngram_gradients.rows.reshape(-1)
        return loss, self._norm(norm(rows, self.model.team))

    def _sum_gradients(self, loss: float) -> float:
        """Replace the gradients by their sums over all ranks; returns the sum of the losses."""
        own = self.stack.ngram_gradients
        losses, used_by = zip(*self._ranks.gather((loss, own.used.copy())), strict=True)
        used = np.unique(np.concatenate(used_by))
        rows = np.zeros((len(used), *own.rows.shape[1:]), own.rows.dtype)
        rows[np.searchsorted(used, own.used)] = own.rows
        self._ranks.sum_(self.stack.gradients.flat)
        self._ranks.sum_(rows.reshape(-1))
        own.replace(used, rows)
        return float(sum(losses))

    def take_weights(self, weights: Weights) -> None:
        """Take these weights (flat)."""
        self.model.parameters.flat[:] = weights
        self.model.pack()

    def get_carried(self) -> CarriedState:
        return CarriedState.joined(self._ranks.gather(super().get_carried()))

    def set_carried(self, state: CarriedState) -> None:
        hidden, recent = state.hidden[:, :, self._rows], state.recent[:, self._rows]
        super().set_carried(CarriedState(hidden, recent))


class LocalTrainer(RankTrainer):
    """The trainer of one of several ranks that make `options.local_steps` updates of their own.

    Then each takes the mean of all weights and of the optimizers' arrays: local SGD (Lin, Stich,
    Patel & Jaggi 2020, "Don't use large mini-batches, use local SGD"). `compute` returns the loss
    and the norm of this rank's rows.
    """

    SHARES_BATCH = False

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._own_norm = 0.0
        self._is_used = np.zeros(len(self.model.parameters.ngram_rows), bool)  # since the last mean

    def compute(self, x: IdMatrix, y: IdMatrix, dropout_seed: int = 0) -> tuple[float, float]:
        seed = (dropout_seed + self._ranks.rank * SEED_STEP) % 2**32
        loss = self._loss_and_gradients(self._own(x), self._own(y), seed)
        self._own_norm = self._norm(self.stack.ngram_gradients.norm())
        return loss, self._own_norm

    def update(self, learning_rate: float, gradient_norm: float) -> None:
        """As of Trainer, with the norm of its own gradients."""
        self._is_used[self.stack.ngram_gradients.used] = True
        super().update(learning_rate, self._own_norm)
        if self.optimizer.steps % self.options.local_steps == 0:
            self._average()

    def synchronize(self) -> None:
        if self.optimizer.steps % self.options.local_steps:
            self._average()

    def _average(self) -> None:
        parameters = self.model.parameters
        for array in parameters.dense, *self.optimizer.arrays.values():
            self._ranks.sum_(array)
            array /= self._ranks.size
        self._average_rows()
        self.model.pack()

    def _average_rows(self) -> None:
        """Average each row of n-grams, and its arrays, over the ranks that have used it."""
        used_by = self._ranks.gather(np.flatnonzero(self._is_used))
        rows, counts = np.unique(np.concatenate(used_by), return_counts=True)
        own = self._is_used[rows]
        optimizer = self.row_optimizer
        for table in self.model.parameters.ngram_rows, optimizer.mean_square:
            total = table[rows]
            total[~own] = 0
            self._ranks.sum_(total.reshape(-1))
            table[rows] = total / counts.reshape(-1, *[1] * (total.ndim - 1)).astype(np.float32)
        last_steps = self._ranks.gather(optimizer.last_step[rows])
        optimizer.last_step[rows] = np.maximum.reduce(last_steps)
        self._is_used[:] = False


class LeadingTrainer(RankTrainer):
    """The trainer of rank 0: sends each call to the other ranks, then makes it itself."""

    def __init__(
        self,
        ranks: Ranks,
        config: ModelConfig,
        options: ResolvedOptions,
        rng: np.random.Generator,
        threads: int,
        ngrams: NgramTable = (),
    ) -> None:
        if options.batch_size < ranks.size:
            raise CharRNNError(
                f"a batch of {options.batch_size} streams cannot be shared by {ranks.size} "
                "processes: start fewer, or give a larger --batch-size or a longer text."
            )
        ranks.broadcast(("begin", (config, options, ngrams)))
        super().__init__(ranks, config, options, rng, threads, ngrams)
        self._lead("take_weights", self.model.parameters.flat)

    def _lead(self, name: str, *arguments: Any) -> None:
        self._ranks.broadcast((name, arguments))

    def compute(self, x: IdMatrix, y: IdMatrix, dropout_seed: int = 0) -> tuple[float, float]:
        self._lead("compute", x, y, dropout_seed)
        return super().compute(x, y, dropout_seed)

    def update(self, learning_rate: float, gradient_norm: float) -> None:
        self._lead("update", learning_rate, gradient_norm)
        super().update(learning_rate, gradient_norm)

    def synchronize(self) -> None:
        self._lead("synchronize")
        super().synchronize()

    def set_state(self, state: TrainerState, steps: int) -> None:
        self._lead("set_state", state, steps)
        super().set_state(state, steps)

    def reset(self, weights: Weights) -> None:
        self._lead("reset", weights)
        super().reset(weights)

    def learn_new_characters(self) -> None:
        self._lead("learn_new_characters")
        super().learn_new_characters()

    def reset_state(self) -> None:
        self._lead("reset_state")
        super().reset_state()

    def get_carried(self) -> CarriedState:
        self._lead("get_carried")
        return super().get_carried()

    def set_carried(self, state: CarriedState) -> None:
        self._lead("set_carried", state)
        super().set_carried(state)


class LeadingLocalTrainer(LeadingTrainer, LocalTrainer):
    """The trainer of rank 0 of several that make updates of their own."""


def make_trainer(
    ranks: Ranks,
    config: ModelConfig,
    options: ResolvedOptions,
    rng: np.random.Generator,
    threads: int,
    ngrams: NgramTable = (),
) -> Trainer:
    """Return the trainer of rank 0, or one that trains alone. Raises as Trainer does."""
    if ranks.size == 1:
        return Trainer(config, options, rng, threads, ngrams)
    leading = LeadingTrainer if options.local_steps == 1 else LeadingLocalTrainer
    return leading(ranks, config, options, rng, threads, ngrams)


def follow(ranks: Ranks, threads: int) -> None:
    """The work of every other rank: make the calls of rank 0 until it ends.

    Raises CharRNNError, which names the rank; all ranks end when the process exits then.
    """
    try:
        _make_calls(ranks, threads)
    except BaseException as error:
        ranks.abort_at_exit()
        how = str(error) if isinstance(error, CharRNNError) else repr(error)
        raise CharRNNError(f"rank {ranks.rank} of {ranks.size} failed: {how}") from error


def _make_calls(ranks: Ranks, threads: int) -> None:
    trainer: RankTrainer | None = None
    while True:
        name, arguments = ranks.broadcast(None)
        if name == END:
            return
        if name == "begin":
            config, options, ngrams = arguments
            trainer = None  # free its memory first
            kind = RankTrainer if options.local_steps == 1 else LocalTrainer
            trainer = kind(ranks, config, options, np.random.default_rng(0), threads, ngrams)
        else:
            getattr(trainer, name)(*arguments)
