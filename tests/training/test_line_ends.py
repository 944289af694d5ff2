"""Line ends of the training text: which are chosen, and the states there."""

import json

import numpy as np
import pytest
from helpers import naive
from helpers.random_models import model_of, naive_start
from safetensors.numpy import load_file, safe_open

import charrnn
from charrnn.config import tensor_shapes
from charrnn.network.arrays import Workspace
from charrnn.storage.checkpoint import load_model
from charrnn.text.corpus import read_corpus
from charrnn.training import line_ends
from charrnn.training.line_ends import CONTEXT, NUM_ENDS, LineEnds
from charrnn.training.start import prepare_run


def corpus_of(text, tmp_path):
    (tmp_path / "text").write_bytes(text.encode())
    return read_corpus(tmp_path / "text")


def contexts_of(ends, vocabulary):
    return [vocabulary.decode(column) for column in ends._contexts.T]


@pytest.mark.parametrize("text, end, contexts", [
    ("one\ntwo two\nthree", "\n", ["\ntwo two", "threeone"]),
    ("one two", " ", ["twoone"]),
    ("onetwo", "o", []),
    ("\n", "\n", []),
])  # fmt: skip
def test_lines_end_at_newlines_else_spaces_else_the_last_id(text, end, contexts, tmp_path):
    corpus = corpus_of(text, tmp_path)
    ends = LineEnds(corpus.ids, corpus.vocabulary)
    assert corpus.vocabulary.decode([ends._id]) == end
    found = contexts_of(ends, corpus.vocabulary)
    if not contexts:
        assert len(found) == 1
    for context, expected in zip(found, contexts, strict=False):
        assert context.endswith(expected)


def test_line_ends_are_spread_evenly_and_the_last_is_first(tmp_path):
    lines = [f"{i:05}" for i in range(1600)]
    corpus = corpus_of("".join(line + "\n" for line in lines) + "the rest", tmp_path)
    ends = LineEnds(corpus.ids, corpus.vocabulary)
    found = [int(context[-5:]) for context in contexts_of(ends, corpus.vocabulary)]
    assert len(found) == NUM_ENDS and found[0] == 1599
    assert all(98 <= a - b <= 102 for a, b in zip(found, found[1:], strict=False))
    assert all(len(context) == CONTEXT for context in contexts_of(ends, corpus.vocabulary))


def test_a_line_end_is_searched_in_a_limited_part(tmp_path, monkeypatch):
    monkeypatch.setattr(line_ends, "MAX_SEARCHED", 10)
    corpus = corpus_of("a" * 500 + "\n" + "b c" * 500, tmp_path)
    assert LineEnds(corpus.ids, corpus.vocabulary)._id == corpus.vocabulary.encode(" ")[0]


def test_starts_of_a_text_on_disk_equal_those_in_memory(tmp_path, monkeypatch, text):
    corpus = corpus_of(text, tmp_path)
    monkeypatch.setattr("charrnn.text.spool.SMALL_BYTES", 0)
    on_disk = corpus_of(text, tmp_path)
    assert type(on_disk.ids) is not type(corpus.ids)
    a, b = (LineEnds(c.ids, c.vocabulary) for c in (corpus, on_disk))
    np.testing.assert_array_equal(a._contexts, b._contexts)


def test_states_are_those_after_the_contexts(tmp_path, monkeypatch):
    monkeypatch.setattr(line_ends, "CONTEXT", 90)
    rng = np.random.default_rng(1)
    text = "".join(rng.choice(list("abcdefghij\n"), 900))
    corpus = corpus_of(text, tmp_path)
    model, params = model_of("gru", len(corpus.vocabulary), ngrams=3)
    ends = LineEnds(corpus.ids, corpus.vocabulary)
    start = ends.start(model)
    zero = naive_start(model, model.zero_state(NUM_ENDS))
    _, expected = naive.forward(params, model.config, ends._contexts, *zero)
    np.testing.assert_allclose(start.states.hidden, expected, atol=1e-5)
    np.testing.assert_array_equal(start.states.recent, ends._contexts[-2:])
    assert ends.start(model, Workspace()).states.equals(start.states)
    monkeypatch.setattr(line_ends, "MAX_STATE_BYTES", 3 * model.zero_state(1).hidden.nbytes + 1)
    assert ends.start(model).states.equals(start.states.select([0, 1, 2]))


def test_the_model_file_has_the_starts_of_its_weights(corpus_file, model_file):
    """The tensors beside them are a state_dict and nothing else."""
    file = load_model(model_file, tensor_shapes)
    assert file.format_version == 3
    assert {name: t.shape for name, t in load_file(model_file).items()} == tensor_shapes(
        file.config
    )
    with safe_open(model_file, "np") as opened:
        assert json.loads(opened.metadata()["charrnn"])["start"]["id"] == file.start.id
    model = charrnn.load(model_file)
    corpus = read_corpus(corpus_file, vocabulary=model.vocabulary)
    train_ids = corpus.ids[: len(corpus.ids) - len(corpus.ids) // 10]
    start = LineEnds(train_ids, corpus.vocabulary).start(model.model)
    assert start.states.equals(model.model.start.states)
    assert start.states.rows == NUM_ENDS and start.states.recent.shape[0] == 2
    assert model.vocabulary.decode(start.ids) == "\n"


def test_a_run_samples_as_its_model_does(corpus_file, tmp_path):
    settings = {"steps": 4, "hidden_size": 8, "num_layers": 1, "seed": 5, "val_fraction": 0}
    run = prepare_run(corpus_file, tmp_path / "m", settings).start()
    for _ in run:
        pass
    assert run.sample(40) == charrnn.load(tmp_path / "m").sample(40, seed=5)
