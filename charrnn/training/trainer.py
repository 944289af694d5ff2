"""One training step: loss and gradients of a chunk, clipping, the optimizer's update."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig, ResolvedOptions, TensorRole, field_names
from ..errors import UsageError
from ..network import jit
from ..network.arrays import Workspace
from ..network.carried_state import CarriedState
from ..network.model import Model
from ..network.numba_internals import processor
from ..network.optimizers import (
    OPTIMIZERS,
    ROW_RULES,
    Optimizer,
    RowOptimizer,
    clip_norm_,
    clip_value_,
    norm,
)
from ..network.parameters import Parameters
from ..network.stack import Stack
from ..storage.checkpoint import corrupt_file
from ..text.ngrams import NgramTable
from .initial_model import make_learnable
from .state import TrainerState

# Factors on the output layer's learning rate. With Adam, 3 lowers the loss by 0.04 nats at 128
# units after two epochs over a megabyte, by 0.05 at 256 (tests/bench/LOG.md).
OUTPUT_RATES = {"cautious-adam": 3.0, "adam": 3.0}
# Factor on the weight decay of the rows of n-grams, of which a text has few examples each.
NGRAM_DECAY = 3.0

Weights = npt.NDArray[np.float32]


class Trainer:
    """A model in training: a stack for chunks of `seq_length` x `batch_size`, and an optimizer.

    `compute` followed by `update` is one step of truncated backpropagation through time. Nothing of
    the model changes before `update`, so that a bad gradient can be refused.

    `ngrams` are the model's. `rows` are those of the batch that it computes; None: all. `workspace`
    may be shared with stacks that run between two steps, such as the validator's.

    Raises UsageError when the processor lacks the precision.
    """

    def __init__(
        self,
        config: ModelConfig,
        options: ResolvedOptions,
        rng: np.random.Generator,
        threads: int,
        ngrams: NgramTable = (),
        rows: range | None = None,
    ) -> None:
        require_precision(options.precision)
        self.options = options
        precision = options.precision
        self.model = Model(config, rng, threads=threads, precision=precision, ngrams=ngrams)
        self.workspace = Workspace(self.model.dtype)
        rows = range(options.batch_size) if rows is None else rows
        self.stack = Stack(
            self.model,
            len(rows),
            options.seq_length,
            training=True,
            workspace=self.workspace,
            first_row=rows.start,
            whole_batch=options.batch_size,
        )
        self.optimizer = _optimizer(self.model, options)
        self.row_optimizer = self._row_optimizer(options)
        if options.recurrent_dropout:
            self._recurrent = self.model.parameters.with_role(TensorRole.RECURRENT_WEIGHT)
            self._undropped = [np.empty_like(weights) for weights in self._recurrent]

    @property
    def needs_dropout_seed(self) -> bool:
        """Whether `compute` draws dropout masks."""
        return bool(self.model.config.dropout or self.options.recurrent_dropout)

    def _row_optimizer(self, options: ResolvedOptions) -> RowOptimizer:
        rows, rule = self.model.parameters.ngram_rows, ROW_RULES[options.optimizer]
        shape = len(rows), rows[:1].size
        decays = "weight_decay" in OPTIMIZERS[options.optimizer].defaults()
        decay = NGRAM_DECAY * options.weight_decay if decays else 0.0
        return RowOptimizer(shape, self.model.dtype, self.model.team, rule, decay)

    def flat_arrays(self) -> dict[str, Weights]:
        """The weights and the optimizers' arrays by name.

        The optimizer's are in the layout of the weights without the rows of n-grams.
        """
        rows = {"ngram_mean_square": self.row_optimizer.mean_square}
        return {"weights": self.model.parameters.flat} | self.optimizer.arrays | rows

    def compute(
        self, x: npt.NDArray[np.int32], y: npt.NDArray[np.int32], dropout_seed: int = 0
    ) -> tuple[float, float]:
        """Compute the mean loss in nats of y (T, B) after x (T, B), and the gradient's norm."""
        loss = self._loss_and_gradients(x, y, dropout_seed)
        return loss, self._norm(self.stack.ngram_gradients.norm())

    def _loss_and_gradients(
        self, x: npt.NDArray[np.int32], y: npt.NDArray[np.int32], dropout_seed: int
    ) -> float:
        rate = self.options.recurrent_dropout
        if rate:
            self._pack_dropped(dropout_seed, rate)
        seed = dropout_seed if self.model.config.dropout else None
        loss = self.stack.loss_and_gradients(x, y, seed)
        if rate:
            self.model.drop_recurrent(self.stack.gradients, dropout_seed, rate)
        self._steps = len(x)
        return loss

    def _norm(self, of_rows: float) -> float:
        """The norm of all gradients; `of_rows` is that of the rows of n-grams."""
        dense = norm(self.stack.gradients.flat, self.model.team)
        return math.sqrt(dense * dense + of_rows * of_rows)

    def _pack_dropped(self, seed: int, rate: float) -> None:
        """Drop hidden-to-hidden weights until the next update (Merity et al. 2018).

        Only the kernels' packed copies lose weights; the parameters themselves do not change.
        """
        model = self.model
        for copy, weights in zip(self._undropped, self._recurrent, strict=True):
            copy[:] = weights
        model.drop_recurrent(model.parameters, seed, rate)
        model.pack()
        for copy, weights in zip(self._undropped, self._recurrent, strict=True):
            weights[:] = copy

    def update(self, learning_rate: float, gradient_norm: float) -> None:
        """Clip the gradients, update the weights, carry the hidden state to the next chunk.

        `gradient_norm` is the norm that `compute` returned. With recurrent dropout the weights are
        not packed: the next `compute` packs what it keeps of them, others call `Model.pack`.
        """
        parameters, gradients = self.model.parameters, self.stack.ngram_gradients
        scale = self._clip(gradient_norm)
        self.optimizer.step(parameters.dense, self.stack.gradients.flat, learning_rate)
        if len(gradients.used):
            rows, g = (a.reshape(len(a), -1) for a in (parameters.ngram_rows, gradients.rows))
            step = self.optimizer.steps
            self.row_optimizer.step(rows, gradients.used, g, learning_rate, step, scale)
        if not self.options.recurrent_dropout:
            self.model.pack()
        self.stack.advance_state(self._steps)

    def synchronize(self) -> None:
        """Bring the weights of several ranks together, if they differ."""

    def _clip(self, gradient_norm: float) -> float:
        """Clip the gradients; those of the rows of n-grams are still to be scaled by the result."""
        dense, rows = self.stack.gradients.flat, self.stack.ngram_gradients.rows.reshape(-1)
        if self.options.clip_value:
            for gradients in dense, rows:
                clip_value_(gradients, self.options.clip_value)
            gradient_norm = self._norm(norm(rows, self.model.team))
        limit = self.options.clip_norm
        if not limit or not gradient_norm > limit:
            return 1.0
        clip_norm_(dense, limit, length=gradient_norm)
        return limit / gradient_norm

    def get_state(self) -> TrainerState:
        """The weights and the optimizers' arrays, for the state file."""
        dense, rows = replace(self.model.config, num_ngrams=0), self.row_optimizer
        tensors = {"weights": self.model.parameters.tensors()}
        for name, array in self.optimizer.arrays.items():
            tensors[name] = Parameters(dense, array.dtype, array).tensors()
        return TrainerState(tensors, rows.mean_square, rows.last_step)

    def set_state(self, state: TrainerState, steps: int) -> None:
        """Continue from `state`, after `steps` updates. Raises CharRNNError if it does not fit."""
        dense, rows = replace(self.model.config, num_ngrams=0), self.row_optimizer
        fits = state.flat_arrays.keys() == {"weights", *self.optimizer.arrays}
        if not fits or state.ngram_mean_square.shape != rows.mean_square.shape:
            raise corrupt_file("it does not fit its options")
        self.model.load_state_dict(state.flat_arrays["weights"])
        for name, array in self.optimizer.arrays.items():
            Parameters(dense, array.dtype, array).load_state_dict(state.flat_arrays[name])
        rows.mean_square[:], rows.last_step[:] = state.ngram_mean_square, state.ngram_last_step
        self.optimizer.steps = steps

    def reset(self, weights: Weights) -> None:
        """Take these weights (flat); clear the optimizer's arrays and the hidden state."""
        self.model.parameters.flat[:] = weights
        self.model.pack()
        for array in self.optimizer.arrays.values():
            array[:] = 0
        self.optimizer.steps = 0
        self.row_optimizer.reset()
        self.reset_state()

    def learn_new_characters(self) -> None:
        """Let it learn characters that no earlier model knew, see `make_learnable`."""
        make_learnable(self.model.parameters)
        self.model.pack()

    def reset_state(self) -> None:
        """Set the hidden state to zero, as at the start of a text."""
        self.stack.set_state(self.model.zero_state(self.stack.batch_size))

    def get_carried(self) -> CarriedState:
        """The state that the next chunk starts from, of all rows of the batch."""
        return self.stack.get_state()

    def set_carried(self, state: CarriedState) -> None:
        """Start the next chunk from `state`, as of `get_carried`."""
        self.stack.set_state(state)


