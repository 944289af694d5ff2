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

from ..config import TensorRole
from ..evaluation.loss import mean_loss
from ..generation.sampler import SamplingOptions, generate
from ..network.arrays import Array
from ..network.averaging import count_blocks
from ..network.model import Model
from ..text.vocabulary import Vocabulary
from .contents import base64_of, matrices, sampling_data

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
    c = model.config
    tensors = {name: _encoded(a, bits) for name, a in matrices(model).items()}
    return sampling_data(model, vocabulary) | {
        "blocks": count_blocks(model.parameters),
        "embeddingSize": c.embedding_size,
        "rows": c.vocab_size + c.num_ngrams,
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
    encoded = {"type": TYPES[bits], "data": base64_of(values)}
    return encoded | {"scales": base64_of(scales.astype("<f4"))} if bits == 8 else encoded


def _json_in_html(data: dict[str, Any]) -> str:
    """JSON without a character that could end the element of the page that holds it."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
