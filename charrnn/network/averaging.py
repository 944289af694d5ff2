"""Several models of one shape as a single model that averages their logits.

The geometric mean of the predictions of M models, normalised, is the softmax of the mean of their
logits. One network of M times the width computes it: its matrices are block-diagonal, one block per
model, and its output layer holds each model's weights times SCALE / M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..config import MAX_ENSEMBLE, MAX_UNITS, ModelConfig, TensorRole, TensorSpec
from ..errors import UsageError
from .arrays import Array
from .kernels.matmul import padded
from .parameters import Parameters

# Models are surer of themselves than they should be of texts that they have not read, which their
# average inherits: the factor lowers its loss by 0.001 to 0.008 (tests/bench/LOG.md).
SCALE = 0.95
BLOCK_DIAGONAL = TensorRole.INPUT_WEIGHT, TensorRole.RECURRENT_WEIGHT


def averaged_config(config: ModelConfig, count: int) -> ModelConfig:
    """The shape of the average of `count` models of shape `config`.

    Raises UsageError for more than MAX_UNITS units.
    """
    sizes = count * config.hidden_size, count * config.embedding_size
    if max(sizes) > MAX_UNITS:
        raise UsageError(
            f"an average of {count} models has {count} times their units, {max(sizes):,} here, and "
            f"may have {MAX_UNITS:,}: give a smaller --ensemble, --hidden-size or --embedding-size."
        )
    return replace(config, hidden_size=sizes[0], embedding_size=sizes[1])


def average(members: Sequence[Parameters], out: Parameters) -> None:
    """Make `out`, of `averaged_config`, the average of `members`.

    The blocks between different members are taken to be zero already.
    """
    count = len(members)
    for name, spec in out.specs.items():
        if spec.role is TensorRole.OUTPUT_BIAS:
            biases = [member.view(name) for member in members]
            out.view(name)[...] = sum(biases) * (SCALE / count)
            continue
        scale = SCALE / count if spec.role is TensorRole.OUTPUT_WEIGHT else 1
        for i, member in enumerate(members):
            for block, array in _blocks(out, member, spec, i):
                block[...] = array * scale


def separate(averaged: Parameters, members: Sequence[Parameters]) -> None:
    """Set `members` to models of which `averaged` is the average; their output biases agree."""
    count = len(members)
    for name, spec in averaged.specs.items():
        scale = count / SCALE if spec.role is TensorRole.OUTPUT_WEIGHT else 1
        for i, member in enumerate(members):
            if spec.role is TensorRole.OUTPUT_BIAS:
                member.view(name)[...] = averaged.view(name) / SCALE
                continue
            for block, array in _blocks(averaged, member, spec, i):
                array[...] = block * scale


def count_blocks(parameters: Parameters) -> int:
    """The largest number of equal blocks, of whole panels, of which all matrices are the diagonal.

    Those of the output layer and of a one-hot input do not count: they are never block-diagonal.
    1 for a model that is no average.
    """
    units = _block_diagonal(parameters)[0].shape[1]
    for count in range(min(MAX_ENSEMBLE, units), 1, -1):
        height, rest = divmod(units, count)
        if not rest and padded(height) == height and is_average(parameters, count):
            return count
    return 1


def is_average(parameters: Parameters, count: int) -> bool:
    """Whether all matrices have `count` equal blocks on the diagonal and are zero elsewhere."""
    return all(_has_blocks(matrix, count) for matrix in _block_diagonal(parameters))


def _block_diagonal(parameters: Parameters) -> list[Array]:
    """The matrices (G, H, D) that are block-diagonal in an average."""
    names = [n for n, spec in parameters.specs.items() if spec.role in BLOCK_DIAGONAL]
    return [parameters.view(name) for name in names]


def _has_blocks(matrix: Array, count: int) -> bool:
    """Whether matrix (G, H, D) is zero outside `count` equal blocks on its diagonal."""
    _, units, inputs = matrix.shape
    if count == 1:
        return True
    if inputs % count or matrix[0, 0, -1]:  # nearly all others end here
        return False
    height, width = units // count, inputs // count
    for i in range(count):
        rows = matrix[:, i * height : (i + 1) * height]
        if rows[:, :, : i * width].any() or rows[:, :, (i + 1) * width :].any():
            return False
    return True


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
    if spec.role in BLOCK_DIAGONAL:  # (G, H, D)
        return whole, _block(source.shape[1], i), _block(source.shape[2], i)
    return whole, _block(source.shape[1], i)  # (G, H, V) of one-hot input, (G, H) of a bias


def _block(size: int, i: int) -> slice:
    return slice(i * size, (i + 1) * size)
