"""Models exported to ONNX, run by onnxruntime."""

import base64
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.random_models import model_of
from helpers.runs import trained

import charrnn
from charrnn.config import ModelConfig
from charrnn.errors import UsageError
from charrnn.network.cells import CELLS
from charrnn.network.stack import forward
from charrnn.text.vocabulary import SEPARATOR, UNKNOWN, ByteVocabulary, CharVocabulary

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from charrnn.export import onnx_graph  # noqa: E402
from charrnn.export.onnx_graph import export_onnx  # noqa: E402

LETTERS = "\nabcdefghij"
README = (Path(__file__).parents[1] / "README.md").read_text()


class Runtime:
    """An exported model in onnxruntime, and the states of `rows` texts, at first empty ones."""

    def __init__(self, content, rows=1):
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.data = json.loads(self.session.get_modelmeta().custom_metadata_map["charrnn"])
        self.state = {}
        for value in self.session.get_inputs():
            if value.name == "recent":
                self.state["recent"] = np.full((value.shape[0], rows), -1)
            elif value.name != "ids":
                shape = value.shape[0], rows, value.shape[2]
                self.state[value.name] = np.zeros(shape, np.float32)

    def logits(self, ids):
        """The logits (T, B, V) after each of ids (T, B)."""
        outputs = [value.name for value in self.session.get_outputs()]
        found = self.session.run(None, {"ids": np.asarray(ids, np.int64), **self.state})
        values = dict(zip(outputs, found, strict=True))
        self.state = {name: values[f"{name}_next"] for name in self.state}
        return values["logits"]


def require_same(model, vocabulary, ids, lengths):
    """onnxruntime predicts the same of ids (T, B), read in chunks of `lengths`."""
    runtime = Runtime(export_onnx(model, vocabulary), ids.shape[1])
    found = np.concatenate([runtime.logits(part) for part in np.split(ids, np.cumsum(lengths))])
    expected, state = forward(model, ids.astype(np.int32), model.zero_state(ids.shape[1]))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for k, name in enumerate("hc"[: model.cell.STATES]):
        np.testing.assert_allclose(runtime.state[name], state.hidden[:, k], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers, embedding", [(1, 0), (2, 6), (3, 0)])
@pytest.mark.parametrize("ngrams", [1, 4])
def test_onnxruntime_predicts_what_the_model_does(cell, layers, embedding, ngrams):
    shape = {"L": layers, "ngrams": ngrams, "embedding_size": embedding}
    model, _ = model_of(cell, V=11, H=7, scale=0.7, **shape)
    ids = np.random.default_rng(0).integers(0, 11, (200, 2))
    require_same(model, CharVocabulary(LETTERS), ids, [1, 1, 60])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding", [0, 8])
def test_averages_are_operators_side_by_side(corpus_file, tmp_path, cell, embedding):
    settings = {"ensemble": 2, "hidden_size": 16, "num_layers": 2, "cell": cell, "steps": 5}
    trained(corpus_file, tmp_path / "m", embedding_size=embedding, **settings)
    model = charrnn.load(tmp_path / "m")
    content = export_onnx(model.model, model.vocabulary)
    nodes = onnx.load_from_string(content).graph.node
    assert sum(node.op_type in ("LSTM", "GRU", "RNN") for node in nodes) == 4
    ids = model.vocabulary.encode("MARA: The tide is here.\nTOM:")[:, None]
    require_same(model.model, model.vocabulary, ids, [5])


@pytest.mark.parametrize("cell", CELLS)
def test_the_end_of_a_record_clears_the_states(cell):
    vocabulary = CharVocabulary("ab" + SEPARATOR + "c" + UNKNOWN, "; ")
    model, _ = model_of(cell, V=5, ngrams=3, record_end_id=2, scale=0.7)
    ids = np.array([[2, 2], [0, 1], [1, 2], [2, 2], [3, 0], [2, 3], [0, 4]])
    require_same(model, vocabulary, ids, [1] * 6)
    by_record = np.array([[2], [0], [1], [2], [3], [3], [2], [2], [4]])
    require_same(model, vocabulary, by_record, [3, 3, 1])
    data = Runtime(export_onnx(model, vocabulary)).data
    assert (data["recordEnd"], data["separator"], data["unknown"]) == (2, "; ", 4)


def test_bytes_and_large_vocabularies_are_exported():
    model, _ = model_of("gru", V=256, H=5, ngrams=3)
    require_same(model, ByteVocabulary(), np.array([[195], [188], [10]]), [1])
    assert Runtime(export_onnx(model, ByteVocabulary())).data["characters"] is None
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 4000)))
    model, _ = model_of("lstm", V=4000, H=4, L=1, ngrams=2, scale=0.5)
    require_same(model, CharVocabulary(characters), np.array([[0], [3999], [17], [0]]), [1])


