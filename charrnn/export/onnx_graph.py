"""A model as an ONNX graph of standard operators, of operator set 17 (ONNX 1.12).

Inputs and outputs, for T steps of B texts; ids are int64, other values float32:

    ids                 (T, B)      what is read
    h, c                (L, B, H)   the states of the layers; c of an LSTM only
    recent              (N - 1, B)  of a model with n-grams of up to N ids: the ids read before, the
                                    last one last; -1 before the first
    logits              (T, B, V)   of the id after each of `ids`
    h_next, c_next, recent_next     what the next call needs

The states before a text are zero, and `recent` is -1. In a model of records, the id that ends a
record begins the next one: it may stand in the first row of `ids` only, where it clears the states.
The metadata property "charrnn" holds `sampling_data` in JSON.

An average of several models is a layer of as many operators, side by side. A layer whose input is
one-hot gets the sum of rows of its table, which an identity matrix multiplies: those rows are all
gates already.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import UsageError
from ..network.arrays import Array
from ..network.averaging import count_blocks
from ..network.model import Model
from ..text.vocabulary import Vocabulary
from .contents import matrices, sampling_data

OPERATOR_SET, IR_VERSION = 17, 8
MAX_BYTES = 2**31 - 2**20  # of a file in the format of protocol buffers, with space for the graph
# The operator of each cell, and the place in our gates of each of its gates: i o f c, z r h.
OPERATORS: dict[str, tuple[str, tuple[int, ...], dict[str, int]]] = {
    "rnn": ("RNN", (0,), {}),
    "lstm": ("LSTM", (0, 3, 1, 2), {}),
    "lstm-peephole": ("LSTM", (0, 3, 1, 2), {}),
    "gru": ("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "gru-original": ("GRU", (1, 0, 2), {"linear_before_reset": 0}),
}
STATES = ("h", "c")
Name = str  # of a value of the graph


def export_onnx(model: Model, vocabulary: Vocabulary) -> bytes:
    """The model as an ONNX file. Raises UsageError if it is too large for one."""
    if model.config.num_parameters() * 4 > MAX_BYTES:
        raise UsageError("the model is larger than 2 GB, too large for an ONNX file.")
    proto = _Network(model).proto()
    data = sampling_data(model, vocabulary) | {"backward": model.config.backward}
    helper.set_model_props(proto, {"charrnn": json.dumps(data)})
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content


class _Graph:
    """Nodes and constants of a graph that is being built."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: Name, **attributes: Any) -> Name:
        """Add a node with one output; return its name."""
        return self.add_all(operator, inputs, 1, **attributes)[0]

    def add_all(
        self, operator: str, inputs: Sequence[Name], outputs: int, **attributes: Any
    ) -> list[Name]:
        names = [f"{operator}_{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def named(self, name: Name, value: Name) -> None:
        """Give a value the name of an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))

    def constant(self, array: Any) -> Name:
        array = np.asarray(array)
        name = f"constant_{len(self.constants)}"
        kind = np.float32 if array.dtype.kind == "f" else array.dtype
        array = np.ascontiguousarray(array, kind)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def split(self, value: Name, count: int, axis: int) -> list[Name]:
        return [value] if count == 1 else self.add_all("Split", [value], count, axis=axis)

    def joined(self, values: Sequence[Name], axis: int) -> Name:
        return values[0] if len(values) == 1 else self.add("Concat", *values, axis=axis)


class _Network:
    """The graph of a model, see the module."""

    def __init__(self, model: Model) -> None:
        self._model, self._config, self._graph = model, model.config, _Graph()
        self._blocks, self._tensors = count_blocks(model.parameters), matrices(model)
        self._operator, order, self._attributes = OPERATORS[model.config.cell]
        self._order = np.array(order)
        self._states = STATES[: model.cell.STATES]
        self._size = model.config.hidden_size // self._blocks  # units of an operator

    def proto(self) -> Any:
        graph, states = self._graph, dict(zip(self._states, self._states, strict=True))
        recent = "recent"
        if self._config.record_end_id >= 0:
            states, recent = self._cleared(states, recent)
        outputs = self._layers(self._inputs(recent), states)
        weight = graph.constant(self._tensors["output.weight"].T)
        logits = graph.add("MatMul", outputs, weight)
        bias = graph.constant(self._tensors["output.bias"])
        graph.named("logits", graph.add("Add", logits, bias))
        proto = helper.make_graph(graph.nodes, "charrnn", *self._values(), graph.constants)
        sets = [helper.make_opsetid("", OPERATOR_SET)]
        return helper.make_model(
            proto, opset_imports=sets, ir_version=IR_VERSION, producer_name="charrnn"
        )

    def _values(self) -> tuple[list[Any], list[Any]]:
        """The inputs and the outputs."""
        c = self._config
        state = TensorProto.FLOAT, [c.num_layers, "B", c.hidden_size]
        inputs: dict[str, Any] = {"ids": (TensorProto.INT64, ["T", "B"])}
        outputs: dict[str, Any] = {"logits": (TensorProto.FLOAT, ["T", "B", c.vocab_size])}
        inputs |= dict.fromkeys(self._states, state)
        outputs |= {f"{name}_next": state for name in self._states}
        if c.ngrams > 1:
            recent = TensorProto.INT64, [c.ngrams - 1, "B"]
            inputs["recent"] = outputs["recent_next"] = recent
        both = [
            [helper.make_tensor_value_info(name, *value) for name, value in group.items()]
            for group in (inputs, outputs)
        ]
        return both[0], both[1]

    # --- what the first layer reads

    def _cleared(self, states: dict[str, Name], recent: Name) -> tuple[dict[str, Name], Name]:
        """The states and the ids before, without those of texts that begin with a record's end."""
        graph = self._graph
        first = graph.add("Gather", "ids", graph.constant([0]), axis=0)  # (1, B)
        is_end = graph.add("Equal", first, graph.constant(self._config.record_end_id))
        by_unit = graph.add("Unsqueeze", is_end, graph.constant([2]))
        nothing = graph.constant(0.0)
        cleared = {k: graph.add("Where", by_unit, nothing, v) for k, v in states.items()}
        if self._config.ngrams > 1:
            recent = graph.add("Where", is_end, graph.constant(-1), recent)
        return cleared, recent

    def _inputs(self, recent: Name) -> list[Name]:
        """The input (T, B, D / M) of each block of the first layer."""
        graph, table = self._graph, self._tensors["table"]
        if not self._config.embedding_size:
            table = self._by_blocks(table)
        rows = graph.constant(np.vstack([table, np.zeros_like(table[:1])]))
        total = graph.add("Gather", rows, "ids")
        for found in self._ngram_rows(recent):
            total = graph.add("Add", total, graph.add("Gather", rows, found))
        return graph.split(total, self._blocks, axis=2)

    def _by_blocks(self, table: Array) -> Array:
        """A table of rows of gates (K, G H), by blocks, in the order of the operator's gates."""
        parts = table.reshape(len(table), -1, self._blocks, self._size)
        return parts[:, self._order].transpose(0, 2, 1, 3).reshape(table.shape)

    def _ngram_rows(self, recent: Name) -> list[Name]:
        """For each length of n-grams, the rows (T, B) of those that end with each id.

        The last row of the table stands for none and holds zeros.
        """
        c, graph = self._config, self._graph
        if c.ngrams == 1:
            return []
        read = graph.add("Concat", recent, "ids", axis=0)
        graph.named("recent_next", self._slice(read, 1 - c.ngrams, 2**62))
        ends = [2**62, *range(-1, -c.ngrams, -1)]
        back = [self._slice(read, c.ngrams - 1 - k, end) for k, end in enumerate(ends)]
        back = [graph.add("Unsqueeze", ids, graph.constant([2])) for ids in back]
        none = graph.constant(c.vocab_size + c.num_ngrams)
        found, first = [], c.vocab_size
        for level in filter(len, self._model.ngrams.table):
            same = [
                graph.add("Equal", back[k], graph.constant(level[:, -1 - k].astype(np.int64)))
                for k in range(level.shape[1])
            ]
            numbers = graph.constant(np.arange(first, first + len(level)))
            known = graph.add("Where", self._all(same), numbers, none)
            found.append(graph.add("ReduceMin", known, axes=[2], keepdims=0))
            first += len(level)
        return found

    def _all(self, conditions: list[Name]) -> Name:
        total = conditions[0]
        for other in conditions[1:]:
            total = self._graph.add("And", total, other)
        return total

    def _slice(self, value: Name, start: int, end: int) -> Name:
        """The rows start:end of the first axis."""
        bounds = (self._graph.constant([k]) for k in (start, end, 0))
        return self._graph.add("Slice", value, *bounds)

    # --- the layers

    def _layers(self, inputs: list[Name], states: dict[str, Name]) -> Name:
        """The outputs (T, B, H) of the last layer."""
        graph, layers = self._graph, self._config.num_layers
        by_layer = {name: graph.split(value, layers, axis=0) for name, value in states.items()}
        after: dict[str, list[Name]] = {name: [] for name in states}
        for k in range(layers):
            parts = [graph.split(by_layer[name][k], self._blocks, axis=2) for name in states]
            results = [
                self._block(k, m, inputs[m], [part[m] for part in parts])
                for m in range(self._blocks)
            ]
            inputs = [outputs for outputs, *_ in results]
            for i, name in enumerate(states):
                after[name].append(graph.joined([ends[i + 1] for ends in results], axis=2))
        for name, ends in after.items():
            graph.named(f"{name}_next", graph.joined(ends, axis=0))
        return graph.joined(inputs, axis=2)

    def _block(self, k: int, m: int, x: Name, states: list[Name]) -> list[Name]:
        """The outputs (T, B, H / M) of block m of layer k, and its states after them."""
        graph, tensors = self._graph, self._tensors
        name = f"rnn.weight_ih_l{k}"
        w = self._weight(tensors[name], m) if name in tensors else self._identity()
        u = self._weight(tensors[f"rnn.weight_hh_l{k}"], m)
        biases = [self._gates(tensors[f"rnn.bias_{kind}_l{k}"], m) for kind in ("ih", "hh")]
        inputs = [x, w, u, graph.constant(np.concatenate(biases)[None]), "", *states]
        peepholes = [tensors[n] for gate in "iof" if (n := f"rnn.weight_c{gate}_l{k}") in tensors]
        if peepholes:
            units = slice(m * self._size, (m + 1) * self._size)
            inputs.append(graph.constant(np.concatenate([p[units] for p in peepholes])[None]))
        results = graph.add_all(
            self._operator, inputs, 1 + len(states), hidden_size=self._size, **self._attributes
        )
        results[0] = graph.add("Squeeze", results[0], graph.constant([1]))  # directions
        return results

    def _weight(self, tensor: Array, m: int) -> Name:
        return self._graph.constant(self._gates(tensor, m)[None])

    def _gates(self, tensor: Array, m: int) -> Array:
        """The rows of block m of a tensor (G H, ...), in the order of the operator's gates."""
        parts = tensor.reshape(-1, self._blocks, self._size, *tensor.shape[1:])
        rows: Array = parts[self._order, m].reshape(-1, *tensor.shape[1:])
        return rows

    def _identity(self) -> Name:
        """The matrix (1, G H / M, G H / M) that passes gates on; made when a model is loaded."""
        graph, width = self._graph, len(self._order) * self._size
        value = numpy_helper.from_array(np.zeros(1, np.float32))
        zeros = graph.add("ConstantOfShape", graph.constant([width, width]), value=value)
        return graph.add("Unsqueeze", graph.add("EyeLike", zeros), graph.constant([0]))
