"""One step of learning: loss and gradients of a chunk, clipping, the optimizer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..config import ModelConfig, TrainOptions, field_names
from ..errors import UsageError
from ..network import jit
from ..network.kernels.matmul import padded
from ..network.model import Model
from ..network.optimizers import OPTIMIZERS, Optimizer, clip_norm_, clip_value_, norm
from ..network.stack import Stack
from .memory import require_memory

# How much faster than the rest Adam lets the output layer learn: worth 0.04 nats at 128 units after
# two passes over a megabyte, 0.05 at 256 (tests/bench/LOG.md).
OUTPUT_RATES = {"cautious-adam": 3.0, "adam": 3.0}
# Of the weights in memory, at most: themselves, packed twice, gradients, two moments, the best
# ones, the whole ones while some are dropped, and two for what is copied to be written.
COPIES = 10


class Trainer:
    """A model with all that changes it: a stack of (T, B) chunks, gradients, an optimizer.

    `compute` and then `update` are one step of truncated BPTT; between them nothing of the model
    has changed yet, so that a bad gradient can be refused.
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
        self.stack = Stack(self.model, batch_size, seq_length, training=True)
        self.optimizer = _optimizer(self.model, options)
        if options.recurrent_dropout:
            self._whole = np.empty_like(self.model.parameters.flat)

    @property
    def drops(self) -> bool:
        """Whether there is dropout, for which every step needs a seed."""
        return bool(self.model.config.dropout or self.options.recurrent_dropout)

    def compute(self, x: np.ndarray, y: np.ndarray, seed: int | None) -> tuple[float, float]:
        """The mean loss of a chunk (T, B), in nats, and the length of its whole gradient.

        `seed` is that of dropout of either kind, None where there is none.
        """
        rate = self.options.recurrent_dropout
        if rate:
            self._pack_dropped(seed, rate)
        loss = self.stack.loss_and_gradients(x, y, seed if self.model.config.dropout else None)
        if rate:
            self.model.drop_recurrent(self.stack.gradients, seed, rate)
        self._steps = len(x)
        self._norm = norm(self.stack.gradients.flat, self.model.team)
        return loss, self._norm

    def _pack_dropped(self, seed: int, rate: float) -> None:
        """Drop weights that lead from step to step, until the next update (Merity et al. 2018).

        They are dropped from what is packed for the kernels; the weights themselves are whole.
        """
        model = self.model
        self._whole[:] = model.parameters.flat
        model.drop_recurrent(model.parameters, seed, rate)
        model.pack()
        model.parameters.flat[:] = self._whole

    def update(self, learning_rate: float) -> None:
        """Clip the gradients, let the optimizer use them, carry the hidden state over."""
        gradients = self.stack.gradients.flat
        self._clip(gradients)
        self.optimizer.step(self.model.parameters.flat, gradients, learning_rate)
        self.model.pack()
        self.stack.carry(self._steps)

    def _clip(self, gradients: np.ndarray) -> None:
        length = self._norm
        if self.options.clip_value:
            clip_value_(gradients, self.options.clip_value)
            length = norm(gradients, self.model.team)
        if self.options.clip_norm:
            clip_norm_(gradients, self.options.clip_norm, length=length)

    def start_afresh(self, weights: np.ndarray) -> None:
        """Take these weights (flat); the optimizer and the hidden state remember nothing."""
        self.model.parameters.flat[:] = weights
        self.model.pack()
        for array in self.optimizer.arrays.values():
            array[:] = 0
        self.optimizer.steps = 0
        self.forget()

    def forget(self) -> None:
        """Begin a text: the hidden state is zero."""
        self.stack.set_state(self.model.zero_state(self.stack.batch_size))


def require_precision(precision: str) -> None:
    """Raises UsageError for bfloat16 without the instruction: emulated, it would be slower."""
    if precision == "bfloat16" and not jit.BFLOAT16:
        raise UsageError(
            "precision bfloat16 cannot be used here: this processor has no instruction for it "
            "(AVX-512 BF16); train in float32, the default, or on a processor that has one."
        )


def _require_memory(config: ModelConfig, batch_size: int, seq_length: int) -> None:
    """Raises CharRNNError for what this machine cannot train, before any of it is allocated."""
    sizes = {n: padded(getattr(config, n)) for n in ("hidden_size", "vocab_size", "embedding_size")}
    weights = 4 * COPIES * replace(config, **sizes).num_parameters()
    require_memory(
        weights + Stack.num_bytes(config, batch_size, seq_length),
        f"training {config.num_layers} x {config.hidden_size} units on {batch_size} x {seq_length} "
        "characters",
        "choose a smaller --hidden-size, --num-layers, --embedding-size, --batch-size or "
        "--seq-length",
    )


def _optimizer(model: Model, options: TrainOptions) -> Optimizer:
    cls, flat = OPTIMIZERS[options.optimizer], model.parameters.flat
    own = cls.defaults().keys() & field_names(TrainOptions)
    settings = {name: getattr(options, name) for name in own}
    rates = _rates(model, OUTPUT_RATES.get(options.optimizer, 1.0))
    return cls(flat.size, flat.dtype, model.team, rates, **settings)


def _rates(model: Model, output_rate: float) -> list[tuple[int, float]]:
    """The parts of the flat array, end to end: their sizes and learning rates."""
    stored = model.parameters.stored
    before = sum(array.size for name, array in stored.items() if not name.startswith("output."))
    output = stored["output.weight"].size
    return [(before, 1.0), (output, output_rate), (stored["output.bias"].size, 1.0)]
