"""A character language model: weights in one flat array, and the stack of layers that runs on them.

Sizes in comments: T steps, N or B rows, D inputs, H hidden units, V characters, L layers, G gates,
S states. Widths in the kernels' arrays are padded to whole panels of 16; `state_dict` and all that
the public methods take and give are not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..config import ModelConfig
from .cells import CELLS
from .jit import ThreadTeam, chunk_bounds, threads_for
from .kernels.dropout import drop_, fold_in
from .kernels.matmul import (
    NR,
    pack,
    pack_transposed,
    padded,
    sum_biases,
    zeros,
)
from .parameters import Parameters


class Model:
    """Weights, their packed copies for the kernels, and the threads that work on them.

    `rng` draws the first weights. What a character looks up, an embedding or the one-hot input's
    row, is standard normal: with PyTorch's ±1/√H a one-hot network spends an epoch learning to tell
    the characters apart. Recurrent matrices are orthogonal gate by gate (Saxe et al. 2014), others
    uniform in ±1/√H, biases the cell's. Without `rng` all are zero, to be loaded.

    With the `precision` bfloat16 both sides of every product are rounded to it, in training too;
    sums, weights and all else stay float32.
    """

    def __init__(
        self,
        config: ModelConfig,
        rng: np.random.Generator | None = None,
        dtype=np.float32,
        threads: int = 1,
        precision: str = "float32",
    ) -> None:
        self.config, self.dtype = config, np.dtype(dtype)
        # Of panels: a pair of rounded values, or a float.
        self.element = np.dtype(np.uint32 if precision == "bfloat16" else dtype)
        self.cell = CELLS[config.cell]
        self.parameters = Parameters(config, dtype)
        self.team = ThreadTeam(threads)
        self._allocate_packed()
        if rng is not None:
            self._initialise(rng)
        self.pack()

    def _initialise(self, rng: np.random.Generator) -> None:
        bound = self.config.hidden_size**-0.5
        for name in self.parameters.shapes:
            view = self.parameters.view(name)
            if name == self.config.lookup_table_name:
                view[...] = rng.standard_normal(view.shape)
            elif "weight_hh" in name:
                for gate in view:
                    gate[...] = np.linalg.qr(rng.standard_normal(gate.shape))[0]
            elif "weight" in name:
                view[...] = rng.uniform(-bound, bound, view.shape)
            elif "bias_ih" in name:
                view[...] = np.array(self.cell.BIAS)[:, None]

    def _allocate_packed(self) -> None:
        """Room for the weights as panels and for the sums of biases."""
        gates, h, inputs = self.cell.GATES, padded(self.config.hidden_size), self._input_sizes
        self.w_ih = [self._panels(gates, d, h) for d in inputs]
        self.w_hh = [self._panels(gates, h, h) for _ in inputs]
        self.w_out = self._panels(1, h, self.config.vocab_size)
        self.bias = [zeros((self.cell.PLANES, h), self.dtype) for _ in inputs]
        self.extra = [zeros((len(self.cell.EXTRA), h), self.dtype) for _ in inputs]
        self._packings = self._list_packings(pack, self.w_hh, self.w_ih, self.w_out)
        self._can_learn = False

    @property
    def _input_sizes(self) -> list[int]:
        """What each layer is given and multiplies: 0 where it looks up one-hot rows instead."""
        c = self.config
        return [c.embedding_size] + [c.hidden_size] * (c.num_layers - 1)

    def _panels(self, gates: int, inputs: int, outputs: int) -> np.ndarray:
        depth = padded(inputs) // (1 if self.element == self.dtype else 2)
        return zeros((gates, padded(outputs) // NR, depth, NR), self.element)

    def prepare_backward(self) -> None:
        """Have the weights as transposed panels, too, now and after each `pack`: for backward."""
        if self._can_learn:
            return
        gates, h, inputs = self.cell.GATES, padded(self.config.hidden_size), self._input_sizes
        self.w_ih_t = [self._panels(gates, h, d) for d in inputs]
        self.w_hh_t = [self._panels(gates, h, h) for _ in inputs]
        self.w_out_t = self._panels(1, self.config.vocab_size, h)
        self._packings += self._list_packings(
            pack_transposed, self.w_hh_t, self.w_ih_t, self.w_out_t
        )
        self._can_learn = True
        self.pack()

    def _list_packings(self, kernel: Callable, w_hh, w_ih, w_out) -> list[tuple]:
        """(kernel, weights, gate, panels) for every matrix that is multiplied."""
        stored, packings = self.parameters.stored, []
        for k in range(self.config.num_layers):
            for g in range(self.cell.GATES):
                packings.append((kernel, stored[f"rnn.weight_hh_l{k}"], g, w_hh[k][g]))
                if k or self.config.embedding_size:
                    packings.append((kernel, stored[f"rnn.weight_ih_l{k}"], g, w_ih[k][g]))
        return [*packings, (kernel, stored["output.weight"], 0, w_out[0])]

    def pack(self) -> None:
        """Bring the packed copies up to date with the weights."""

        def part(i: int, size: int) -> None:
            for kernel, w, gate, panels in self._packings[i::size]:
                kernel(w, gate, panels)

        self.team.run(part, threads_for(self.parameters.flat.size))
        stored = self.parameters.stored
        for k in range(self.config.num_layers):
            b_ih, b_hh = stored[f"rnn.bias_ih_l{k}"], stored[f"rnn.bias_hh_l{k}"]
            planes = self.cell.INPUT_PLANES, self.cell.HIDDEN_PLANES
            sum_biases(b_ih, b_hh, *planes, self.bias[k])
            for j, name in enumerate(self.cell.EXTRA):
                self.extra[k][j] = stored[f"rnn.{name}_l{k}"][0]

    def drop_recurrent(self, parameters: Parameters, seed: int, rate: float) -> None:
        """Of `parameters`, weights or gradients, drop some between one step and the next."""
        arrays = [a for name, a in parameters.stored.items() if "weight_hh" in name]

        def part(i: int, size: int) -> None:
            for k, array in enumerate(arrays, self.config.num_layers):
                inputs, gates, _ = array.shape
                drop_(array, fold_in(seed, k), rate, inputs, *chunk_bounds(gates, i, size))

        self.team.run(part, threads_for(parameters.flat.size))

    def state_dict(self, into: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Copies of the weights in PyTorch's names and shapes; `into` see Parameters."""
        return self.parameters.state_dict(into)

    def load_state_dict(self, tensors: dict[str, np.ndarray]) -> None:
        """Take over weights of PyTorch's names and shapes. CharRNNError if any does not fit."""
        self.parameters.load_state_dict(tensors)
        self.pack()

    def zero_state(self, rows: int) -> np.ndarray:
        """(L, S, N, H), where every text starts."""
        c = self.config
        return np.zeros((c.num_layers, self.cell.STATES, rows, c.hidden_size), self.dtype)
