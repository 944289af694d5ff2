"""Agreement of charrnn with other implementations: PyTorch and ONNX.

Their results are stored in golden/, with the scripts that wrote them; torch itself is needed only
to load a model file into a torch module.
"""

import textwrap
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from helpers import gradcheck, naive
from helpers.random_models import ngram_tuples, problem
from safetensors.numpy import load_file

import charrnn
from charrnn.config import ModelConfig
from charrnn.network.carried_state import CarriedState
from charrnn.network.model import Model
from charrnn.network.optimizers import OPTIMIZERS
from charrnn.network.stack import forward, loss_and_gradients
from charrnn.storage.checkpoint import save_model
from charrnn.text.vocabulary import CharVocabulary

GOLDEN = Path(__file__).parents[1] / "golden"
PYTORCH = load_file(GOLDEN / "pytorch.safetensors")
PYTORCH_NGRAMS = load_file(GOLDEN / "pytorch-ngrams.safetensors")
ONNX = load_file(GOLDEN / "onnx.safetensors")

every_case = pytest.mark.parametrize("kind", ["one-hot", "embedding"])
every_depth = pytest.mark.parametrize("num_layers", [1, 2])
every_cell = pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])


def subset(prefix, tensors):
    """{rest of the name: tensor} of the names that start with `prefix`/."""
    start = prefix + "/"
    return {name[len(start) :]: a for name, a in tensors.items() if name.startswith(start)}


def config_of(cell, weights, num_layers=1):
    """The shape of the model that has these tensors."""
    V, H = weights["rnn.weight_ih_l0"].shape[1], weights["rnn.weight_hh_l0"].shape[1]
    E = 0
    if "embedding.weight" in weights:
        V, E = weights["embedding.weight"].shape
    return ModelConfig(V, cell, hidden_size=H, num_layers=num_layers, embedding_size=E)


def with_ngrams(name):
    """A case with n-grams: config, weights, x, y, state, the table and the expected results."""
    case = subset(name, PYTORCH_NGRAMS)
    weights, state = subset("weight", case), case["state"]
    table = tuple(case[f"ngrams/{n}"].astype(np.int32) for n in (2, 3))
    V, E = len(weights["output.bias"]), weights.get("embedding.weight", np.empty((0, 0))).shape[1]
    config = ModelConfig(
        V, name.split("-")[0], state.shape[-1], 1, E, ngrams=3, num_ngrams=sum(map(len, table))
    )
    return config, weights, case["x"], case["y"], state, table, case


def loaded_model(config, weights, dtype=np.float64, ngrams=()):
    model = Model(config, dtype=dtype, ngrams=ngrams)
    model.load_state_dict(weights)
    return model


# --- the reference implementation itself ---


@every_cell
@every_depth
@every_case
def test_reference_agrees_with_pytorch(cell, num_layers, kind):
    case = subset(f"{cell}-{num_layers}-{kind}", PYTORCH)
    weights, expected = subset("weight", case), subset("float64", case)
    config = config_of(cell, weights, num_layers)
    x, y, state = case["x"], case["y"], case["state"].astype(float)
    logits, end_state = naive.forward(weights, config, x, state)
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-14)
    np.testing.assert_allclose(end_state, expected["end_state"], rtol=0, atol=1e-14)
    loss, _ = naive.loss(weights, config, x, y, state)
    assert loss == pytest.approx(float(expected["loss"]), rel=1e-14)


every_ngram_case = pytest.mark.parametrize("name", ["lstm-1-multi-hot", "gru-1-bag"])


@every_ngram_case
def test_reference_with_ngrams_agrees_with_pytorch(name):
    config, weights, x, y, state, table, case = with_ngrams(name)
    known, expected = [tuple(g) for level in table for g in level], subset("float64", case)
    assert naive.tensor_shapes(config) == {name: w.shape for name, w in weights.items()}
    logits, end_state = naive.forward(weights, config, x, state.astype(float), known)
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-14)
    np.testing.assert_allclose(end_state, expected["end_state"], rtol=0, atol=1e-14)


def onnx_problem(cell):
    """config, weights, x, state and the expected outputs h and end state.

    V > H: the first H rows of the output weights are the identity, so that these logits are h.
    """
    case = subset(cell, ONNX)
    weights = subset("weight", case)
    config = config_of(cell, weights)
    V, H = config.vocab_size, config.hidden_size
    weights |= {"output.weight": np.eye(V, H), "output.bias": np.zeros(V)}
    return config, weights, case["x"], case["state"], case["outputs"], case["end_state"]


@pytest.mark.parametrize("cell", ["lstm-peephole", "gru-original"])
def test_cells_that_pytorch_lacks_agree_with_onnx(cell):
    config, weights, x, state, outputs, end_state = onnx_problem(cell)
    model = loaded_model(config, weights)
    found, found_end = forward(model, x, model.zero_state(x.shape[1])._replace(hidden=state))
    for logits, end in (found, found_end.hidden), naive.forward(weights, config, x, state):
        np.testing.assert_allclose(logits[..., : config.hidden_size], outputs, rtol=0, atol=1e-14)
        np.testing.assert_allclose(end, end_state, rtol=0, atol=1e-14)


# --- PyTorch ---


