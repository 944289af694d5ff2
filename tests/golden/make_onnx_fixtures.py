"""Write onnx.safetensors: the results of the ONNX operators for the two cells PyTorch lacks.

Run it by hand where onnx is installed, and check the difference before committing it:

    python tests/golden/make_onnx_fixtures.py

ONNX's LSTM accepts peepholes (lstm-peephole), its GRU linear_before_reset=0 (gru-original). Its
reference evaluator runs them in float64. For each cell the file holds the inputs
`<cell>/weight/<name>` of one layer in charrnn's names and gate order, `/x` (T, N) ids and
`/state` (1, S, N, H), and the results `/outputs` (T, N, H) and `/end_state`.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import save_file

T, N, V, H = 6, 3, 7, 5
# The index in our gate order of each gate in ONNX's: iofc in i f g o; zrh in r z n.
LSTM_ORDER, GRU_ORDER = (0, 3, 1, 2), (1, 0, 2)


def reorder(a, order):
    """The blocks of H rows of `a` in ONNX's gate order, with ONNX's leading axis for direction."""
    return np.concatenate([a[gate * H : (gate + 1) * H] for gate in order])[None]


def run(operator, inputs, outputs, **attributes):
    """Evaluate the operator on inputs {name: array or None}; returns its outputs."""
    given = {name: a for name, a in inputs.items() if a is not None}
    names = [name if name in given else "" for name in inputs]
    node = helper.make_node(operator, names, outputs, hidden_size=H, **attributes)
    values = [
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in group]
        for group in (given, outputs)
    ]
    graph = helper.make_graph([node], operator, *values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    return ReferenceEvaluator(model).run(None, given)


def random_layer(rng, gates, states):
    shapes = {"weight_ih": (gates * H, V), "weight_hh": (gates * H, H)}
    shapes |= {"bias_ih": (gates * H,), "bias_hh": (gates * H,)}
    weights = {name: rng.uniform(-1, 1, shape) for name, shape in shapes.items()}
    return weights, rng.integers(0, V, (T, N)), rng.uniform(-1, 1, (1, states, N, H))


def operands(weights, x, state, order):
    """The inputs that LSTM and GRU have in common, in the operators' order."""
    biases = [reorder(weights[name], order) for name in ("bias_ih", "bias_hh")]
    return {
        "X": np.eye(V)[x],
        "W": reorder(weights["weight_ih"], order),
        "R": reorder(weights["weight_hh"], order),
        "B": np.concatenate(biases, axis=1),
        "sequence_lens": None,
        "initial_h": state[:, 0],
    }


def peephole_case(rng):
    weights, x, state = random_layer(rng, gates=4, states=2)
    weights |= {f"weight_c{gate}": rng.uniform(-1, 1, H) for gate in "ifo"}
    inputs = operands(weights, x, state, LSTM_ORDER)
    inputs["initial_c"] = state[:, 1]
    inputs["P"] = np.concatenate([weights[f"weight_c{gate}"] for gate in "iof"])[None]
    outputs, h, c = run("LSTM", inputs, ["Y", "Y_h", "Y_c"])
    return case(weights, x, state, outputs, np.stack([h, c], axis=1))


def gru_original_case(rng):
    weights, x, state = random_layer(rng, gates=3, states=1)
    inputs = operands(weights, x, state, GRU_ORDER)
    outputs, h = run("GRU", inputs, ["Y", "Y_h"], linear_before_reset=0)
    return case(weights, x, state, outputs, h[:, None])


def case(weights, x, state, outputs, end_state):
    """{key: array} of a cell; removes ONNX's axis for direction from the outputs."""
    result = {f"weight/rnn.{name}_l0": a for name, a in weights.items()}
    return result | {"x": x, "state": state, "outputs": outputs[:, 0], "end_state": end_state}


def main():
    rng = np.random.default_rng(0)
    cases = {"lstm-peephole": peephole_case(rng), "gru-original": gru_original_case(rng)}
    tensors = {f"{cell}/{key}": a for cell, c in cases.items() for key, a in c.items()}
    path = Path(__file__).with_name("onnx.safetensors")
    tensors = {key: np.ascontiguousarray(a) for key, a in tensors.items()}
    save_file(tensors, path, metadata={"onnx": onnx.__version__})


if __name__ == "__main__":
    main()
