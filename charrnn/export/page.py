"""A web page that holds a model and writes text with it: one file without requests."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from itertools import islice
from typing import Any

import numpy as np

from ..config import TensorRole, TensorSpec
from ..evaluation.loss import mean_loss
from ..generation.sampler import SamplingOptions, generate
from ..network.arrays import Array
from ..network.averaging import count_blocks
from ..network.model import Model
from ..text.records import separator_of
from ..text.vocabulary import Vocabulary

MAX_LOSS = 0.01  # nats a character that eight bits may lose
TESTED = 2000  # characters that the loss is measured on
TYPES = {32: "float32", 16: "float16", 8: "int8"}


def export_page(
    model: Model, vocabulary: Vocabulary, title: str, description: str, bits: int
) -> Iterator[bytes]:
    """Yield the parts of the page, in UTF-8. `bits` of each weight: 8, 16 or 32.

    Title, description and the model's characters become text, whatever they hold.
    """
    style, script = _file("page.css"), _file("page.js")
    values = {
        "TITLE": escape(title),
        "DESCRIPTION": escape(description),
        "STYLE": style,
        "STYLE_HASH": _hash(style),
        "SCRIPT": script,
        "SCRIPT_HASH": _hash(script),
        "SAMPLER": _file("sampler.js"),
        "WORKER": _file("worker.js"),
        "MODEL": _json_in_html(model_data(model, vocabulary, bits)),
    }
    for part in re.split("@([A-Z_]+)@", _file("page.html")):
        yield values.get(part, part).encode()


def choose_bits(model: Model, vocabulary: Vocabulary) -> tuple[int, float]:
    """Choose 8 bits a weight if they lose less than MAX_LOSS, else 16; return the loss in nats.

    It is measured on a text that the model writes.
    """
    options = SamplingOptions(allowed=vocabulary.writable)
    prime = np.array([] if len(model.start.ids) else [vocabulary.line_start], np.int32)
    written = generate(model, prime, np.random.default_rng(0), options)
    ids = np.fromiter(islice(written, TESTED), np.int32)
    rounded = Model(model.config, threads=model.team.size, ngrams=model.ngrams.table)
    rounded.start = model.start
    for bits in 8, 16:
        rounded.load_state_dict(_rounded(model, bits))
        lost = mean_loss(rounded, ids) - mean_loss(model, ids)
        if lost < MAX_LOSS:
            break
    return bits, lost


def model_data(model: Model, vocabulary: Vocabulary, bits: int) -> dict[str, Any]:
    """What sampler.js needs of a model, for JSON."""
    c, end_id = model.config, model.config.record_end_id
    tensors = {name: _encoded(a, bits) for name, a in _matrices(model).items()}
    separator = separator_of(vocabulary, end_id) if end_id >= 0 else ""
    return {
        "cell": c.cell,
        "units": c.hidden_size,
        "blocks": count_blocks(model.parameters),
        "states": model.zero_state(1).hidden.shape[1],
        "embeddingSize": c.embedding_size,
        "rows": c.vocab_size + c.num_ngrams,
        "characters": vocabulary.characters,
        "unknown": vocabulary.unknown_id,
        "writable": vocabulary.writable.tolist(),
        "recordEnd": end_id,
        "separator": separator,
        "separatorId": end_id if len(separator) > 1 else -1,
        "lineStart": vocabulary.line_start,
        "ngrams": [ngram for level in model.ngrams.table for ngram in level.tolist()],
        "starts": _starts(model),
        "layers": [_layer(tensors, k) for k in range(c.num_layers)],
        "table": tensors["table"],
        "outputWeight": tensors["output.weight"],
        "outputBias": tensors["output.bias"],
    }


def _layer(tensors: dict[str, Any], k: int) -> dict[str, Any]:
    peepholes = [tensors[n] for gate in "ifo" if (n := f"rnn.weight_c{gate}_l{k}") in tensors]
    return {
        "input": tensors.get(f"rnn.weight_ih_l{k}"),
        "hidden": tensors[f"rnn.weight_hh_l{k}"],
        "inputBias": tensors[f"rnn.bias_ih_l{k}"],
        "hiddenBias": tensors[f"rnn.bias_hh_l{k}"],
        "peepholes": peepholes or None,
    }


def _starts(model: Model) -> dict[str, Any] | None:
    start = model.start
    if not len(start.ids):
        return None
    states = np.moveaxis(start.states.hidden, 2, 0)  # (K, layers, states, units)
    return {
        "id": int(start.ids[0]),
        "states": _encoded(states.reshape(1, -1), 32),
        "recent": start.states.recent.T.tolist(),
    }


def _matrices(model: Model) -> dict[str, Array]:
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


def _rounded(model: Model, bits: int) -> dict[str, Array]:
    """The weights of a model as the page has them, in PyTorch's shapes."""
    tensors = model.parameters.state_dict()
    for spec in model.config.tensor_specs():
        by_columns = spec.role is TensorRole.ONE_HOT_WEIGHT
        tensor = tensors[spec.name].T if by_columns else tensors[spec.name]
        if tensor.ndim > 1:
            values, scales = _quantised(tensor, bits)
            tensor = values.astype(np.float32) * scales
        tensors[spec.name] = tensor.T if by_columns else tensor
    return tensors


def _quantised(tensor: Array, bits: int) -> tuple[Array, Array]:
    """A matrix in `bits` bits, and what to multiply its rows by (rows, 1)."""
    ones = np.ones((len(tensor), 1), np.float32)
    if bits > 8:
        return tensor.astype(f"<f{bits // 8}"), ones
    scales = np.abs(tensor).max(axis=1, keepdims=True, initial=0).astype("<f4") / 127
    scales = np.where(scales > 0, scales, ones)
    return np.rint(tensor / scales).clip(-127, 127).astype(np.int8), scales


def _encoded(tensor: Array, bits: int) -> dict[str, str]:
    """A tensor for JSON; vectors keep 32 bits."""
    bits = bits if tensor.ndim > 1 else 32
    values, scales = _quantised(np.atleast_2d(tensor), bits)
    encoded = {"type": TYPES[bits], "data": _base64(values)}
    return encoded | {"scales": _base64(scales.astype("<f4"))} if bits == 8 else encoded


def _base64(array: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _json_in_html(data: dict[str, Any]) -> str:
    """JSON without a character that could end the element of the page that holds it."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