def require_precision(precision: str) -> None:
    """Raise UsageError for bfloat16 on a processor that would have to emulate it, slowly."""
    if precision == "bfloat16" and not jit.BFLOAT16:
        raise UsageError(
            f"precision bfloat16 cannot be used here: {processor()} has no instruction for it "
            "(AVX-512 BF16); train in float32, the default, or on a processor that has one."
        )


def _optimizer(model: Model, options: ResolvedOptions) -> Optimizer:
    cls, flat = OPTIMIZERS[options.optimizer], model.parameters.dense
    names = cls.defaults().keys() & field_names(ResolvedOptions)
    settings = {name: getattr(options, name) for name in names}
    rates = _learning_rates(model.parameters, OUTPUT_RATES.get(options.optimizer, 1.0))
    return cls(flat.size, flat.dtype, model.team, rates, **settings)


def _learning_rates(parameters: Parameters, output_rate: float) -> list[tuple[int, float]]:
    """(number of elements, learning-rate factor) of the parts of the flat weights, end to end."""

    def is_output_weight(name: str) -> bool:
        return parameters.specs[name].role is TensorRole.OUTPUT_WEIGHT

    return [
        (sum(parameters.padded[name].size for name in names), output_rate if is_output else 1.0)
        for is_output, names in groupby(parameters.padded, is_output_weight)
    ]