@every_cell
@every_depth
@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("float64", 1e-13)])
def test_logits_loss_and_gradients_agree_with_pytorch(cell, num_layers, kind, dtype, tolerance):
    case = subset(f"{cell}-{num_layers}-{kind}", PYTORCH)
    weights, expected = subset("weight", case), subset(dtype, case)
    model = loaded_model(config_of(cell, weights, num_layers), weights, np.dtype(dtype))
    x, y, state = case["x"], case["y"], case["state"].astype(dtype)
    require_results(model, x, y, state, expected, tolerance)


def require_results(model, x, y, hidden, expected, tolerance):
    state = model.zero_state(x.shape[1])._replace(hidden=hidden)
    loss, gradients, end, gradients["state"] = loss_and_gradients(model, x, y, state)
    results = {"loss": loss, "logits": forward(model, x, state)[0], "end_state": end.hidden}
    results |= {f"gradient/{name}": g for name, g in gradients.items()}
    assert set(results) == set(expected)
    for name, a in results.items():
        assert gradcheck.scaled_error(a, expected[name]) < tolerance, name


@every_ngram_case
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("float64", 1e-13)])
def test_models_with_ngrams_agree_with_pytorch(name, dtype, tolerance):
    config, weights, x, y, state, table, case = with_ngrams(name)
    model = loaded_model(config, weights, np.dtype(dtype), ngrams=table)
    require_results(model, x, y, state.astype(dtype), subset(dtype, case), tolerance)


@pytest.mark.parametrize(
    ("case", "name", "options"),
    [
        ("adam", "adam", {"beta2": 0.999}),
        ("adamw", "adam", {"beta2": 0.95, "weight_decay": 0.1}),
        ("rmsprop", "rmsprop", {"alpha": 0.95}),
        ("adagrad", "adagrad", {}),
        ("sgd", "sgd", {"momentum": 0.9}),
    ],
)
def test_optimizers_agree_with_pytorch(case, name, options):
    golden = subset("optim", PYTORCH)
    p = golden["start"].copy()
    optimizer = OPTIMIZERS[name](p.size, dtype=p.dtype, **options)
    steps = []
    for g, rate in zip(golden["gradients"], golden["rates"], strict=True):
        optimizer.step(p, g.copy(), float(rate))
        steps.append(p.copy())
    np.testing.assert_allclose(steps, golden[case], rtol=1e-13, atol=1e-14)


def torch_module(torch, config):
    """The module whose state_dict a model file holds, as the README says."""
    V, H, E = config.vocab_size, config.hidden_size, config.embedding_size
    kinds = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    inputs = V + config.num_ngrams
    parts = {"embedding": torch.nn.Embedding(inputs, E)} if E else {}
    parts["rnn"] = kinds[config.cell](E or inputs, H, config.num_layers)
    parts["output"] = torch.nn.Linear(H, V)
    return torch.nn.ModuleDict(parts)


@every_cell
@pytest.mark.parametrize("embedding_size", [0, 6])
@pytest.mark.parametrize("ngrams", [1, 3])
def test_model_file_loads_into_a_torch_module(cell, embedding_size, ngrams, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_into_torch

    size = 4, 3, 7, 17, embedding_size, 2
    model, _, x, _, _ = problem(cell, size, np.float32, ngrams=ngrams)
    config, path = model.config, tmp_path / "model.safetensors"
    texts = CharVocabulary("abcdefg"), {}, None, model.ngrams.table
    save_model(path, model.state_dict(), asdict(config), *texts)

    module = torch_module(torch, config)
    module.load_state_dict(load_into_torch(path), strict=True)
    known = ngram_tuples(model)
    hot = [[naive.multi_hot(x[: t + 1, n].tolist(), 7, known) for n in range(3)] for t in range(4)]
    with torch.no_grad():
        v = torch.tensor(np.array(hot, np.float32))
        v = v @ module["embedding"].weight if embedding_size else v
        expected = module["output"](module["rnn"](v)[0]).numpy()
    logits, _ = forward(model, x, model.zero_state(3))
    assert gradcheck.scaled_error(logits, expected) < 3e-6


def test_the_example_of_the_readme_predicts_as_charrnn_does(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    text = "Once upon a time there was a boat. " * 40
    (tmp_path / "corpus.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    settings = {"hidden_size": 12, "num_layers": 2, "steps": 20}
    model = charrnn.train("corpus.txt", "model.safetensors", **settings).model
    assert model.ngrams.size > 20
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (example,) = (part for part in readme.split("```")[1::2] if "import json, safetensors" in part)
    example = textwrap.dedent(example.removeprefix("python\n"))
    found = {}
    with torch.no_grad():
        exec(example, found)
        assert len(found["text"]) == 216 and set(found["text"]) <= set(text)
        exec(example.replace("range(200)", "range(1)"), found)
    ids = CharVocabulary("".join(sorted(set(text)))).encode("Once upon a time")
    logits, _ = forward(model, ids[:, None], model.zero_state(1))
    assert gradcheck.scaled_error(found["logits"].numpy(), logits[:, 0]) < 3e-6


@every_cell
@every_depth
@every_case
def test_from_torch_gives_the_logits_of_pytorch(cell, num_layers, kind):
    case = subset(f"{cell}-{num_layers}-{kind}", PYTORCH)
    weights = subset("weight", case)
    characters = "".join(map(chr, range(97, 97 + len(weights["output.bias"]))))
    model = charrnn.from_torch(weights, characters, cell).model
    recent = np.zeros((0, case["x"].shape[1]), np.int32)
    logits, _ = forward(model, case["x"], CarriedState(case["state"], recent))
    np.testing.assert_allclose(logits, case["float64/logits"], rtol=1e-4, atol=1e-5)
