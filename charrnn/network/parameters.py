"""Named weights, or gradients, in one flat array."""

from __future__ import annotations

import numpy as np

from ..config import ModelConfig
from ..errors import CharRNNError
from .cells import CELLS
from .kernels.matmul import (
    padded,
    zeros,
)


class Parameters:
    """Named arrays in one flat buffer, in the layout of the kernels, where inputs are rows.

    A matrix of PyTorch's shape (G H, D) is stored as (D, G, padded H), a vector (G H,) as
    (G, padded H), an embedding (V, E) as (V, padded E). Padding is zero and stays zero.
    `flat` is the buffer, if there is one of that layout.
    """

    def __init__(self, config: ModelConfig, dtype=np.float32, flat=None) -> None:
        self.config = config
        self.shapes = config.tensor_shapes()
        stored = {name: self._stored_shape(name, shape) for name, shape in self.shapes.items()}
        size = sum(map(_size, stored.values()))
        self.flat = zeros((size,), dtype) if flat is None else flat
        self.stored, start = {}, 0
        for name, shape in stored.items():
            self.stored[name] = self.flat[start : start + _size(shape)].reshape(shape)
            start += _size(shape)

    def _gates(self, name: str) -> int:
        gates = CELLS[self.config.cell].GATES
        return gates if "weight_ih" in name or "weight_hh" in name or "rnn.bias" in name else 1

    def _stored_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if name == "embedding.weight":
            return shape[0], padded(shape[1])
        gates = self._gates(name)
        return (*shape[1:], gates, padded(shape[0] // gates))

    def view(self, name: str) -> np.ndarray:
        """The array without padding: (V, E) of the embedding, (G, H, D) or (G, H) of the others."""
        array, shape = self.stored[name], self.shapes[name]
        if name == "embedding.weight":
            return array[:, : shape[1]]
        inner = array[..., : shape[0] // self._gates(name)]
        return inner if inner.ndim == 2 else inner.transpose(1, 2, 0)

    def state_dict(self, into: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Copies in PyTorch's names and shapes, in place of those of an earlier call if given."""
        if into is None:
            return {name: array.copy() for name, array in self.tensors().items()}
        for name, array in self.tensors().items():
            into[name][...] = array
        return into

    def tensors(self) -> dict[str, np.ndarray]:
        """The same, but copies only of what is padded."""
        return {name: self.view(name).reshape(shape) for name, shape in self.shapes.items()}

    def load_state_dict(self, tensors: dict[str, np.ndarray]) -> None:
        """Take over tensors of PyTorch's names and shapes. CharRNNError if any does not fit."""
        if tensors.keys() != self.shapes.keys():
            odd = ", ".join(sorted(tensors.keys() ^ self.shapes.keys()))
            raise CharRNNError(f"the weights do not fit the model: {odd} missing or too many.")
        for name, shape in self.shapes.items():
            if tensors[name].shape != shape:
                found = tensors[name].shape
                raise CharRNNError(
                    f"the weights do not fit the model: {name} {found}, not {shape}."
                )
        for name in self.shapes:
            view = self.view(name)
            view[...] = tensors[name].reshape(view.shape)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