def test_the_metadata_has_what_sampling_needs(model_file):
    model = charrnn.load(model_file)
    runtime = Runtime(export_onnx(model.model, model.vocabulary))
    data, start = runtime.data, runtime.data["starts"]
    assert data["characters"] == model.vocabulary.characters and not data["backward"]
    assert data["ngrams"] == [g for level in model.model.ngrams.table for g in level.tolist()]
    states = np.frombuffer(base64.b64decode(start["states"]), "<f4")
    states = states.reshape(-1, 1, 2, data["units"])
    runtime.state = {"h": states[0][:, :1], "c": states[0][:, 1:]}
    runtime.state["recent"] = np.array(start["recent"][0])[:, None]
    text, ids = "", [start["id"]]
    for _ in range(40):
        ids = [int(runtime.logits([ids])[-1, 0].argmax())]
        text += data["characters"][ids[0]]
    assert text == model.sample(40, temperature=0)


def test_a_model_that_reads_backwards_says_so(corpus_file, tmp_path):
    settings = {"steps": 3, "hidden_size": 8, "num_layers": 1, "backward": True}
    charrnn.train(corpus_file, tmp_path / "m", **settings)
    model = charrnn.load(tmp_path / "m")
    assert Runtime(export_onnx(model.model, model.vocabulary)).data["backward"]


def test_a_model_beyond_the_limit_of_the_format_is_refused(monkeypatch):
    model, _ = model_of("rnn", V=11, H=3)
    monkeypatch.setattr(ModelConfig, "num_parameters", lambda config: onnx_graph.MAX_BYTES // 4 + 1)
    with pytest.raises(UsageError, match="larger than 2 GB"):
        export_onnx(model, CharVocabulary(LETTERS))


# --- the command, the README


def test_the_command_writes_what_the_readme_runs(invoke, model_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("export", "-m", model_file, "-o", "model.onnx")
    assert result.exit_code == 0 and result.stdout == ""
    assert re.fullmatch(r"wrote   model.onnx, [0-9.]+ MB, ONNX operator set 17\n", result.stderr)
    before = Path("model.onnx").read_bytes()
    assert (
        "exists: give --overwrite" in invoke("export", "-m", model_file, "-o", "model.onnx").stderr
    )
    assert Path("model.onnx").read_bytes() == before
    [example] = re.findall("```python\n(import json, numpy as np, onnxruntime.*?)```", README, re.S)
    found = {}
    exec(example.replace("Once upon a time", "MARA: "), found)
    characters = charrnn.load(model_file).vocabulary.characters
    assert len(found["text"]) == 206 and set(found["text"]) <= set(characters)


def test_options_of_pages_are_refused(invoke, model_file, tmp_path):
    for option in ["--exact"], ["--title", "t"], ["--description", "d"]:
        result = invoke("export", "-m", model_file, "-o", tmp_path / "m.onnx", *option)
        assert result.exit_code == 2 and "are for a web page" in result.stderr
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_command_says_what_to_install(invoke, model_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "charrnn.export.onnx_graph")
    result = invoke("export", "-m", model_file, "-o", tmp_path / "m.onnx")
    assert result.exit_code == 1 and "pip install 'charrnn[onnx]'" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["m.onnx", "page.html"])
def test_a_full_disk_leaves_nothing(invoke, model_file, tmp_path, monkeypatch, name):
    """Writing fails as on a full disk: the message is one sentence, and the old file is whole."""
    (tmp_path / name).write_text("before")
    real_open = open

    def full(path, mode="r", *arguments, **options):
        return real_open("/dev/full" if "x" in mode else path, mode.replace("x", "w"), *arguments)

    monkeypatch.setattr("charrnn.storage.atomic.open", full, raising=False)
    result = invoke("export", "-m", model_file, "-o", tmp_path / name, "--overwrite")
    assert result.exit_code == 1
    assert re.match("Error: cannot write .*: No space left", result.stderr.splitlines()[-1])
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "before"
