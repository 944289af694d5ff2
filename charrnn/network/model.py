"""The weights of a character language model, in the layouts that the kernels use.

Sizes in comments: T steps, N or B rows, D inputs, H hidden units, V characters, L layers, G gates,
S states. Widths in the kernels' arrays are padded to whole panels of 16; `state_dict` and all that
public methods take and return are not padded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig, TensorRole
from ..errors import CharRNNError
from ..text.ngrams import NgramTable
from .arrays import Array, zeros
from .averaging import count_blocks
from .carried_state import CarriedState
from .cells import CELLS
from .jit import ThreadTeam, chunk_bounds, threads_for
from .kernels.dropout import drop_, fold_in
from .kernels.matmul import pack, pack_transposed, padded, sum_biases
from .kernels.microkernel import NR
from .kernels.orthogonal import orthogonalize
from .ngram_index import NgramIndex
from .parameters import Parameters
from .start import TextStart


class Model:
    """Weights, their packed copies for the kernels, and the threads that work on them.

    config: the shape.
    rng: draws the initial weights. A table that characters look up, the embedding or the weight of
        a one-hot input, is standard normal: with PyTorch's ±1/√H a one-hot network spends an epoch
        learning to tell the characters apart. Recurrent matrices are orthogonal gate by gate (Saxe
        et al. 2014), other weights uniform in ±1/√H, input biases the cell's BIAS, recurrent and
        output biases zero. Without `rng` all weights are zero, to be loaded.
    dtype: float32 or float64.
    threads: the size of the thread team.
    precision: bfloat16 rounds both sides of every matrix product to it, in training too. Sums,
        weights and all else stay float32.
    ngrams: the n-grams that the configuration numbers. Their weights are zero at first.

    Raises CharRNNError if the n-grams are not as many as in the configuration, or if one contains
    the id that ends a record but as its first id: no n-gram that is found reaches over the end.

    `start` is where texts start; a model file sets it, otherwise it is `blank_start`.
    """

    def __init__(
        self,
        config: ModelConfig,
        rng: np.random.Generator | None = None,
        dtype: npt.DTypeLike = np.float32,
        threads: int = 1,
        precision: str = "float32",
        ngrams: NgramTable = (),
    ) -> None:
        self.config = config
        self.ngrams = NgramIndex(ngrams, config.vocab_size)
        if (len(ngrams) + 1, self.ngrams.size) != (config.ngrams, config.num_ngrams):
            raise CharRNNError("the n-grams do not fit the model.")
        if any((level[:, 1:] == config.record_end_id).any() for level in ngrams):
            raise CharRNNError("one of the n-grams reaches over the end of a record.")
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        # An element of a panel is a pair of bfloat16 or one float.
        self.panel_dtype = np.dtype(np.uint32 if precision == "bfloat16" else dtype)
        self.cell = CELLS[config.cell]
        self.parameters = Parameters(config, dtype)
        self.team, self.blocks = ThreadTeam(threads), 1
        self._allocate_packed()
        if rng is not None:
            self._initialise(rng)
        self.pack()
        self.start = self.blank_start()

    def _initialise(self, rng: np.random.Generator) -> None:
        bound = 1 / math.sqrt(self.config.hidden_size)
        for name, spec in self.parameters.specs.items():
            view = self.parameters.view(name)
            if spec.is_lookup_table:
                view[...] = rng.standard_normal(view.shape)
            elif spec.role is TensorRole.RECURRENT_WEIGHT:
                # float32 hides the last bits, which differ between C libraries.
                normal = rng.standard_normal(view.shape).astype(np.float32)
                view[...] = self._orthogonal(normal.astype(np.float64))
            elif spec.role is TensorRole.INPUT_BIAS:
                view[...] = np.array(self.cell.BIAS)[:, None]
            elif spec.role not in (TensorRole.RECURRENT_BIAS, TensorRole.OUTPUT_BIAS):
                view[...] = bound * (2 * rng.random(view.shape) - 1)

    def _orthogonal(self, matrices: Array) -> Array:
        """Orthogonalize matrices (G, H, H) of float64, in place; returns them."""

        def task(i: int, size: int) -> None:
            for matrix in matrices[slice(*chunk_bounds(len(matrices), i, size))]:
                orthogonalize(matrix)

        self.team.run(task)
        return matrices

    def _allocate_packed(self) -> None:
        """Allocate the weights as panels and the sums of biases."""
        gates, h, inputs = self.cell.GATES, padded(self.config.hidden_size), self._input_sizes
        L, blocks = self.config.num_layers, self.blocks
        first = inputs[0] // self._blocks_of(inputs[0])
        self.w_ih_above = self._panels(gates, h // blocks, h, L - 1)  # of layers above the first
        self.w_ih = [self._panels(gates, first, h), *self.w_ih_above]
        self.w_hh = self._panels(gates, h // blocks, h, L)
        self.w_out = self._panels(1, h, self.config.vocab_size)
        self.bias = zeros((L, self.cell.PLANES, h), self.dtype)
        self.peepholes = zeros((L, len(self.cell.PEEPHOLES), h), self.dtype)
        self._packings = [
            (pack, *part)
            for w, gate, panels in self._matrices(self.w_hh, self.w_ih, self.w_out)
            for part in self._blocks(w, gate, panels)
        ]
        self.has_backward = False

    @property
    def _input_sizes(self) -> list[int]:
        """The width of each layer's input to a product; 0 where it looks up one-hot rows."""
        c = self.config
        return [c.embedding_size] + [c.hidden_size] * (c.num_layers - 1)

    def _blocks_of(self, inputs: int) -> int:
        """The blocks of a matrix with so many inputs that are packed as such."""
        return self.blocks if inputs % (NR * self.blocks) == 0 else 1

    def _blocks(self, w: Array, gate: int, panels: Array) -> Iterator[tuple[Array, int, Array]]:
        """(weights, column, panels) of each block of gate `gate` of `w`, see `pack`."""
        depth = panels.shape[1] * (1 if self.panel_dtype == self.dtype else 2)
        blocks = padded(len(w)) // depth
        column = gate * w.shape[2]
        for rows, part in zip(np.split(w, blocks), np.split(panels, blocks), strict=True):
            yield rows, column, part
            column += len(part) * NR

    def _panels(self, gates: int, inputs: int, outputs: int, *layers: int) -> Array:
        depth = padded(inputs) // (1 if self.panel_dtype == self.dtype else 2)
        return zeros((*layers, gates, padded(outputs) // NR, depth, NR), self.panel_dtype)

    def prepare_backward(self) -> None:
        """Have the transposed weights packed, too, which backward needs: now and by each `pack`."""
        if self.has_backward:
            return
        self.set_blocks(1)  # the zeros between blocks have gradients, too
        gates, h, inputs = self.cell.GATES, padded(self.config.hidden_size), self._input_sizes
        self.w_ih_t = [self._panels(gates, h, d) for d in inputs]
        self.w_hh_t = [self._panels(gates, h, h) for _ in inputs]
        self.w_out_t = self._panels(1, self.config.vocab_size, h)
        self._packings += [
            (pack_transposed, *matrix)
            for matrix in self._matrices(self.w_hh_t, self.w_ih_t, self.w_out_t)
        ]
        self.has_backward = True
        self.pack()

    def _matrices(
        self, w_hh: Sequence[Array] | Array, w_ih: list[Array], w_out: Array
    ) -> Iterator[tuple[Array, int, Array]]:
        """(weights, gate, panels) for every matrix that is multiplied."""
        weights = self.parameters.padded
        for k in range(self.config.num_layers):
            for g in range(self.cell.GATES):
                yield weights[f"rnn.weight_hh_l{k}"], g, w_hh[k][g]
                if k or self.config.embedding_size:
                    yield weights[f"rnn.weight_ih_l{k}"], g, w_ih[k][g]
        yield weights["output.weight"], 0, w_out[0]

    def pack(self) -> None:
        """Bring the packed copies up to date with the weights."""

        def task(i: int, size: int) -> None:
            for kernel, w, gate, panels in self._packings[i::size]:
                kernel(w, gate, panels)

        self.team.run(task, threads_for(self.parameters.dense.size))
        weights = self.parameters.padded
        for k in range(self.config.num_layers):
            b_ih, b_hh = weights[f"rnn.bias_ih_l{k}"], weights[f"rnn.bias_hh_l{k}"]
            planes = self.cell.INPUT_PLANES, self.cell.HIDDEN_PLANES
            sum_biases(b_ih, b_hh, *planes, self.bias[k])
            for j, name in enumerate(self.cell.PEEPHOLES):
                self.peepholes[k][j] = weights[f"rnn.{name}_l{k}"][0]

    def drop_recurrent(self, parameters: Parameters, seed: int, rate: float) -> None:
        """Apply dropout to the recurrent weights, or to their gradients, in `parameters`."""
        arrays = parameters.with_role(TensorRole.RECURRENT_WEIGHT)

        def task(i: int, size: int) -> None:
            for k, array in enumerate(arrays, self.config.num_layers):
                inputs, gates, _ = array.shape
                rows = chunk_bounds(gates, i, size)
                drop_(array, fold_in(seed, k), rate, inputs, *rows, 0, gates)

        self.team.run(task, threads_for(parameters.dense.size))

    def state_dict(self) -> dict[str, Array]:
        """Copies of the weights in PyTorch's names and shapes."""
        return self.parameters.state_dict()

    def load_state_dict(self, tensors: dict[str, Array]) -> None:
        """Load weights of PyTorch's names and shapes. Raises CharRNNError if any does not fit."""
        self.parameters.load_state_dict(tensors)
        self.set_blocks(1 if self.has_backward else count_blocks(self.parameters))
        self.pack()

    def set_blocks(self, count: int) -> None:
        """Take the matrices to be block-diagonal, with `count` blocks, as in an average of models.

        Their zeros are then neither packed nor multiplied. Call `pack` afterwards.
        """
        if self.blocks != count:
            self.blocks = count
            self._allocate_packed()

    def zero_state(self, rows: int) -> CarriedState:
        """The state before the first character of a text."""
        c = self.config
        hidden = np.zeros((c.num_layers, self.cell.STATES, rows, c.hidden_size), self.dtype)
        return CarriedState(hidden, np.full((c.ngrams - 1, rows), -1, np.int32))

    def blank_start(self) -> TextStart:
        """The start of a text before which nothing is known, or of a record."""
        ids = [self.config.record_end_id] if self.config.has_records else []
        return TextStart(self.zero_state(1), np.array(ids, np.int32))
