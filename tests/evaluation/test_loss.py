"""How well a model foresees a text, against the judge and against losses that are known."""

import math

import numpy as np
import pytest
from helpers import naive

import charrnn
from charrnn.config import ModelConfig
from charrnn.errors import CharRNNError
from charrnn.evaluation.loss import STEPS, Validator, mean_loss, surprisals, windowed_loss
from charrnn.network.cells import CELLS
from charrnn.network.model import Model
from charrnn.text.streams import split

V = 7


def random_model(cell="lstm", dtype=np.float32, threads=1, **config):
    """A model of which nothing is zero or regular, and its parameters for the judge."""
    config = ModelConfig(V, cell, **({"hidden_size": 5, "num_layers": 2} | config))
    params = naive.random_params(config, np.random.default_rng(3), scale=1.0)
    model = Model(config, dtype=dtype, threads=threads)
    model.load_state_dict(params)
    return model, params


def text_of(length):
    return np.random.default_rng(4).integers(0, V, length).astype(np.uint8)


def naive_surprises(params, config, ids):
    """-ln p of each id but the first, given all before it."""
    shape = (config.num_layers, naive.STATES[config.cell], 1, config.hidden_size)
    logits, _ = naive.forward(params, config, np.array(ids[:-1])[:, None], np.zeros(shape))
    return np.array([naive.cross_entropy(p[0], i) for p, i in zip(logits, ids[1:], strict=True)])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding_size", [0, 3])
def test_surprises_are_the_judges(cell, embedding_size):
    ids = text_of(STEPS + 30)
    for dtype, error in (np.float32, 1e-5), (np.float64, 1e-10):
        model, params = random_model(cell, dtype, embedding_size=embedding_size)
        found = np.concatenate(list(surprisals(model, ids)))
        np.testing.assert_allclose(found, naive_surprises(params, model.config, ids), atol=error)


@pytest.mark.parametrize(
    "length", [2, 3, STEPS, STEPS + 1, STEPS + 2, 2 * STEPS, 2 * STEPS + 1, 2 * STEPS + 2]
)
def test_the_ends_of_chunks_do_not_show(length):
    model, params = random_model("gru")
    parts = list(surprisals(model, text_of(length)))
    assert all(part.dtype == np.float64 for part in parts)
    assert [len(part) for part in parts[:-1]] == [STEPS] * (len(parts) - 1)
    expected = naive_surprises(params, model.config, text_of(length))
    found = np.concatenate(parts)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert mean_loss(model, text_of(length)) == pytest.approx(expected.mean(), abs=1e-6)


def test_surprises_are_the_readers_own():
    """What was given must not change when the next chunk is computed."""
    model, _ = random_model()
    streamed = surprisals(model, text_of(3 * STEPS))
    first = next(streamed)
    kept = first.copy()
    list(streamed)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("length", [0, 1])
def test_a_text_of_one_character_has_no_loss(length):
    with pytest.raises(CharRNNError, match="two characters"):
        mean_loss(random_model()[0], text_of(length))


def test_a_model_that_knows_nothing():
    """All weights zero: every character costs ln V, in one pass or in streams."""
    model = Model(ModelConfig(V, hidden_size=4))
    for length in 2, 3, 100, 1000:
        assert mean_loss(model, text_of(length)) == pytest.approx(math.log(V), rel=1e-6)
        for rows in {1, 2, min(7, length - 1)}:
            loss = Validator(model, text_of(length), rows).loss()
            assert loss == pytest.approx(math.log(V), rel=1e-6), (length, rows)


def test_threads_do_not_change_a_bit():
    ids = text_of(4000)
    losses = set()
    for threads in 1, 2, 3:
        model, _ = random_model(threads=threads)
        losses.add((mean_loss(model, ids), Validator(model, ids, 9).loss()))
    assert len(losses) == 1


# --- cold windows


