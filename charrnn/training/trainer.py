"""One training step: loss and gradients of a chunk, clipping, the optimizer."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig, TensorRole, TrainOptions, field_names
from ..errors import UsageError
from ..network import jit
from ..network.arrays import Array, Workspace
from ..network.kernels.matmul import padded
from ..network.model import Model
from ..network.optimizers import OPTIMIZERS, Optimizer, clip_norm_, clip_value_, norm
from ..network.parameters import Parameters
from ..network.stack import Stack
from .memory import require_memory

# The factor of the output weights' learning rate with Adam. It is worth 0.04 nats at 128 units
# after two epochs of a megabyte, 0.05 at 256 (tests/bench/LOG.md).
OUTPUT_RATES = {"cautious-adam": 3.0, "adam": 3.0}
# Weight-sized arrays alive at once, at most: weights, two packings, gradients, two moments, best
# weights, undropped weights, two copies while saving.
WEIGHT_COPIES = 10

Ids = npt.NDArray[np.int32]


class Trainer:
    """A model, a stack of (T, B) chunks with gradients, and an optimizer.

    A step of truncated backpropagation through time is `compute`, then `update`. Until `update`
    the model is unchanged, so that a bad gradient can be refused.

    config, options: of the model and of its training.
    rng: draws the initial weights.
    threads: of the model.
    batch_size, seq_length: B and T.

    `workspace` may be shared with stacks that run between two steps, such as a validator's.
    """

    def __init__(
        self,
        config: ModelConfig,
        options: TrainOptions,
        rng: np.random.Generator,
        threads: int,
        batch_size: int,
        seq_length: int,
    ) -> None:
        require_precision(options.precision)
        _require_memory(config, batch_size, seq_length)
        self.options = options
        self.model = Model(config, rng, threads=threads, precision=options.precision)
        self.workspace = Workspace(self.model.dtype)
        self.stack = Stack(self.model, batch_size, seq_length, True, self.workspace)
        self.optimizer = _optimizer(self.model, options)
        if options.recurrent_dropout:
            self._undropped = np.empty_like(self.model.parameters.flat)

    @property
    def needs_dropout_seed(self) -> bool:
        """Whether there is dropout of either kind, so that each `compute` needs a seed."""
        return bool(self.model.config.dropout or self.options.recurrent_dropout)

    def compute(self, x: Ids, y: Ids, seed: int | None) -> tuple[float, float]:
        """Compute the gradients of a chunk.

        x, y: ids (T, B) and the ids that follow them.
        seed: of the dropout masks; None without dropout.

        Returns the mean loss in nats and the norm of the gradient.
        """
        rate = self.options.recurrent_dropout
        if rate and seed is not None:
            self._pack_dropped(seed, rate)
        loss = self.stack.loss_and_gradients(x, y, seed if self.model.config.dropout else None)
        if rate and seed is not None:
            self.model.drop_recurrent(self.stack.gradients, seed, rate)
        self._steps = len(x)
        self._norm = norm(self.stack.gradients.flat, self.model.team)
        return loss, self._norm

    def _pack_dropped(self, seed: int, rate: float) -> None:
        """Apply dropout to the packed recurrent weights, until the next update.

        (Merity et al. 2018.) The weights themselves stay as they are.
        """
        model = self.model
        self._undropped[:] = model.parameters.flat
        model.drop_recurrent(model.parameters, seed, rate)
        model.pack()
        model.parameters.flat[:] = self._undropped

    def update(self, learning_rate: float) -> None:
        """Clip the gradients, update the weights, advance the hidden state."""
        gradients = self.stack.gradients.flat
        self._clip(gradients)
        self.optimizer.step(self.model.parameters.flat, gradients, learning_rate)
        self.model.pack()
        self.stack.advance_state(self._steps)

    def _clip(self, gradients: Array) -> None:
        length = self._norm
        if self.options.clip_value:
            clip_value_(gradients, self.options.clip_value)
            length = norm(gradients, self.model.team)
        if self.options.clip_norm:
            clip_norm_(gradients, self.options.clip_norm, length=length)

    def reset(self, weights: Array) -> None:
        """Load these weights (flat); clear the optimizer and the hidden state."""
        self.model.parameters.flat[:] = weights
        self.model.pack()
        for array in self.optimizer.arrays.values():
            array[:] = 0
        self.optimizer.steps = 0
        self.reset_state()

    def reset_state(self) -> None:
        """Zero the hidden state, as at the start of a text."""
        self.stack.set_state(self.model.zero_state(self.stack.batch_size))


def require_precision(precision: str) -> None:
    """Raises UsageError for bfloat16 without the instruction: emulated, it would be slower."""
    if precision == "bfloat16" and not jit.BFLOAT16:
        raise UsageError(
            "precision bfloat16 cannot be used here: this processor has no instruction for it "
            "(AVX-512 BF16); train in float32, the default, or on a processor that has one."
        )


def _require_memory(config: ModelConfig, batch_size: int, seq_length: int) -> None:
    """Raises CharRNNError for a model too large for this machine, before it is allocated."""
    padded_config = replace(
        config,
        vocab_size=padded(config.vocab_size),
        hidden_size=padded(config.hidden_size),
        embedding_size=padded(config.embedding_size),
    )
    weights = WEIGHT_COPIES * padded_config.num_parameters()
    require_memory(
        4 * weights + Stack.num_bytes(config, batch_size, seq_length),
        f"training {config.num_layers} x {config.hidden_size} units on {batch_size} x {seq_length} "
        "characters",
        "choose a smaller --hidden-size, --num-layers, --embedding-size, --batch-size or "
        "--seq-length",
    )


def _optimizer(model: Model, options: TrainOptions) -> Optimizer:
    """The optimizer that the options choose, with the settings that they hold."""
    cls, flat = OPTIMIZERS[options.optimizer], model.parameters.flat
    own = cls.defaults().keys() & field_names(TrainOptions)
    settings = {name: getattr(options, name) for name in own}
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
