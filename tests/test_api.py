"""charrnn from Python: the same texts and losses as from the command line, and its errors."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import charrnn
from charrnn import api, evaluate
from charrnn.errors import CharRNNError, UsageError
from charrnn.sample import generate
from charrnn.train import start_run
from charrnn.vocab import UnknownCharacters


@pytest.fixture(scope="module")
def model(model_file):
    return charrnn.load(model_file)


def test_the_functions_are_there_whatever_has_been_imported():
    # Importing the module charrnn.train must not hide the function.
    assert charrnn.train is api.train and charrnn.load is api.load
    assert charrnn.LanguageModel is api.LanguageModel
    assert callable(start_run)
    assert set(charrnn.__all__) <= set(dir(charrnn))
    with pytest.raises(AttributeError, match="nonsense"):
        charrnn.nonsense  # noqa: B018


def test_a_model_says_what_it_is(model, text):
    assert model.config.hidden_size == 16
    assert model.vocabulary.characters == "".join(sorted(set(text)))
    assert model.training["total_steps"] == 30


def naive_text(model, length, prime, seed, **how):
    """One character after the other, by the iterator of ids."""
    ids = generate(model.model, model.vocabulary.encode(prime), np.random.default_rng(seed), **how)
    return model.vocabulary.decode(list(itertools.islice(ids, length)))


@pytest.mark.parametrize("how", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.7}])
def test_sample_draws_what_the_model_draws(model, how):
    expected = naive_text(model, 40, "TOM: ", 4, **how)
    assert model.sample(40, prime="TOM: ", seed=4, **how) == expected


def test_without_a_prime_a_text_starts_as_a_line_does(model):
    assert model.sample(40, seed=1) == naive_text(model, 40, "\n", 1)


def test_a_stream_is_the_sample_in_pieces(model):
    pieces = list(model.stream(30, seed=2))
    assert "".join(pieces) == model.sample(30, seed=2)
    assert len(pieces) == 30


def test_a_stream_writes_no_more_than_is_read(model):
    for length in 10**9, None:
        stream = model.stream(length, seed=2)
        assert "".join(itertools.islice(stream, 5)) == model.sample(5, seed=2)


@pytest.mark.parametrize("count", [1, 3, api.ROWS + 2])
@pytest.mark.parametrize("stop", [None, "\n"])
def test_texts_written_side_by_side_are_those_written_alone(model, count, stop):
    together = [b"".join(pieces).decode() for pieces in model.texts(count, 20, seed=7, stop=stop)]
    alone = [model.sample(20, seed=7 + i, stop=stop) for i in range(count)]
    assert together == alone


def test_long_texts_are_written_one_by_one(model, monkeypatch):
    monkeypatch.setattr(api, "KEPT_LENGTH", 10)
    texts = ["".join(p.decode() for p in pieces) for pieces in model.texts(2, 20, seed=7)]
    assert texts == [model.sample(20, seed=7), model.sample(20, seed=8)]


def test_a_model_of_bytes_replaces_what_is_no_text(bytes_model_file):
    model = charrnn.load(bytes_model_file)
    [pieces] = model.texts(1, 500, seed=3)
    assert model.sample(500, seed=3) == b"".join(pieces).decode("utf-8", "replace")


@pytest.mark.parametrize(
    "options",
    [
        {"length": -1},
        {"length": 1.5},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 2},
        {"top_k": -1},
        {"stop": ""},
        {"seed": -1},
        {"seed": 1.5},
    ],
    ids=str,
)
def test_impossible_values_are_refused_at_once(model, options):
    with pytest.raises(UsageError, match=next(iter(options)).replace("_", " ")):
        model.stream(**options)


def test_a_prime_that_the_model_cannot_read(model):
    with pytest.raises(UnknownCharacters, match="ü") as caught:
        model.sample(prime="Tür")
    assert caught.value.characters == "ü"


def test_loss(model, text):
    ids = model.vocabulary.encode(text[:500])
    assert model.loss(text[:500]) == evaluate.mean_loss(model.model, ids)
    assert 0 < model.loss(text[:500]) < model.loss(text[500:0:-1])
    for too_short in "", "T":
        with pytest.raises(CharRNNError, match="short"):
            model.loss(too_short)


def test_train_gives_the_best_model_and_tells_each_step(corpus_file, tmp_path):
    reports = []
    model = charrnn.train(
        str(corpus_file), tmp_path / "m", on_report=reports.append, steps=5, hidden_size=8
    )
    assert [report.step for report in reports] == [1, 2, 3, 4, 5]
    assert model.sample(20, seed=1) == charrnn.load(tmp_path / "m").sample(20, seed=1)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"hiden_size": 8}, "hiden_size"),
        ({"vocab_size": 8}, "vocab_size"),
        ({"hidden_size": 0}, "hidden size"),
        ({"learning_rate": float("nan")}, "learning rate"),
    ],
)
def test_train_refuses_wrong_settings_before_it_reads(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        charrnn.train(tmp_path / "missing", tmp_path / "m", **settings)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_training_can_be_resumed(corpus_file, tmp_path):
    def interrupt(report):
        if report.step == 3:
            raise KeyboardInterrupt

    options = {"steps": 6, "hidden_size": 8}
    with pytest.raises(KeyboardInterrupt):
        charrnn.train(corpus_file, tmp_path / "m", on_report=interrupt, **options)
    resumed = charrnn.train(corpus_file, tmp_path / "m", resume=True)
    whole = charrnn.train(corpus_file, tmp_path / "whole", **options)
    assert resumed.sample(50, seed=1) == whole.sample(50, seed=1)


STOPS = st.text("ab€", min_size=1, max_size=4)


@given(st.lists(st.text("ab€", max_size=3)), STOPS)
def test_a_text_ends_before_the_stop(pieces, stop):
    pieces = [piece.encode() for piece in pieces]
    cut = list(api._until(stop.encode(), pieces))
    assert b"".join(cut) == b"".join(pieces).partition(stop.encode())[0]
    for piece in cut:
        assert piece.decode()  # whole characters, and some


@given(st.lists(st.text("ab€", min_size=1, max_size=1)), STOPS)
def test_only_what_may_be_the_stop_is_held_back(characters, stop):
    read = []

    def pieces():
        for character in characters:
            read.append(character)
            yield character.encode()

    shown = ""
    for piece in api._until(stop.encode(), pieces()):
        shown += piece.decode()
        assert "".join(read).startswith(shown)
        assert len(read) == len(characters) or stop.startswith("".join(read)[len(shown) :])