@pytest.mark.parametrize("window", [1, 5, STEPS, STEPS + 9])
def test_a_cold_window_knows_nothing_of_what_is_before_it(monkeypatch, window):
    """The mean of the judge's losses of window + 1 characters, each first one given."""
    monkeypatch.setattr("charrnn.evaluation.loss.WINDOWS", 3)  # so that there are several groups
    model, params = random_model()
    ids = text_of(5 * window + 1 + window // 2)  # the last half is no window
    starts = range(0, 5 * window, window)
    parts = [naive_surprises(params, model.config, ids[s : s + window + 1]) for s in starts]
    assert np.concatenate(parts).size == 5 * window
    assert windowed_loss(model, ids, window) == pytest.approx(np.mean(parts), rel=1e-5)


def test_a_window_needs_one_character_more():
    model, _ = random_model()
    assert windowed_loss(model, text_of(9), 8) == pytest.approx(
        mean_loss(model, text_of(9)), rel=1e-6
    )
    with pytest.raises(CharRNNError, match="window of 9"):
        windowed_loss(model, text_of(9), 9)


# --- the quick estimate


class Counter:
    """In place of the stack of a validation: character `wanted` costs 1, all others nothing."""

    def __init__(self, stack):
        self.model, self.steps, self.wanted = stack.model, stack.steps, None

    def set_state(self, state):
        assert not state.any()

    def losses_of(self, x, y):
        assert x.shape == y.shape and len(x) <= self.steps
        follows = (y == x + 1) | (y == 0)  # zero fills what is not text
        assert follows.all()
        return (y == self.wanted).astype(float)


@pytest.mark.parametrize("length", [2, 3, 5, 9, 10, 11, 57])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8])
def test_every_character_but_the_first_counts_once(monkeypatch, length, rows):
    monkeypatch.setattr("charrnn.evaluation.loss.STEPS", 4)
    monkeypatch.setattr("charrnn.evaluation.loss.WARM_UP", 6)
    if rows >= length:
        return
    validation = Validator(random_model()[0], np.arange(length), rows)
    counter = validation._stack = Counter(validation._stack)
    for counter.wanted in range(1, length):
        assert validation.loss() == pytest.approx(1 / (length - 1)), counter.wanted


@pytest.mark.parametrize("rows, most, counted", [
    (1, 4, range(1, 5)),
    (2, 10, [*range(1, 6), *range(30, 35)]),
    (2, 11, [*range(1, 7), *range(30, 36)]),
    (3, 3, [1, 20, 39]),
    (3, 1000, range(1, 58)),
])  # fmt: skip
def test_the_beginnings_of_the_streams_count_if_not_all_may(monkeypatch, rows, most, counted):
    monkeypatch.setattr("charrnn.evaluation.loss.STEPS", 4)
    monkeypatch.setattr("charrnn.evaluation.loss.WARM_UP", 6)
    validation = Validator(random_model()[0], np.arange(58), rows, most)
    counter = validation._stack = Counter(validation._stack)
    for counter.wanted in range(1, 58):
        expected = 1 / len(counted) if counter.wanted in counted else 0
        assert validation.loss() == pytest.approx(expected), counter.wanted


@pytest.mark.parametrize("length", [2, 3, 100, STEPS + 1, 3 * STEPS + 9])
def test_one_row_is_the_exact_loss(length):
    model, _ = random_model()
    validation = Validator(model, text_of(length), rows=1)
    assert validation.loss() == pytest.approx(mean_loss(model, text_of(length)), rel=1e-12)


def test_many_rows_are_close_to_the_exact_loss(model_file, text):
    language_model = charrnn.load(model_file)
    ids = language_model.vocabulary.encode(text)
    exact = mean_loss(language_model.model, ids)
    for rows in 2, 5, 20:
        loss = Validator(language_model.model, ids, rows).loss()
        assert loss == pytest.approx(exact, rel=1e-3), rows


def test_a_validation_follows_the_weights_and_forgets_the_last_one(model_file, text):
    language_model = charrnn.load(model_file)
    _, ids = split(language_model.vocabulary.encode(text), 0.3)
    validation = Validator(language_model.model, ids, rows=3)
    first = validation.loss()
    assert validation.loss() == first
    language_model.model.load_state_dict(Model(language_model.config).state_dict())
    assert validation.loss() == pytest.approx(math.log(len(language_model.vocabulary)), rel=1e-6)
