"""Optimizers, gradient clipping and learning-rate schedules, on flat arrays.

The formulas are PyTorch's, so that learning rates carry over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arithmetic import ceil_div, power, sin
from .arrays import Array
from .jit import ThreadTeam, chunk_bounds, threads_for
from .kernels import updates
from .kernels.updates import BLOCK


class Optimizer:
    """The update of flat weights from flat gradients, and its moments of earlier gradients.

    size, dtype: of the weights.
    team: the threads that share an update.
    rates: (number of elements, learning-rate factor) of the parts of the arrays, end to end.
    settings: of this optimizer; `defaults` lists them.

    `arrays` ({name: array of `size`}) and `steps` (updates made) are the whole state.
    """

    names: ClassVar[tuple[str, ...]] = ()  # of `arrays`

    @dataclass(frozen=True)
    class Settings:
        """The settings and their default values."""

    settings: Any

    def __init__(
        self,
        size: int,
        dtype: npt.DTypeLike = np.float32,
        team: ThreadTeam | None = None,
        rates: Sequence[tuple[int, float]] = (),
        **settings: float,
    ) -> None:
        self._rates = rates or [(size, 1.0)]
        self.arrays: dict[str, Array] = {name: np.zeros(size, dtype) for name in self.names}
        self.settings = self.Settings(**settings)
        self.steps = 0
        self._team = team or ThreadTeam(1)

    @classmethod
    def defaults(cls) -> dict[str, float]:
        """The names of the settings and their default values."""
        return asdict(cls.Settings())

    def step(self, w: Array, g: Array, learning_rate: float) -> None:
        """Update the weights w from the gradients g, both (size,), in place."""
        self.steps += 1

        def task(i: int, size: int) -> None:
            start = 0
            for count, factor in self._rates:
                first, last = (BLOCK * b for b in chunk_bounds(_num_blocks(count), i, size))
                part = slice(start + first, start + min(last, count))
                arrays = {name: array[part] for name, array in self.arrays.items()}
                self._update(w[part], g[part], arrays, learning_rate * factor)
                start += count

        self._team.run(task, threads_for(w.size))

    def _update(self, w: Array, g: Array, arrays: dict[str, Array], learning_rate: float) -> None:
        """Update a part of the weights and the same part of `arrays`."""
        raise NotImplementedError


class RowOptimizer:
    """Updates a table of weights, such as the rows of n-grams, of which each step uses few rows.

    Only the rows that a step has used are read and written. Their update has no momentum, so that
    the gradient zero of the other rows would not move them. It would make their means of squares
    and, by weight decay, the rows themselves smaller: this is made up when a row is used again.

    shape: of the table, (K, N).
    rule: how the mean of squares is kept, by the optimizer of the other weights.

    `mean_square` (K, N) and `last_step` (K,), when a row was used last, are the whole state.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: npt.DTypeLike,
        team: ThreadTeam,
        rule: RowRule,
        weight_decay: float = 0.0,
    ) -> None:
        self.mean_square: Array = np.zeros(shape, dtype)
        self.last_step: npt.NDArray[np.int32] = np.zeros(shape[0], np.int32)
        self._team, self._rule, self._weight_decay = team, rule, weight_decay

    def step(
        self, w: Array, used: npt.NDArray[np.int32], g: Array, learning_rate: float, step: int
    ) -> None:
        """Update the rows `used` (U,) of w (K, N) from their gradients g (U, N), in place.

        `step` counts the updates from 1 on.
        """
        rule = self._rule
        unbias = 1 / math.sqrt(1 - power(rule.keep, step)) if rule.unbiased else 1.0

        def task(i: int, size: int) -> None:
            updates.update_rows(
                w, g, used, self.mean_square, self.last_step, step, learning_rate * rule.rate,
                rule.keep, rule.add, unbias, rule.epsilon, self._weight_decay,
                *chunk_bounds(len(used), i, size),
            )  # fmt: skip

        self._team.run(task, threads_for(g.size))

    def reset(self) -> None:
        """Forget all gradients."""
        self.mean_square[:] = 0
        self.last_step[:] = 0


class RowRule(NamedTuple):
    """An update of rows: v = keep * v + add * g², w -= rate * learning rate * g / (sqrt(v) + ε)."""

    keep: float
    add: float
    epsilon: float
    rate: float
    unbiased: bool = False  # divide v by 1 - keep^step


