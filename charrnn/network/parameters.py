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

    The K rows of n-grams in the lookup table are at the end of the buffer, since a step uses few of
    them: `ngram_rows` is (K, G, padded H), or (K, 1, padded E) of an embedding. `dense` is the
    buffer without them.

    flat: the buffer, if one of this layout exists already; a new one holds zeros.
    """

    def __init__(
        self, config: ModelConfig, dtype: npt.DTypeLike = np.float32, flat: Array | None = None
    ) -> None:
        self.specs = {spec.name: spec for spec in config.tensor_specs()}
        shapes = {name: _padded_shape(spec) for name, spec in self.specs.items()}
        dense_size = sum(map(math.prod, shapes.values()))
        _, *row_shape = shapes[config.lookup_table_name]
        if config.embedding_size:
            row_shape = [1, *row_shape]
        ngrams_shape = config.num_ngrams, *row_shape
        if flat is None:
            flat = zeros((dense_size + math.prod(ngrams_shape),), dtype)
        self.flat, self.dense = flat, flat[:dense_size]
        self.ngram_rows = flat[dense_size:].reshape(ngrams_shape)
        self.padded: dict[str, Array] = {}  # name: its part of `dense`
        start = 0
        for name, shape in shapes.items():
            end = start + math.prod(shape)
            self.padded[name] = flat[start:end].reshape(shape)
            start = end

    def with_role(self, role: TensorRole) -> list[Array]:
        """The padded arrays of one role, in order."""
        return [self.padded[name] for name, spec in self.specs.items() if spec.role is role]

    def view(self, name: str) -> Array:
        """The array without padding: (V, E) of the embedding, (G, H, D) or (G, H) of the others.

        A lookup table is without the rows of n-grams.
        """
        array, spec = self.padded[name], self.specs[name]
        if spec.role is TensorRole.EMBEDDING:
            return array[:, : spec.shape[1]]
        return _by_gate(array, spec)

    def views(self, spec: TensorSpec) -> list[Array]:
        """Views without padding of the parts of a tensor, which follow each other."""
        if not spec.ngrams:
            return [self.view(spec.name)]
        if spec.role is TensorRole.EMBEDDING:
            return [self.view(spec.name), self.ngram_rows[:, 0, : spec.shape[1]]]
        return [self.view(spec.name), _by_gate(self.ngram_rows, spec)]

    def state_dict(self) -> dict[str, Array]:
        """Copies of the arrays in PyTorch's names and shapes."""
        return {name: array.copy() for name, array in self.tensors().items()}

    def tensors(self) -> dict[str, Array]:
        """The arrays in PyTorch's names and shapes; only those in parts, or padded, are copied."""
        return {
            name: _joined(self.views(spec), _axis(spec)).reshape(spec.shape)
            for name, spec in self.specs.items()
        }

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
        for name, spec in self.specs.items():
            views, axis = self.views(spec), _axis(spec)
            ends = [view.shape[axis] for view in views[:-1]]
            for view, part in zip(views, np.split(tensors[name], ends, axis), strict=True):
                view[...] = part.reshape(view.shape)


def _padded_shape(spec: TensorSpec) -> Shape:
    if spec.role is TensorRole.EMBEDDING:
        return spec.shape[0] - spec.ngrams, padded(spec.shape[1])
    inputs = tuple(size - spec.ngrams for size in spec.shape[1:])
    return (*inputs, spec.gates, padded(spec.shape[0] // spec.gates))


def _by_gate(array: Array, spec: TensorSpec) -> Array:
    """A padded array (D, G, padded H) or (G, padded H) as (G, H, D) or (G, H)."""
    inner = array[..., : spec.shape[0] // spec.gates]
    return inner if inner.ndim == 2 else inner.transpose(1, 2, 0)


def _axis(spec: TensorSpec) -> int:
    """The axis of inputs in a matrix, and in a view of it."""
    return 0 if spec.role is TensorRole.EMBEDDING else -1


def _joined(parts: list[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)
