"""Extreme weights, vocabularies, shapes and texts, in the commands and in training."""

import math

import numpy as np
import pytest
from helpers.runs import trained

import charrnn
from charrnn.config import CELL_NAMES, ModelConfig
from charrnn.storage.checkpoint import save_model
from charrnn.text.vocabulary import CharVocabulary

COMMANDS = [
    ["sample", "--length", "20"],
    ["sample", "--length", "20", "--temperature", "0"],
    ["sample", "--length", "20", "--top-k", "2", "--top-p", "0.5"],
    ["eval", "text"],
    ["score", "text"],
    ["score", "text", "--json"],
    ["score", "text", "--html", "-"],
]


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("size", [3e38, 1e30, 1e5, 0.0, 1e-45])
def test_models_with_extreme_weights_do_not_fail(invoke, tmp_path, monkeypatch, cell, size):
    """Gates saturate and sums overflow; commands print text, numbers, infinity or nan."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("abba\n" * 9)
    config = ModelConfig(3, cell, 4, 2, embedding_size=2)
    rng = np.random.default_rng(1)
    tensors = {
        name: (size * rng.choice([-1, 1], shape)).astype(np.float32)
        for name, shape in config.tensor_shapes().items()
    }
    save_model("model.safetensors", tensors, vars(config), CharVocabulary("\nab"), {})
    for command in COMMANDS:
        result = invoke(*command)
        assert result.exit_code == 0 and result.stderr == "", result.stderr
        assert command[0] != "sample" or len(result.stdout) == 20


@pytest.mark.slow
@pytest.mark.parametrize("embedding_size", [0, 3])
def test_a_vocabulary_of_60_000_characters_trains(tmp_path, embedding_size):
    characters = "".join(map(chr, range(0x10000, 0x10000 + 60_000)))
    (tmp_path / "text").write_text(characters * 2, encoding="utf-8")
    run = trained(
        tmp_path / "text", tmp_path / "m", steps=2, batch_size=2, embedding_size=embedding_size
    )
    assert run.progress.val_loss == pytest.approx(math.log(60_000), rel=0.05)
    model = charrnn.load(tmp_path / "m")
    assert len(model.sample(5, prime=characters[-1], seed=1)) == 5
    assert model.loss(characters[:9]) == pytest.approx(math.log(60_000), rel=0.05)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)], ids=str)
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_a_batch_or_sequence_of_one_trains(corpus_file, tmp_path, cell, shape):
    settings = {"cell": cell, "batch_size": shape[0], "seq_length": shape[1], "steps": 60}
    run = trained(corpus_file, tmp_path / "m", learning_rate=0.01, **settings)
    assert (run.streams.batch_size, run.streams.seq_length) == shape
    assert run.progress.best_val_loss < math.log(len(run.corpus.vocabulary))


def test_a_text_of_one_byte_trains_to_zero_loss_and_gradients(tmp_path, monkeypatch):
    """Such a text is refused otherwise."""
    monkeypatch.setattr("charrnn.training.start.require_varied", lambda corpus: None)
    (tmp_path / "text").write_bytes(b"a" * 200)
    settings = {"as_bytes": True, "optimizer": "sgd", "learning_rate": 50.0, "clip_norm": 0.0}
    run = trained(tmp_path / "text", tmp_path / "m", steps=30, schedule="constant", **settings)
    assert run.progress.val_loss == 0
    assert np.abs(run.ensemble.members[0].stack.gradients.flat).max() < 1e-30
    assert np.isfinite(run.model.parameters.flat).all()