# By the optimizer of the other weights. SGD's has no v: it divides by 1.
ROW_RULES = {
    "cautious-adam": RowRule(0.99, 0.01, 1e-8, 3.0, unbiased=True),
    "adam": RowRule(0.99, 0.01, 1e-8, 3.0, unbiased=True),
    "rmsprop": RowRule(0.95, 0.05, 1e-8, 1.0),
    "adagrad": RowRule(1.0, 1.0, 1e-10, 1.0),
    "sgd": RowRule(0.0, 0.0, 1.0, 1.0),
}


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019).

    beta2 is below the usual 0.999, which high learning rates ask for.
    """

    names = ("mean", "mean_square")

    @dataclass(frozen=True)
    class Settings(Optimizer.Settings):
        beta1: float = 0.9
        beta2: float = 0.99
        epsilon: float = 1e-8
        weight_decay: float = 0.0

    settings: Settings
    _kernel: ClassVar[Any] = staticmethod(updates.adam)

    def _update(self, w: Array, g: Array, arrays: dict[str, Array], learning_rate: float) -> None:
        s, mean, mean_square = self.settings, arrays["mean"], arrays["mean_square"]
        self._kernel(
            w, g, mean, mean_square, learning_rate, s.beta1, s.beta2, s.epsilon, s.weight_decay,
            self.steps,
        )  # fmt: skip


class CautiousAdam(Adam):
    """Cautious AdamW (Liang et al. 2024): skips updates whose sign the gradient opposes.

    The other updates are divided by the fraction that is not skipped, counted per block of BLOCK
    elements instead of per tensor. It works best with a lower beta1 than Adam's.
    """

    @dataclass(frozen=True)
    class Settings(Adam.Settings):
        beta1: float = 0.7

    settings: Settings
    _kernel = staticmethod(updates.cautious_adam)


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012), with char-rnn's decay rate of 0.95."""

    names = ("mean_square",)

    @dataclass(frozen=True)
    class Settings(Optimizer.Settings):
        alpha: float = 0.95
        epsilon: float = 1e-8

    settings: Settings

    def _update(self, w: Array, g: Array, arrays: dict[str, Array], learning_rate: float) -> None:
        s = self.settings
        updates.rmsprop(w, g, arrays["mean_square"], learning_rate, s.alpha, s.epsilon)


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011)."""

    names = ("sum_square",)

    @dataclass(frozen=True)
    class Settings(Optimizer.Settings):
        epsilon: float = 1e-10

    settings: Settings

    def _update(self, w: Array, g: Array, arrays: dict[str, Array], learning_rate: float) -> None:
        updates.adagrad(w, g, arrays["sum_square"], learning_rate, self.settings.epsilon)


class SGD(Optimizer):
    """Gradient descent with momentum (Sutskever et al. 2013)."""

    names = ("velocity",)

    @dataclass(frozen=True)
    class Settings(Optimizer.Settings):
        momentum: float = 0.9

    settings: Settings

    def _update(self, w: Array, g: Array, arrays: dict[str, Array], learning_rate: float) -> None:
        updates.sgd(w, g, arrays["velocity"], learning_rate, self.settings.momentum)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "cautious-adam": CautiousAdam,
    "adam": Adam,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "sgd": SGD,
}


def _num_blocks(size: int) -> int:
    return ceil_div(size, BLOCK)


def norm(g: Array, team: ThreadTeam | None = None) -> float:
    """The Euclidean norm of g; NaN or infinite where an element is."""
    blocks = _num_blocks(g.size)
    sums = np.zeros(blocks)

    def task(i: int, size: int) -> None:
        updates.square_sums(g, sums, *chunk_bounds(blocks, i, size))

    (team or ThreadTeam(1)).run(task, threads_for(g.size))
    return math.sqrt(sums.sum())


def clip_value_(g: Array, limit: float) -> None:
    """Clip every element of g to [-limit, limit], in place; NaN stays NaN."""
    updates.clip_value(g, limit)


def clip_norm_(
    g: Array, limit: float, team: ThreadTeam | None = None, length: float | None = None
) -> float:
    """Scale g, in place, to a norm of at most `limit` (Pascanu et al. 2013).

    length: the norm of g if it is known, which saves a pass.

    Returns the norm that g had.
    """
    if length is None:
        length = norm(g, team)
    if length > limit:
        updates.scale(g, limit / length)
    return length


def constant(done: float, **_: float) -> float:
    """The factor 1 throughout."""
    return 1.0


def cosine(done: float, **_: float) -> float:
    """From 1 to 0 along a cosine as the fraction `done` of the run goes from 0 to 1.

    (Loshchilov & Hutter 2017.)
    """
    root = sin(math.pi / 2 * (1 - min(done, 1)))
    return root * root  # is (1 + cos(π done)) / 2


def linear(done: float, **_: float) -> float:
    """From 1 to 0 along a line as the fraction `done` of the run goes from 0 to 1."""
    return max(0.0, 1 - done)


def exponential(done: float, *, epoch: int, decay: float, decay_after: float) -> float:
    """Multiply by `decay` after each epoch from number `decay_after` on, as in char-rnn.

    epoch: the number of finished epochs.
    """
    return power(decay, max(0, epoch + 1 - max(1, math.ceil(decay_after))))


SCHEDULES = {"constant": constant, "cosine": cosine, "linear": linear, "exponential": exponential}
