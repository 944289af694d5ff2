"""Several models of one shape as a single model that averages their logits.

The geometric mean of the predictions of M models, normalised, is the softmax of the mean of their
logits. One network of M times the width computes it: its matrices are block-diagonal, one block per
model, and its output layer holds each model's weights divided by M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..config import ModelConfig, TensorRole, TensorSpec
from .arrays import Array
from .parameters import Parameters


def averaged_config(config: ModelConfig, count: int) -> ModelConfig:
    """The shape of the average of `count` models of shape `config`."""
    sizes = count * config.hidden_size, count * config.embedding_size
    return replace(config, hidden_size=sizes[0], embedding_size=sizes[1])


def average(members: Sequence[Parameters], out: Parameters) -> None:
    """Make `out`, of `averaged_config`, the average of `members`.

    The blocks between different members are taken to be zero already.
    """
    count = len(members)
    for name, spec in out.specs.items():
        if spec.role is TensorRole.OUTPUT_BIAS:
            out.view(name)[...] = sum(member.view(name) for member in members) / count
            continue
        scale = 1 / count if spec.role is TensorRole.OUTPUT_WEIGHT else 1
        for i, member in enumerate(members):
            for block, array in _blocks(out, member, spec, i):
                block[...] = array * scale


def separate(averaged: Parameters, members: Sequence[Parameters]) -> None:
    """Set `members` to models of which `averaged` is the average; their output biases agree."""
    count = len(members)
    for name, spec in averaged.specs.items():
        scale = count if spec.role is TensorRole.OUTPUT_WEIGHT else 1
        for i, member in enumerate(members):
            if spec.role is TensorRole.OUTPUT_BIAS:
                member.view(name)[...] = averaged.view(name)
                continue
            for block, array in _blocks(averaged, member, spec, i):
                array[...] = block * scale


def _blocks(
    out: Parameters, member: Parameters, spec: TensorSpec, i: int
) -> Iterator[tuple[Array, Array]]:
    """The parts of a tensor of `out` that hold member i's, each with the member's array."""
    for target, source in zip(out.views(spec), member.views(member.specs[spec.name]), strict=True):
        yield target[_block_slices(spec, source, i)], source


def _block_slices(spec: TensorSpec, source: Array, i: int) -> tuple[slice, ...]:
    """Where member i's `source` lies in the view of the average's tensor, see Parameters.view."""
    whole = slice(None)
    if spec.role is TensorRole.EMBEDDING:  # (V, E)
        return whole, _block(source.shape[1], i)
    if spec.role is TensorRole.OUTPUT_WEIGHT:  # (1, V, H)
        return whole, whole, _block(source.shape[2], i)
    if spec.role in (TensorRole.INPUT_WEIGHT, TensorRole.RECURRENT_WEIGHT):  # (G, H, D)
        return whole, _block(source.shape[1], i), _block(source.shape[2], i)
    return whole, _block(source.shape[1], i)  # (G, H, V) of one-hot input, (G, H) of a bias


def _block(size: int, i: int) -> slice:
    return slice(i * size, (i + 1) * size)
