"""Named weights, or gradients, in one flat array."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig, TensorRole, TensorSpec
from ..errors import CharRNNError
from .arrays import Array, Shape, zeros
from .kernels.matmul import padded


class Parameters:
    """Named arrays in one flat buffer, in the layout of the kernels, where inputs are rows.

    A matrix of PyTorch's shape (G H, D) is stored as (D, G, padded H), a vector (G H,) as
    (G, padded H), an embedding (V, E) as (V, padded E). Padding is zero and stays zero.

    flat: the buffer, if one of this layout exists already; a new one holds zeros.
    """

    def __init__(
        self, config: ModelConfig, dtype: npt.DTypeLike = np.float32, flat: Array | None = None
    ) -> None:
        self.specs = {spec.name: spec for spec in config.tensor_specs()}
        shapes = {name: _padded_shape(spec) for name, spec in self.specs.items()}
        if flat is None:
            flat = zeros((sum(map(math.prod, shapes.values())),), dtype)
        self.flat = flat
        self.padded: dict[str, Array] = {}  # name: its part of `flat`
        start = 0
        for name, shape in shapes.items():
            end = start + math.prod(shape)
            self.padded[name] = flat[start:end].reshape(shape)
            start = end

    def with_role(self, role: TensorRole) -> list[Array]:
        """The padded arrays of one role, in order."""
        return [self.padded[name] for name, spec in self.specs.items() if spec.role is role]

    def view(self, name: str) -> Array:
        """The array without padding: (V, E) of the embedding, (G, H, D) or (G, H) of the others."""
        array, spec = self.padded[name], self.specs[name]
        if spec.role is TensorRole.EMBEDDING:
            return array[:, : spec.shape[1]]
        inner = array[..., : spec.shape[0] // spec.gates]
        return inner if inner.ndim == 2 else inner.transpose(1, 2, 0)

    def state_dict(self, into: dict[str, Array] | None = None) -> dict[str, Array]:
        """Copies of the arrays in PyTorch's names and shapes.

        into: the result of an earlier call, which is overwritten and returned.
        """
        if into is None:
            return {name: array.copy() for name, array in self.tensors().items()}
        for name, array in self.tensors().items():
            into[name][...] = array
        return into

    def tensors(self) -> dict[str, Array]:
        """The arrays in PyTorch's names and shapes; only padded ones are copied."""
        return {name: self.view(name).reshape(spec.shape) for name, spec in self.specs.items()}

    def load_state_dict(self, tensors: dict[str, Array]) -> None:
        """Copy tensors of PyTorch's names and shapes. Raises CharRNNError if any does not fit."""
        if tensors.keys() != self.specs.keys():
            odd = ", ".join(sorted(tensors.keys() ^ self.specs.keys()))
            raise CharRNNError(f"the weights do not fit the model: {odd} missing or too many.")
        for name, spec in self.specs.items():
            if tensors[name].shape != spec.shape:
                found = tensors[name].shape
                raise CharRNNError(
                    f"the weights do not fit the model: {name} {found}, not {spec.shape}."
                )
        for name in self.specs:
            view = self.view(name)
            view[...] = tensors[name].reshape(view.shape)


def _padded_shape(spec: TensorSpec) -> Shape:
    if spec.role is TensorRole.EMBEDDING:
        return spec.shape[0], padded(spec.shape[1])
    return (*spec.shape[1:], spec.gates, padded(spec.shape[0] // spec.gates))
