"""Converts the weights of a PyTorch module, or arrays of the same names, to those of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import CELL_SHAPES, ModelConfig, check_choice
from ..errors import UsageError, escape_unprintable
from .arrays import Array

RECURRENT = re.compile(r"(?:.*\.)?((?:weight|bias)_(?:ih|hh|c[ifo])_l?\d*)")


def from_state_dict(
    tensors: Mapping[str, Any], vocab_size: int, cell: str
) -> tuple[ModelConfig, dict[str, Array]]:
    """Return the configuration of the model and its float32 weights, named as in a model file.

    tensors: PyTorch tensors, or arrays that NumPy converts, by name. The ends of the names, such as
        `weight_ih_l0`, identify the recurrent layers. Of the other weights, one with a bias is that
        of the output layer, an `nn.Linear`, and one without a bias is that of an embedding.

    Raises UsageError for names missing or too many, wrong shapes, and values that are not finite.
    """
    check_choice("cell", cell, tuple(CELL_SHAPES))
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise UsageError("the weights are not a state_dict: give arrays by their names.")
    arrays = {_own_name(name, tensors): _array(name, t) for name, t in tensors.items()}
    if len(arrays) < len(tensors):
        raise UsageError(
            "the weights are not of one recurrent network and one output layer: leave out the rest."
        )
    config = ModelConfig(
        vocab_size,
        cell,
        hidden_size=_hidden_size(arrays, cell),
        num_layers=sum(name.startswith("rnn.weight_hh_l") for name in arrays),
        embedding_size=_width(arrays, "embedding.weight") if "embedding.weight" in arrays else 0,
    )
    _check(arrays, config)
    return config, arrays


def _own_name(name: str, tensors: Mapping[str, Any]) -> str:
    """Return the name of the tensor `name` in a model file."""
    if match := RECURRENT.fullmatch(name):
        return f"rnn.{match[1]}"
    kind = name.rpartition(".")[2]
    if kind not in ("weight", "bias"):
        return name
    has_bias = name.removesuffix(kind) + "bias" in tensors
    return f"{'output' if has_bias else 'embedding'}.{kind}"


def _array(name: str, tensor: Any) -> Array:
    """Convert a tensor to a float32 array."""
    if hasattr(tensor, "detach"):  # it is PyTorch's
        tensor = tensor.detach().cpu()
    try:
        with np.errstate(over="ignore"):  # an infinity is refused later
            array = np.asarray(tensor)
            if array.dtype.kind not in "fiu":
                raise TypeError
            return array.astype(np.float32)
    except (TypeError, ValueError):
        raise UsageError(
            f"'{escape_unprintable(name)}' is not an array of real numbers that NumPy knows: give "
            "float32."
        ) from None


def _hidden_size(arrays: dict[str, Array], cell: str) -> int:
    """Return H after checking that W_hh of the first layer has the shape (G H, H)."""
    name, gates = "rnn.weight_hh_l0", CELL_SHAPES[cell].gates
    size = _width(arrays, name)
    if len(arrays[name]) != gates * size:
        raise UsageError(
            f"the weights do not fit: {name} of a network of {cell} cells has {gates} times as "
            f"many rows as columns, not the shape {arrays[name].shape}."
        )
    return size


def _width(arrays: dict[str, Array], name: str) -> int:
    array = arrays.get(name, np.zeros(0))
    if array.ndim != 2 or not array.size:
        raise UsageError(f"there is no matrix {name}: give the state_dict of the network.")
    return int(array.shape[1])


def _check(arrays: dict[str, Array], config: ModelConfig) -> None:
    expected = config.tensor_shapes()
    for name in sorted(arrays.keys() | expected.keys()):
        found = arrays[name].shape if name in arrays else "missing"
        wanted = expected.get(name, "none")
        if found != wanted:
            raise UsageError(
                f"the weights do not fit: {escape_unprintable(name)} is {found} "
                f"instead of {wanted}."
            )
        if not np.isfinite(arrays[name]).all():
            raise UsageError(f"{escape_unprintable(name)} holds values that are not finite.")
