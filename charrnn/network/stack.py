"""The layers of a model, running forward and backward on a batch."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from types import ModuleType

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig
from .arrays import Array, Workspace, zeros
from .carried_state import CarriedState
from .cells import CELLS
from .jit import chunk_bounds
from .kernels.cross_entropy import logits_of, losses_of, output_gradient, probabilities_of
from .kernels.decode import decode, step_kernels
from .kernels.dropout import drop, drop_, fold_in
from .kernels.embedding import embed, embed_gradient, look_up, look_up_gradient
from .kernels.matmul import (
    input_product,
    output_product,
    padded,
    weight_gradient,
    workspace_size,
)
from .kernels.microkernel import NR
from .kernels.ngrams import find_rows, group_places, row_gradient
from .kernels.state import vector_gradient, zero_states
from .model import Model
from .parameters import Parameters

# allowed, penalty, temperature, top_k, top_p, min_p, recent, u
Draws = tuple[Array, float, float, int, float, float, Array, Array]


class NgramGradients:
    """The gradients of the n-gram rows that a chunk has used; other rows have the gradient zero.

    `used` (U,) are the numbers of the n-grams, `rows` (U, G, N) their gradients.
    """

    def __init__(self, model: Model, num_places: int) -> None:
        shape = model.parameters.ngram_rows.shape
        most = min(num_places * (model.config.ngrams - 1), shape[0])
        self._vocab_size, self._count = model.config.vocab_size, 0
        self._group_of = np.full(shape[0], -1, np.int32)
        self._used = np.zeros(most, np.int32)
        self._starts = np.zeros(most + 1, np.int32)
        self._places = np.zeros(num_places * (model.config.ngrams - 1), np.int32)
        self._rows = zeros((most, *shape[1:]), model.dtype)
        self._squares = np.zeros(shape[1:])  # the sums of squares of the columns of `rows`

    @property
    def used(self) -> npt.NDArray[np.int32]:
        return self._used[: self._count]

    @property
    def rows(self) -> Array:
        return self._rows[: self._count]

    def group(self, found: Array, steps: int) -> None:
        """Find the rows that `steps` of a chunk have used, and where."""
        if len(self._used):
            groups = self._group_of, self._used, self._starts, self._places
            self._count = group_places(found, self._vocab_size, *groups, steps)

    def compute(self, dz: Array, planes: Array, first: int, last: int) -> None:
        """Fill the panels first:last of `rows` from dz (T, P, B, N), see `row_gradient`."""
        if self._count:
            groups = self._starts, self._places, self._count
            row_gradient(*groups, dz, planes, self._rows, self._squares, first, last)

    def replace(self, used: npt.NDArray[np.int32], rows: Array) -> None:
        """Take other gradients, such as the sums over several machines; `norm` is then invalid."""
        self._count = len(used)
        self.used[:], self.rows[:] = used, rows

    def norm(self) -> float:
        """The Euclidean norm of `rows` as computed."""
        return math.sqrt(self._squares.sum()) if self._count else 0.0

    def scatter(self, out: Array) -> None:
        """Write each gradient to its row of `out` (K, G, N), which has a row per n-gram."""
        out[self.used] = self.rows


class Stack:
    """All layers of a model on B rows for up to T steps: forward, backward, the arrays in between.

    Forward and backward split the rows between threads; each thread takes its rows through all
    layers and steps without waiting. The weight gradients are split by columns. No sum is ever
    split, so results have the same bits for any number of threads.

    model: runs on its weights and threads.
    batch_size: B.
    steps: T.
    training: allocate what `loss_and_gradients` needs.
    workspace: memory shared with other stacks, for the arrays that are needed within one call
        only; by default memory of its own. A stack without `training` keeps its state there, too,
        so call `set_state` after another stack has run. A training stack's state is safe.
    first_row, whole_batch: the B rows are those from `first_row` on of a batch of `whole_batch`,
        whose mean loss `loss_and_gradients` computes its part of; by default the whole batch.
    """

    def __init__(
        self,
        model: Model,
        batch_size: int,
        steps: int,
        training: bool = False,
        workspace: Workspace | None = None,
        first_row: int = 0,
        whole_batch: int | None = None,
    ) -> None:
        c, cell, dtype = model.config, model.cell, model.dtype
        self._first_row, self._whole_batch = first_row, whole_batch or batch_size
        self.model, self.batch_size, self.steps = model, batch_size, steps
        self.threads = max(1, min(model.team.size, batch_size // 2))
        T, B, H, L = steps, batch_size, padded(c.hidden_size), c.num_layers
        E, V = padded(c.embedding_size), padded(c.vocab_size)
        z_shape, s_shape = (L, T, cell.PLANES, B, H), (L, cell.STATES, T + 1, B, H)
        shapes = [(L, cell.SAVED, T, B, H), (T, B, E), (T, B, V)]
        workspace = workspace or Workspace(dtype)
        if training:
            s = zeros(s_shape, dtype)
            z, saved, self.embedded, self.logits = workspace.arrays(z_shape, *shapes)
        else:
            z, s, saved, self.embedded, self.logits = workspace.arrays(z_shape, s_shape, *shapes)
        self.z, self.s, self.saved = z, s, saved  # of all layers; cells/__init__.py describes them
        self.held = zeros((cell.STATES + 1, B if c.has_records else 0, H), dtype)
        self._step_kernels: dict[bool, Array] = {}  # of `sample_steps`, without and with log_p
        self.losses = zeros((T, B), np.float64)
        before = c.ngrams - 1
        self.ids = np.full((before + T, B), -1, np.int32)  # of the steps before, then of the chunk
        self.found = np.full((T, B, before), -1, np.int32)  # rows of the n-grams that end there
        if training:
            model.prepare_backward()
            self.dropped = [zeros((T, B, H), dtype) for _ in range(L if c.dropout else 0)]
            self.dh = zeros((T + 1, B, H), dtype)
            self.dc = zeros((B, H), dtype)
            self.d_start = zeros((L, cell.STATES, B, H), dtype)
            self.d_embedded = zeros((T, B, E), dtype)
            self.gradients = Parameters(replace(c, num_ngrams=0), dtype)
            self.ngram_gradients = NgramGradients(model, T * self._whole_batch)
            size = workspace_size(max(H, E))
            self.panel_buffers = [zeros((size,), model.panel_dtype) for _ in range(model.team.size)]

    @staticmethod
    def num_bytes(config: ModelConfig, batch_size: int, steps: int) -> int:
        """The memory of a training stack in float32, without weights and gradients."""
        c, cell = config, CELLS[config.cell]
        per_layer: int = padded(c.hidden_size) * (cell.PLANES + cell.STATES + cell.SAVED + 1)
        rest = padded(c.hidden_size) + 2 * padded(c.embedding_size) + padded(c.vocab_size) + 2
        return 4 * steps * batch_size * (c.num_layers * per_layer + rest)

    @property
    def _recent(self) -> npt.NDArray[np.int32]:
        """The ids before the chunk, as of CarriedState."""
        return self.ids[: self.model.config.ngrams - 1]

    def set_state(self, state: CarriedState, rows: slice = slice(None)) -> None:
        """Start the next chunk of `rows` from `state`; other rows keep theirs."""
        for k, s in enumerate(self.s):
            s[:, 0, rows] = 0  # the padding
            s[:, 0, rows, : self.model.config.hidden_size] = state.hidden[k]
        self._recent[:, rows] = state.recent

    def get_state(self) -> CarriedState:
        """The state that the next chunk starts from."""
        h = self.model.config.hidden_size
        return CarriedState(np.stack([s[:, 0, :, :h] for s in self.s]), self._recent.copy())

    def start_gradient(self) -> Array:
        """The gradient (L, S, B, H) of the state that the last chunk started from."""
        return self.d_start[..., : self.model.config.hidden_size].copy()

    def advance_state(self, steps: int, rows: npt.NDArray[np.intp] | slice = slice(None)) -> None:
        """Start the next chunk from the state after `steps`.

        rows: indices (B,) of the rows that the new rows continue.
        """
        for s in self.s:
            s[:, 0] = s[:, steps, rows]
        self._recent[:] = self.ids[steps : steps + len(self._recent), rows]

    def advance_rows(self, steps: npt.NDArray[np.intp]) -> None:
        """Start the next chunk of each row from its state after `steps` (B,) of its own."""
        rows, before = np.arange(self.batch_size), np.arange(len(self._recent))
        for s in self.s:
            s[:, 0] = s[:, steps, rows]
        self._recent[:] = self.ids[np.add.outer(before, steps), rows]

    def forward(self, x: npt.NDArray[np.int32]) -> None:
        """Fill `logits` for the ids x (T or fewer, B)."""

        def task(i: int, size: int) -> None:
            self._forward_rows(x, None, *chunk_bounds(self.batch_size, i, size))

        self.model.team.run(task, self.threads)

    def sample_steps(
        self,
        x: npt.NDArray[np.int32],
        drawn: npt.NDArray[np.int32],
        draws: Draws,
        log_p: npt.NDArray[np.float64],
        threads: int,
    ) -> None:
        """Run one step after another, each on the ids that the one before has drawn.

        x: the ids (1, B) of the first step; on return those of the next.
        drawn: (steps, B), to be filled. The stack must be for one step.
        draws: how ids are drawn, the arguments of `draw_rows` from `allowed` to `u`.
        log_p: (steps, B), to be filled with the log-probabilities of `drawn` in nats, those of the
            model, whatever the `draws`; or (0, B).
        threads: how many share the rows; they do not wait for each other.
        """
        m, index = self.model, self.model.ngrams
        weights = m.parameters.padded
        arguments = (
            x,
            (self.ids, index.vocab_size, index.keys, index.rows, self.found),
            (
                weights[m.config.lookup_table_name], m.parameters.ngram_rows, self.embedded,
                m.cell.INPUT_PLANES,
            ),
            (
                self.z, self.s, self.saved, m.w_ih[0], m.w_ih_above, m.w_hh, m.bias, m.peepholes,
                m.config.record_end_id, self.held,
            ),
            (m.w_out[0], weights["output.bias"], self.logits),
            draws,
            drawn,
            log_p,
        )  # fmt: skip
        kernels = self._step_kernels.get(len(log_p) > 0)
        if kernels is None:
            kernels = step_kernels(m.cell.forward, *arguments)
            self._step_kernels[len(log_p) > 0] = kernels

        def task(i: int, size: int) -> None:
            decode(kernels, *arguments, *chunk_bounds(self.batch_size, i, size))

        m.team.run(task, threads)

    def losses_of(
        self,
        x: npt.NDArray[np.int32],
        y: npt.NDArray[np.int32],
        probabilities: Array | None = None,
    ) -> npt.NDArray[np.float64]:
        """The loss in nats of each of y (T or fewer, B) after x; advances the state.

        probabilities: an array (T, B, V) to fill with the predicted distributions, if any.

        Returns a view (T, B), which the next call overwrites.
        """
        steps, vocab_size = x.shape[0], self.model.config.vocab_size

        def task(i: int, size: int) -> None:
            rows = chunk_bounds(self.batch_size, i, size)
            self._forward_rows(x, None, *rows)
            if probabilities is not None:
                probabilities_of(self.logits, probabilities, steps, *rows)
            losses_of(
                self.logits, y, self.losses, vocab_size, self.model.dtype.type(1), steps, *rows
            )

        self.model.team.run(task, self.threads)
        self.advance_state(steps)
        return self.losses[:steps]

    def loss_and_gradients(
        self, x: npt.NDArray[np.int32], y: npt.NDArray[np.int32], dropout_seed: int | None
    ) -> float:
        """The mean loss in nats of y (T or fewer, B) after x; fills `gradients`.

        dropout_seed: None turns dropout between layers off.

        The state does not advance until `advance_state`. Where a row of x begins with the end of a
        record, the state before it is lost.
        """
        steps = x.shape[0]

        def rows(i: int, size: int) -> None:
            first, last = chunk_bounds(self.batch_size, i, size)
            self._forward_rows(x, dropout_seed, first, last)
            self._backward_rows(x, y, dropout_seed, first, last)

        self.model.team.run(rows, self.threads)
        self.ngram_gradients.group(self.found, steps)
        gradients = partial(self._weight_gradients, x, dropout_seed)
        if not self.model.config.has_records:
            self.model.team.run(partial(gradients, True, True), self.threads)
        else:  # the output of a step is not always the state before the next one, so one by one
            self.model.team.run(partial(gradients, True, False), self.threads)
            for s in self.s:
                zero_states(s, x, self.model.config.record_end_id)
            self.model.team.run(partial(gradients, False, True), self.threads)
        return float(self.losses[:steps].sum() / (steps * self._whole_batch))

    def _layer_output(self, k: int, dropout_seed: int | None) -> Array:
        """The output of layer k after dropout, (T, B, H)."""
        return self.s[k][0, 1:] if dropout_seed is None else self.dropped[k]

    def _input(self, k: int, dropout_seed: int | None) -> Array:
        return self._layer_output(k - 1, dropout_seed) if k else self.embedded

    def _is_one_hot(self, k: int) -> bool:
        return k == 0 and not self.model.config.embedding_size

    def _forward_rows(self, x: Array, dropout_seed: int | None, first: int, last: int) -> None:
        m, cell, rows = self.model, self.model.cell, (x.shape[0], first, last)
        weights, ngram_rows, found = m.parameters.padded, m.parameters.ngram_rows, self.found
        if m.config.ngrams > 1:
            self.ids[-self.steps :][: len(x), first:last] = x[:, first:last]
            index = m.ngrams
            find_rows(self.ids, index.vocab_size, index.keys, index.rows, found, *rows)
        if m.config.embedding_size:
            embed(weights["embedding.weight"], ngram_rows, x, found, self.embedded, *rows)
        for k, z in enumerate(self.z):
            if self._is_one_hot(k):
                table = weights["rnn.weight_ih_l0"]
                look_up(table, ngram_rows, x, found, cell.INPUT_PLANES, m.bias[k], z, *rows)
            else:
                inputs = self._input(k, dropout_seed)
                input_product(inputs, m.w_ih[k], cell.INPUT_PLANES, m.bias[k], z, *rows)
            arrays = z, self.s[k], self.saved[k], m.w_hh[k], m.peepholes[k]
            cell.forward(*arrays, x, m.config.record_end_id, self.held, *rows)
            if dropout_seed is not None:
                seed, rate = self._dropout(k, dropout_seed)
                of_batch = self._first_row, self._whole_batch
                drop(self.s[k][0, 1:], self.dropped[k], seed, rate, *rows, *of_batch)
        outputs = self._layer_output(-1, dropout_seed)
        logits_of(outputs, m.w_out[0], weights["output.bias"], self.logits, *rows)

    def _dropout(self, layer: int, seed: int) -> tuple[int, float]:
        """The seed and the rate of a layer's dropout."""
        return fold_in(seed, layer), self.model.config.dropout

    def _backward_rows(
        self, x: Array, y: Array, dropout_seed: int | None, first: int, last: int
    ) -> None:
        m, cell, rows = self.model, self.model.cell, (x.shape[0], first, last)
        scale = m.dtype.type(1 / (len(x) * self._whole_batch))
        losses_of(self.logits, y, self.losses, m.config.vocab_size, scale, *rows)
        dh, dc = self.dh, self.dc
        output_gradient(self.logits, m.w_out_t[0], dh[1:], *rows)
        for k in reversed(range(len(self.z))):
            if dropout_seed is not None:
                of_batch = self._first_row, self._whole_batch
                drop_(dh[1:], *self._dropout(k, dropout_seed), *rows, *of_batch)
            dh[0, first:last] = 0
            dc[first:last] = 0
            arrays = self.z[k], self.s[k], self.saved[k], m.w_hh_t[k], m.peepholes[k]
            cell.backward(*arrays, dh, dc, x, m.config.record_end_id, self.held, *rows)
            self.d_start[k, 0, first:last] = dh[0, first:last]
            self.d_start[k, 1:, first:last] = dc[first:last]
            if not self._is_one_hot(k):
                d_input = dh[1:] if k else self.d_embedded  # this layer no longer needs dh
                d_input[: x.shape[0], first:last] = 0
                output_product(self.z[k], m.w_ih_t[k], cell.INPUT_PLANES, d_input, *rows)

    def _weight_gradients(
        self,
        x: Array,
        dropout_seed: int | None,
        of_inputs: bool,
        of_states: bool,
        i: int,
        size: int,
    ) -> None:
        """Fill thread i's chunk of the columns of the gradients.

        of_inputs: of the weights that multiply inputs and outputs.
        of_states: of those that multiply the state before a step.
        """
        for k in range(len(self.z)):
            if of_inputs:
                self._input_gradient(k, x, dropout_seed, i, size)
                self._peephole_gradients(k, 1, len(x), i, size)
            if of_states:
                self._recurrent_gradient(k, len(x), i, size)
                self._peephole_gradients(k, 0, len(x), i, size)
        if of_inputs:
            self._output_gradient(len(x), dropout_seed, i, size)
            if self.model.config.embedding_size:
                self._embedding_gradient(x, i, size)

    def _input_gradient(
        self, k: int, x: Array, dropout_seed: int | None, i: int, size: int
    ) -> None:
        cell, z, grads = self.model.cell, self.z[k], self.gradients.padded
        dw, db = grads[f"rnn.weight_ih_l{k}"], grads[f"rnn.bias_ih_l{k}"]
        first, last = chunk_bounds(dw.shape[1] * dw.shape[2] // NR, i, size)
        if self._is_one_hot(k):
            columns = first * NR, last * NR
            look_up_gradient(x, z, cell.INPUT_PLANES, dw, db, len(x), *columns)
            self.ngram_gradients.compute(z, cell.INPUT_PLANES, first, last)
        else:
            panels = first, last, self.panel_buffers[i]
            inputs = self._input(k, dropout_seed)
            weight_gradient(inputs, z, cell.INPUT_PLANES, 0, dw, db, len(x), *panels)

    def _recurrent_gradient(self, k: int, steps: int, i: int, size: int) -> None:
        cell, z, grads = self.model.cell, self.z[k], self.gradients.padded
        dw, db = grads[f"rnn.weight_hh_l{k}"], grads[f"rnn.bias_hh_l{k}"]
        for gate, planes, operand in _gate_groups(cell):
            panels = chunk_bounds(len(planes) * dw.shape[2] // NR, i, size)
            source = self.s[k][0] if operand < 0 else self.saved[k][operand]
            weight_gradient(source, z, planes, gate, dw, db, steps, *panels, self.panel_buffers[i])

    def _peephole_gradients(self, k: int, shift: int, steps: int, i: int, size: int) -> None:
        """The gradients of the peepholes on the state `shift` steps after the one before a step."""
        for name, (plane, state, its_shift) in self.model.cell.PEEPHOLES.items():
            if its_shift == shift:
                dw = self.gradients.padded[f"rnn.{name}_l{k}"]
                first, last = (NR * p for p in chunk_bounds(dw.shape[1] // NR, i, size))
                vector_gradient(self.z[k], plane, self.s[k][state], shift, dw, steps, first, last)

    def _output_gradient(self, steps: int, dropout_seed: int | None, i: int, size: int) -> None:
        dw, db = self.gradients.padded["output.weight"], self.gradients.padded["output.bias"]
        panels = *chunk_bounds(dw.shape[2] // NR, i, size), self.panel_buffers[i]
        dlogits, inputs = self.logits[:, None], self._layer_output(-1, dropout_seed)
        weight_gradient(inputs, dlogits, _SINGLE_PLANE, 0, dw, db, steps, *panels)

    def _embedding_gradient(self, x: Array, i: int, size: int) -> None:
        dw, d_embedded = self.gradients.padded["embedding.weight"], self.d_embedded
        first, last = chunk_bounds(d_embedded.shape[2] // NR, i, size)
        embed_gradient(x, d_embedded, dw, len(x), first * NR, last * NR)
        self.ngram_gradients.compute(d_embedded[:, None], _SINGLE_PLANE, first, last)


_SINGLE_PLANE = np.arange(1)


def _gate_groups(cell: ModuleType) -> list[tuple[int, Array, int]]:
    """(first gate, planes, operand) of consecutive gates whose W_hh multiplies the same operand."""
    starts = [g for g, o in enumerate(cell.OPERANDS) if g == 0 or o != cell.OPERANDS[g - 1]]
    ends = [*starts[1:], cell.GATES]
    return [
        (g, cell.HIDDEN_PLANES[g:end].copy(), cell.OPERANDS[g])
        for g, end in zip(starts, ends, strict=True)
    ]


def forward(model: Model, x: Array, state: CarriedState) -> tuple[Array, CarriedState]:
    """Run a model forward.

    x: ids (T, B).
    state: where to start from.

    Returns the logits (T, B, V) and the state at the end.
    """
    stack = Stack(model, x.shape[1], x.shape[0])
    stack.set_state(state)
    stack.forward(np.ascontiguousarray(x, np.int32))
    stack.advance_state(x.shape[0])
    return stack.logits[:, :, : model.config.vocab_size].copy(), stack.get_state()


def loss_and_gradients(
    model: Model,
    x: Array,
    y: Array,
    state: CarriedState,
    dropout_seed: int | None = None,
) -> tuple[float, dict[str, Array], CarriedState, Array]:
    """Run a model forward and backward.

    x, y: ids (T, B) and the ids that follow them.
    state: where to start from.
    dropout_seed: of the dropout masks; None turns dropout off.

    Returns the mean loss in nats, {name: gradient}, the state at the end, and the gradient of
    `state.hidden`.
    """
    dropout_seed = dropout_seed if model.config.dropout else None
    stack = Stack(model, x.shape[1], x.shape[0], training=True)
    stack.set_state(state)
    x, y = (np.ascontiguousarray(a, np.int32) for a in (x, y))
    loss = stack.loss_and_gradients(x, y, dropout_seed)
    stack.advance_state(x.shape[0])
    gradients = Parameters(model.config, model.dtype)
    gradients.dense[:] = stack.gradients.flat
    stack.ngram_gradients.scatter(gradients.ngram_rows)
    return loss, gradients.state_dict(), stack.get_state(), stack.start_gradient()
