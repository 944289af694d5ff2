"""Optimizers, clipping and learning-rate schedules, on flat arrays.

Each update is one pass over contiguous parts of the arrays, which threads may share out. The
formulas are PyTorch's, so that learning rates carry over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..arithmetic import ceil_div
from .jit import FASTMATH, ThreadTeam, chunk_bounds, jit, kernel, threads_for

# The smallest normal float32. A mean whose gradients stay zero, those of a rare character, fades to
# less and stays there, since 0.9 of a few last bits rounds to itself; such numbers are slow.
SMALLEST_NORMAL = 2.0**-126
BLOCK = 4096  # elements summed or counted at once: the same sums for any number of threads


@jit
def _flushed(x, least):
    """x, or 0 if it is nearer to that than `least`; NaN stays."""
    return least - least if abs(x) < least else x  # a 0 of its own type


@kernel
def _adam(w, g, m, v, learning_rate, beta1, beta2, epsilon, decay, step):
    b1, rest1 = w.dtype.type(beta1), w.dtype.type(1 - beta1)
    b2, rest2 = w.dtype.type(beta2), w.dtype.type(1 - beta2)
    small = w.dtype.type(epsilon)
    keep = w.dtype.type(1 - learning_rate * decay)
    rate = w.dtype.type(learning_rate / (1 - beta1**step))
    unbias = w.dtype.type(1 / math.sqrt(1 - beta2**step))
    least = w.dtype.type(SMALLEST_NORMAL)
    for i in range(w.size):
        m[i] = _flushed(b1 * m[i] + rest1 * g[i], least)
        v[i] = _flushed(b2 * v[i] + rest2 * g[i] * g[i], least)
        w[i] = keep * w[i] - rate * m[i] / (np.sqrt(v[i]) * unbias + small)


@kernel
def _cautious_adam(w, g, m, v, learning_rate, beta1, beta2, epsilon, decay, step):
    b1, rest1 = w.dtype.type(beta1), w.dtype.type(1 - beta1)
    b2, rest2 = w.dtype.type(beta2), w.dtype.type(1 - beta2)
    small, none = w.dtype.type(epsilon), w.dtype.type(0)
    keep = w.dtype.type(1 - learning_rate * decay)
    unbias = w.dtype.type(1 / math.sqrt(1 - beta2**step))
    least = w.dtype.type(SMALLEST_NORMAL)
    for first in range(0, w.size, BLOCK):
        block = slice(first, first + BLOCK)
        wb, gb, mb, vb = w[block], g[block], m[block], v[block]
        agree = pulled = np.int32(0)
        for i in range(wb.size):
            mb[i] = _flushed(b1 * mb[i] + rest1 * gb[i], least)
            vb[i] = _flushed(b2 * vb[i] + rest2 * gb[i] * gb[i], least)
            agree += np.int32(mb[i] * gb[i] > none)
            pulled += np.int32(gb[i] != none)
        more = pulled / max(agree, np.int32(1))
        rate = w.dtype.type(learning_rate / (1 - beta1**step) * more)
        for i in range(wb.size):
            own = none if mb[i] * gb[i] <= none else rate
            wb[i] = keep * wb[i] - own * mb[i] / (np.sqrt(vb[i]) * unbias + small)


@kernel
def _rmsprop(w, g, v, learning_rate, alpha, epsilon):
    a, rest = w.dtype.type(alpha), w.dtype.type(1 - alpha)
    small, rate, least = (
        w.dtype.type(epsilon),
        w.dtype.type(learning_rate),
        w.dtype.type(SMALLEST_NORMAL),
    )
    for i in range(w.size):
        v[i] = _flushed(a * v[i] + rest * g[i] * g[i], least)
        w[i] -= rate * g[i] / (np.sqrt(v[i]) + small)


@kernel
def _adagrad(w, g, v, learning_rate, epsilon):
    small, rate = w.dtype.type(epsilon), w.dtype.type(learning_rate)
    for i in range(w.size):
        v[i] += g[i] * g[i]
        w[i] -= rate * g[i] / (np.sqrt(v[i]) + small)


@kernel
def _sgd(w, g, m, learning_rate, momentum):
    rate, keep = w.dtype.type(learning_rate), w.dtype.type(momentum)
    least = w.dtype.type(SMALLEST_NORMAL)
    for i in range(w.size):
        m[i] = _flushed(keep * m[i] + g[i], least)
        w[i] -= rate * m[i]


class Optimizer:
    """Flat arrays that remember past gradients, and the update that uses them.

    `arrays` (name: array of `size`) and `steps` are all its state. `step(w, g, learning_rate)`
    updates the weights w from the gradients g, both flat. `rates` are parts of them, end to end:
    how many elements, and by what their learning rate is multiplied.
    """

    names: tuple[str, ...] = ()

    def __init__(
        self,
        size: int,
        dtype=np.float32,
        team: ThreadTeam | None = None,
        rates: Sequence[tuple[int, float]] = (),
        **options: float,
    ) -> None:
        self._rates = rates or [(size, 1.0)]
        self.arrays = {name: np.zeros(size, dtype) for name in self.names}
        self.options = self.defaults() | options
        self.steps = 0
        self._team = team or ThreadTeam(1)

    @staticmethod
    def defaults() -> dict[str, float]:
        return {}

    def step(self, w: np.ndarray, g: np.ndarray, learning_rate: float) -> None:
        self.steps += 1

        def part(i: int, size: int) -> None:
            start = 0
            for count, factor in self._rates:
                first, last = (BLOCK * b for b in chunk_bounds(ceil_div(count, BLOCK), i, size))
                part = slice(start + first, start + min(last, count))
                arrays = [array[part] for array in (w, g, *self.arrays.values())]
                self._update(arrays, learning_rate * factor)
                start += count

        self._team.run(part, threads_for(w.size))

    def _update(self, arrays: list[np.ndarray], learning_rate: float) -> None:
        raise NotImplementedError


class Adam(Optimizer):
    """Kingma & Ba 2015, forgetting squares sooner, which high learning rates ask for; weight decay
    decoupled from the gradient (Loshchilov & Hutter 2019)."""

    names = ("mean", "mean_square")

    @staticmethod
    def defaults() -> dict[str, float]:
        return {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "weight_decay": 0.0}

    def _update(self, arrays, learning_rate):
        _adam(*arrays, learning_rate, *self.options.values(), self.steps)


class CautiousAdam(Adam):
    """Liang et al. 2024: what the gradient does not pull where the mean goes stays as it is.

    The rest moves the further, by the share that it is of all that has a gradient; counted in
    blocks here, not in whole tensors. It wants a mean that forgets sooner than Adam's.
    """

    @staticmethod
    def defaults() -> dict[str, float]:
        return Adam.defaults() | {"beta1": 0.7}

    def _update(self, arrays, learning_rate):
        _cautious_adam(*arrays, learning_rate, *self.options.values(), self.steps)


class RMSprop(Optimizer):
    """Tieleman & Hinton 2012, with char-rnn's decay rate of 0.95."""

    names = ("mean_square",)

    @staticmethod
    def defaults() -> dict[str, float]:
        return {"alpha": 0.95, "epsilon": 1e-8}

    def _update(self, arrays, learning_rate):
        _rmsprop(*arrays, learning_rate, *self.options.values())


