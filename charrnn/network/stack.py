"""The layers of a model at work on a batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..config import ModelConfig
from .cells import CELLS
from .jit import chunk_bounds
from .kernels.cross_entropy import logits_of, losses_of, output_gradient
from .kernels.dropout import drop, drop_, fold_in
from .kernels.embedding import embed, embed_gradient, look_up, look_up_gradient
from .kernels.matmul import (
    NR,
    input_product,
    output_product,
    padded,
    weight_gradient,
    workspace_size,
    zeros,
)
from .kernels.state import carry, vector_gradient
from .model import Model
from .parameters import Parameters, _size


class _Loan:
    """Arrays cut from the memory of a stack that rests meanwhile, as far as it goes; then new ones.

    What is lent holds any numbers.
    """

    def __init__(self, lender: Stack | None, dtype) -> None:
        self._left = np.empty(0, dtype) if lender is None else lender.scratch.reshape(-1)

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        size = _size(shape)
        if size > self._left.size:
            return zeros(shape, self._left.dtype)
        array, self._left = self._left[:size], self._left[size:]
        return array.reshape(shape)


class Stack:
    """All layers at work on B rows for up to T steps: the arrays in between, forward, backward.

    Rows are dealt to threads, each of which takes its own through all layers and steps without
    waiting; then columns of the weight gradients are. Both give the same bits for any number of
    threads, since no sum is ever split.

    A stack may work in memory that another, the `lender`, needs within a step only; between its
    own calls that may be overwritten, and so the state has to be set anew.
    """

    def __init__(
        self,
        model: Model,
        batch_size: int,
        steps: int,
        training: bool = False,
        lender: Stack | None = None,
    ) -> None:
        c, cell, dtype = model.config, model.cell, model.dtype
        self.model, self.batch_size, self.steps = model, batch_size, steps
        self.threads = max(1, min(model.team.size, batch_size // 2))
        T, B, H, L = steps, batch_size, padded(c.hidden_size), c.num_layers
        lent = _Loan(lender, dtype)
        self.scratch = lent.array((L, T, cell.PLANES, B, H))
        self.z = list(self.scratch)
        self.s = [lent.array((cell.STATES, T + 1, B, H)) for _ in range(L)]
        self.kept = [lent.array((cell.SAVED, T, B, H)) for _ in range(L)]
        self.embedded = lent.array((T, B, padded(c.embedding_size)))
        self.logits = lent.array((T, B, padded(c.vocab_size)))
        self.losses = zeros((T, B), np.float64)
        if training:
            model.prepare_backward()
            self.dropped = [zeros((T, B, H), dtype) if c.dropout else None for _ in range(L)]
            self.dh = zeros((T + 1, B, H), dtype)
            self.carry_gradient = zeros((B, H), dtype)
            self.d_start = zeros((L, cell.STATES, B, H), dtype)
            self.d_embedded = zeros((T, B, padded(c.embedding_size)), dtype)
            self.gradients = Parameters(c, dtype)
            room = workspace_size(max(H, padded(c.embedding_size)))
            self.room = [zeros((room,), model.element) for _ in range(model.team.size)]

    @staticmethod
    def num_bytes(config: ModelConfig, batch_size: int, steps: int) -> int:
        """The memory that all of it needs in training, without the weights and their gradients."""
        c, cell = config, CELLS[config.cell]
        layer = padded(c.hidden_size) * (cell.PLANES + cell.STATES + cell.SAVED + 1)
        rest = padded(c.hidden_size) + 2 * padded(c.embedding_size) + padded(c.vocab_size) + 2
        return 4 * steps * batch_size * (c.num_layers * layer + rest)

    def set_state(self, state: np.ndarray, rows: slice = slice(None)) -> None:
        """Start from state (L, S, B, H), or start `rows` alone."""
        for k, s in enumerate(self.s):
            s[:, 0, rows] = 0  # the padding
            s[:, 0, rows, : self.model.config.hidden_size] = state[k]

    def get_state(self) -> np.ndarray:
        """The state (L, S, B, H) that the next chunk starts from."""
        h = self.model.config.hidden_size
        return np.stack([s[:, 0, :, :h] for s in self.s])

    def start_gradient(self) -> np.ndarray:
        return self.d_start[..., : self.model.config.hidden_size].copy()

    def carry(self, steps: int, rows: np.ndarray | slice = slice(None)) -> None:
        """The state after `steps`, of `rows` (B,), becomes what the next chunk starts from."""
        for s in self.s:
            s[:, 0] = s[:, steps, rows]

    def forward(self, x: np.ndarray) -> None:
        """Fill `logits` for x (T or fewer, B) int32."""

        def part(i: int, size: int) -> None:
            self._forward_rows(x, None, *chunk_bounds(self.batch_size, i, size))

        self.model.team.run(part, self.threads)

    def go_on(
        self, x: np.ndarray, steps: int, follow: Callable[[int, int, int], None], threads: int
    ) -> None:
        """So many times: `logits` for x (1, B), carry the state, follow(step, first, last).

        The last sets x, for those rows, to what comes next. Threads do not wait for each other.
        """

        def part(i: int, size: int) -> None:
            first, last = chunk_bounds(self.batch_size, i, size)
            for step in range(steps):
                self._forward_rows(x, None, first, last)
                for s in self.s:
                    carry(s, first, last)
                follow(step, first, last)

        self.model.team.run(part, threads)

    def losses_of(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The losses (T or fewer, B) in nats of y after x, carrying the state on; no gradients."""
        steps, vocab_size = x.shape[0], self.model.config.vocab_size

        def part(i: int, size: int) -> None:
            rows = chunk_bounds(self.batch_size, i, size)
            self._forward_rows(x, None, *rows)
            losses_of(
                self.logits, y, self.losses, vocab_size, self.model.dtype.type(1), steps, *rows
            )

        self.model.team.run(part, self.threads)
        self.carry(steps)
        return self.losses[:steps]

    def loss_and_gradients(self, x: np.ndarray, y: np.ndarray, dropout_seed: int | None) -> float:
        """Mean loss of y (T or fewer, B) after x; fills `gradients`."""
        steps = x.shape[0]

        def rows(i: int, size: int) -> None:
            first, last = chunk_bounds(self.batch_size, i, size)
            self._forward_rows(x, dropout_seed, first, last)
            self._backward_rows(x, y, dropout_seed, first, last)

        def columns(i: int, size: int) -> None:
            self._weight_gradients(x, dropout_seed, i, size)

        self.model.team.run(rows, self.threads)
        self.model.team.run(columns, self.threads)
        return float(self.losses[:steps].sum() / (steps * self.batch_size))

    def _above(self, k: int, dropout_seed: int | None) -> np.ndarray:
        """What layer k gives to the next or to the output, (T, B, H)."""
        return self.s[k][0, 1:] if dropout_seed is None else self.dropped[k]

    def _input(self, k: int, dropout_seed: int | None) -> np.ndarray:
        return self._above(k - 1, dropout_seed) if k else self.embedded

    def _is_look_up(self, k: int) -> bool:
        return k == 0 and not self.model.config.embedding_size

    def _forward_rows(self, x, dropout_seed, first: int, last: int) -> None:
        m, cell, rows = self.model, self.model.cell, (x.shape[0], first, last)
        stored = m.parameters.stored
        if m.config.embedding_size:
            embed(stored["embedding.weight"], x, self.embedded, *rows)
        for k, z in enumerate(self.z):
            if self._is_look_up(k):
                table = stored["rnn.weight_ih_l0"]
                look_up(table, x, cell.INPUT_PLANES, m.bias[k], z, *rows)
            else:
                inputs = self._input(k, dropout_seed)
                input_product(inputs, m.w_ih[k], cell.INPUT_PLANES, m.bias[k], z, *rows)
            cell.forward(z, self.s[k], self.kept[k], m.w_hh[k], m.extra[k], *rows)
            if dropout_seed is not None:
                seed, rate = self._dropout(k, dropout_seed)
                drop(self.s[k][0, 1:], self.dropped[k], seed, rate, *rows)
        logits_of(
            self._above(-1, dropout_seed), m.w_out[0], stored["output.bias"], self.logits, *rows
        )

    def _dropout(self, layer: int, seed: int) -> tuple[int, float]:
        """The seed and the rate of a layer's dropout."""
        return fold_in(seed, layer), self.model.config.dropout

    def _backward_rows(self, x, y, dropout_seed, first: int, last: int) -> None:
        m, cell, rows = self.model, self.model.cell, (x.shape[0], first, last)
        scale = m.dtype.type(1 / x.size)
        losses_of(self.logits, y, self.losses, m.config.vocab_size, scale, *rows)
        dh, carry = self.dh, self.carry_gradient
        output_gradient(self.logits, m.w_out_t[0], dh[1:], *rows)
        for k in reversed(range(len(self.z))):
            if dropout_seed is not None:
                drop_(dh[1:], *self._dropout(k, dropout_seed), *rows)
            dh[0, first:last] = 0
            carry[first:last] = 0
            cell.backward(
                self.z[k], self.s[k], self.kept[k], m.w_hh_t[k], m.extra[k], dh, carry, *rows
            )
            self.d_start[k, 0, first:last] = dh[0, first:last]
            self.d_start[k, 1:, first:last] = carry[first:last]
            if not self._is_look_up(k):
                below = dh[1:] if k else self.d_embedded  # this layer's dh has done its work
                below[: x.shape[0], first:last] = 0
                output_product(self.z[k], m.w_ih_t[k], cell.INPUT_PLANES, below, *rows)

    def _weight_gradients(self, x, dropout_seed, i: int, size: int) -> None:
        """This thread's share of the columns of every gradient."""
        m, cell, steps, room = self.model, self.model.cell, x.shape[0], self.room[i]
        grads = self.gradients.stored
        panels = padded(m.config.hidden_size) // NR
        for k, z in enumerate(self.z):
            dw, db = grads[f"rnn.weight_ih_l{k}"], grads[f"rnn.bias_ih_l{k}"]
            first, last = chunk_bounds(cell.GATES * panels, i, size)
            if self._is_look_up(k):
                columns = first * NR, last * NR
                look_up_gradient(x, z, cell.INPUT_PLANES, dw, db, steps, *columns)
            else:
                inputs = self._input(k, dropout_seed)
                weight_gradient(inputs, z, cell.INPUT_PLANES, 0, dw, db, steps, first, last, room)
            dw, db = grads[f"rnn.weight_hh_l{k}"], grads[f"rnn.bias_hh_l{k}"]
            for gate, planes, operand in _by_operand(cell):
                first, last = chunk_bounds(len(planes) * panels, i, size)
                source = self.s[k][0] if operand < 0 else self.kept[k][operand]
                weight_gradient(source, z, planes, gate, dw, db, steps, first, last, room)
            columns = tuple(NR * p for p in chunk_bounds(panels, i, size))
            for name, (plane, state, shift) in cell.EXTRA.items():
                dw = grads[f"rnn.{name}_l{k}"]
                vector_gradient(z, plane, self.s[k][state], shift, dw, steps, *columns)
        dw, db = grads["output.weight"], grads["output.bias"]
        first, last = chunk_bounds(dw.shape[2] // NR, i, size)
        dlogits = self.logits[:, None]
        inputs = self._above(-1, dropout_seed)
        weight_gradient(inputs, dlogits, _FIRST, 0, dw, db, steps, first, last, room)
        if m.config.embedding_size:
            columns = chunk_bounds(self.d_embedded.shape[2], i, size)
            embed_gradient(x, self.d_embedded, grads["embedding.weight"], steps, *columns)


_FIRST = np.arange(1)


def _by_operand(cell) -> list[tuple[int, np.ndarray, int]]:
    """(first gate, planes, operand) of runs of gates whose W_hh multiplies the same thing."""
    starts = [g for g, o in enumerate(cell.OPERANDS) if g == 0 or o != cell.OPERANDS[g - 1]]
    ends = [*starts[1:], cell.GATES]
    return [
        (g, cell.HIDDEN_PLANES[g:end].copy(), cell.OPERANDS[g])
        for g, end in zip(starts, ends, strict=True)
    ]


def forward(model: Model, x: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits (T, N, V) after each of x (T, N) from state (L, S, N, H), and the state then."""
    stack = Stack(model, x.shape[1], x.shape[0])
    stack.set_state(state)
    stack.forward(np.ascontiguousarray(x, np.int32))
    stack.carry(x.shape[0])
    return stack.logits[:, :, : model.config.vocab_size].copy(), stack.get_state()


def loss_and_gradients(
    model: Model,
    x: np.ndarray,
    y: np.ndarray,
    state: np.ndarray,
    dropout_seed: int | None = None,
) -> tuple[float, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Mean loss of y (T, N) in nats, gradients by name, the end state, the start's gradient.

    Dropout is off unless a seed for its mask is given.
    """
    dropout_seed = dropout_seed if model.config.dropout else None
    stack = Stack(model, x.shape[1], x.shape[0], training=True)
    stack.set_state(state)
    x, y = (np.ascontiguousarray(a, np.int32) for a in (x, y))
    loss = stack.loss_and_gradients(x, y, dropout_seed)
    stack.carry(x.shape[0])
    return loss, stack.gradients.state_dict(), stack.get_state(), stack.start_gradient()
