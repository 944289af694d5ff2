"""What exported models have in common: the weights by blocks, and the data that sampling needs."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from ..config import TensorRole, TensorSpec
from ..network.arrays import Array
from ..network.averaging import count_blocks
from ..network.model import Model
from ..text.records import separator_of
from ..text.vocabulary import Vocabulary


def sampling_data(model: Model, vocabulary: Vocabulary) -> dict[str, Any]:
    """What a program needs to sample, besides the weights, for JSON. Numbers are ids; -1: none.

    characters: a string, whose character i has the id i; None if ids are bytes.
    writable: whether each id may be written. lineStart: the id to begin with if nothing is known.
    recordEnd, separator: the end of a record, and the text that stands for it; separatorId: its id
        if that text is not one character of `characters`.
    ngrams: lists of ids. Row V + k of the lookup table belongs to ngrams[k].
    starts: None, or where texts start: `states` (K, layers, states, units), base64 of float32 in
        little-endian order, each before the id `id` is read; `recent`, the ids before it.
    """
    end_id = model.config.record_end_id
    separator = separator_of(vocabulary, end_id) if end_id >= 0 else ""
    return {
        "cell": model.config.cell,
        "units": model.config.hidden_size,
        "states": model.zero_state(1).hidden.shape[1],
        "characters": vocabulary.characters,
        "unknown": vocabulary.unknown_id,
        "writable": vocabulary.writable.tolist(),
        "recordEnd": end_id,
        "separator": separator,
        "separatorId": end_id if len(separator) > 1 else -1,
        "lineStart": vocabulary.line_start,
        "ngrams": [ngram for level in model.ngrams.table for ngram in level.tolist()],
        "starts": _starts(model),
    }


def _starts(model: Model) -> dict[str, Any] | None:
    start = model.start
    if not len(start.ids):
        return None
    states = np.moveaxis(start.states.hidden, 2, 0)  # (K, layers, states, units)
    return {
        "id": int(start.ids[0]),
        "states": base64_of(states.astype("<f4")),
        "recent": start.states.recent.T.tolist(),
    }


def matrices(model: Model) -> dict[str, Array]:
    """The weights by name; of a block-diagonal matrix the blocks, and the lookup table by rows."""
    blocks, tensors = count_blocks(model.parameters), model.parameters.state_dict()
    found = {}
    for spec in model.config.tensor_specs():
        tensor = tensors[spec.name]
        if spec.is_lookup_table:
            found["table"] = tensor if spec.role is TensorRole.EMBEDDING else tensor.T
        elif spec.role in (TensorRole.INPUT_WEIGHT, TensorRole.RECURRENT_WEIGHT):
            found[spec.name] = _diagonal(tensor, spec, blocks)
        else:
            found[spec.name] = tensor
    return found


def _diagonal(tensor: Array, spec: TensorSpec, blocks: int) -> Array:
    """The blocks (G H, D / M) on the diagonals of the gates of a matrix (G H, D)."""
    rows, columns = tensor.shape
    parts = tensor.reshape(spec.gates, blocks, rows // spec.gates // blocks, blocks, -1)
    diagonal = np.stack([parts[:, m, :, m] for m in range(blocks)], axis=1)
    return diagonal.reshape(rows, columns // blocks)


def base64_of(array: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