class Adagrad(Optimizer):
    """Duchi, Hazan & Singer 2011."""

    names = ("sum_square",)

    @staticmethod
    def defaults() -> dict[str, float]:
        return {"epsilon": 1e-10}

    def _update(self, arrays, learning_rate):
        _adagrad(*arrays, learning_rate, *self.options.values())


class SGD(Optimizer):
    """Gradient descent with momentum (Sutskever et al. 2013)."""

    names = ("velocity",)

    @staticmethod
    def defaults() -> dict[str, float]:
        return {"momentum": 0.9}

    def _update(self, arrays, learning_rate):
        _sgd(*arrays, learning_rate, *self.options.values())


OPTIMIZERS = {
    "cautious-adam": CautiousAdam,
    "adam": Adam,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "sgd": SGD,
}


@kernel
def _clip_value(g, limit):
    high = g.dtype.type(limit)
    low = -high
    for i in range(g.size):
        g[i] = low if g[i] < low else (high if g[i] > high else g[i])


@kernel
def _scale(g, factor):
    f = g.dtype.type(factor)
    for i in range(g.size):
        g[i] *= f


@jit(fastmath=FASTMATH | {"reassoc"})  # a block is never split, so its bits do not change
def _square_sum(block):
    total = 0.0
    for i in range(block.size):
        total += np.float64(block[i]) * np.float64(block[i])
    return total


@kernel
def _square_sums(g, sums, first, last):
    """sums[b] = the sum of squares of block b of g, for blocks first:last."""
    for b in range(first, last):
        block = g[b * BLOCK : (b + 1) * BLOCK]
        sums[b] = _square_sum(block)


def norm(g: np.ndarray, team: ThreadTeam | None = None) -> float:
    """The length of g; NaN or infinity where g holds one."""
    blocks = ceil_div(g.size, BLOCK)
    sums = np.zeros(blocks)

    def part(i: int, size: int) -> None:
        _square_sums(g, sums, *chunk_bounds(blocks, i, size))

    (team or ThreadTeam(1)).run(part, threads_for(g.size))
    return math.sqrt(sums.sum())


def clip_value_(g: np.ndarray, limit: float) -> None:
    """Every element of g into [-limit, limit], in place; NaN stays."""
    _clip_value(g, limit)


def clip_norm_(
    g: np.ndarray, limit: float, team: ThreadTeam | None = None, length: float | None = None
) -> float:
    """Scale g, in place, to a length of at most limit (Pascanu et al. 2013); returns the length.

    `length`, where it is known already, saves a pass.
    """
    if length is None:
        length = norm(g, team)
    if length > limit:
        _scale(g, limit / length)
    return length


def constant(done: float, **_: float) -> float:
    return 1.0


def cosine(done: float, **_: float) -> float:
    """From 1 to 0 as the share `done` of the run goes from 0 to 1 (Loshchilov & Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * min(done, 1)))


def linear(done: float, **_: float) -> float:
    return max(0.0, 1 - done)


def exponential(done: float, *, epoch: int, decay: float, decay_after: float) -> float:
    """`decay` once for each finished epoch from `decay_after` on, as in char-rnn."""
    return decay ** max(0, epoch + 1 - max(1, math.ceil(decay_after)))


SCHEDULES = {"constant": constant, "cosine": cosine, "linear": linear, "exponential": exponential}
