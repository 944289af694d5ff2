"""Losses of a text, compared with the reference implementation and with known values."""

import math

import numpy as np
import pytest
from helpers import naive
from helpers.random_models import model_of, naive_start

import charrnn
from charrnn.config import ModelConfig
from charrnn.errors import CharRNNError
from charrnn.evaluation.loss import STEPS, Validator, mean_loss, surprisals, windowed_loss
from charrnn.network.cells import CELLS
from charrnn.network.model import Model
from charrnn.text.streams import split

V = 7


def random_model(cell="lstm", dtype=np.float32, threads=1, **more):
    """A model with irregular parameters, and these parameters for the reference implementation."""
    how = {"seed": 3, "scale": 1.0, "ngrams": 3}
    return model_of(cell, V, **how, dtype=dtype, threads=threads, **more)


def text_of(length):
    return np.random.default_rng(4).integers(0, V, length).astype(np.uint8)


def naive_surprisals(model, params, ids):
    """-ln p of each id but the first, given all before it."""
    zero = naive_start(model, model.zero_state(1))
    logits, _ = naive.forward(params, model.config, np.array(ids[:-1])[:, None], *zero)
    return np.array([naive.cross_entropy(p[0], i) for p, i in zip(logits, ids[1:], strict=True)])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding_size", [0, 3])
def test_surprisals_equal_the_reference(cell, embedding_size):
    ids = text_of(STEPS + 30)
    for dtype, error in (np.float32, 1e-5), (np.float64, 1e-10):
        model, params = random_model(cell, dtype, embedding_size=embedding_size)
        found = np.concatenate(list(surprisals(model, ids)))
        np.testing.assert_allclose(found, naive_surprisals(model, params, ids), atol=error)


@pytest.mark.parametrize(
    "length", [2, 3, STEPS, STEPS + 1, STEPS + 2, 2 * STEPS, 2 * STEPS + 1, 2 * STEPS + 2]
)
def test_surprisals_do_not_depend_on_chunk_boundaries(length):
    model, params = random_model("gru")
    parts = list(surprisals(model, text_of(length)))
    assert all(part.dtype == np.float64 for part in parts)
    assert [len(part) for part in parts[:-1]] == [STEPS] * (len(parts) - 1)
    expected = naive_surprisals(model, params, text_of(length))
    found = np.concatenate(parts)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert mean_loss(model, text_of(length)) == pytest.approx(expected.mean(), abs=1e-6)


def test_surprisals_are_not_overwritten_by_the_next_chunk():
    model, _ = random_model()
    streamed = surprisals(model, text_of(3 * STEPS))
    first = next(streamed)
    copy = first.copy()
    list(streamed)
    assert np.array_equal(first, copy)


@pytest.mark.parametrize("length", [0, 1])
def test_mean_loss_needs_two_characters(length):
    with pytest.raises(CharRNNError, match="two characters"):
        mean_loss(random_model()[0], text_of(length))


def test_model_with_zero_weights_has_loss_ln_v():
    """In one pass and in streams."""
    model = Model(ModelConfig(V, hidden_size=4))
    for length in 2, 3, 100, 1000:
        assert mean_loss(model, text_of(length)) == pytest.approx(math.log(V), rel=1e-6)
        for rows in {1, 2, min(7, length - 1)}:
            loss = Validator(model, text_of(length), rows).loss()
            assert loss == pytest.approx(math.log(V), rel=1e-6), (length, rows)


def test_losses_are_bit_identical_for_any_number_of_threads():
    ids = text_of(4000)
    losses = set()
    for threads in 1, 2, 3:
        model, _ = random_model(threads=threads)
        losses.add((mean_loss(model, ids), Validator(model, ids, 9).loss()))
    assert len(losses) == 1


# --- Windows


@pytest.mark.parametrize("window", [1, 5, STEPS, STEPS + 9])
def test_windowed_loss_starts_every_window_from_a_zero_state(monkeypatch, window):
    """It is the mean of reference losses of window + 1 characters, the first not predicted."""
    monkeypatch.setattr("charrnn.evaluation.loss.WINDOWS", 3)  # several groups
    model, params = random_model()
    ids = text_of(5 * window + 1 + window // 2)  # the last half window is unused
    starts = range(0, 5 * window, window)
    parts = [naive_surprisals(model, params, ids[s : s + window + 1]) for s in starts]
    assert np.concatenate(parts).size == 5 * window
    assert windowed_loss(model, ids, window) == pytest.approx(np.mean(parts), rel=1e-5)


def test_a_window_needs_one_more_character():
    model, _ = random_model()
    assert windowed_loss(model, text_of(9), 8) == pytest.approx(
        mean_loss(model, text_of(9)), rel=1e-6
    )
    with pytest.raises(CharRNNError, match="window of 9"):
        windowed_loss(model, text_of(9), 9)


# --- Validator


class Counter:
    """Replaces a validator's stack: character `wanted` costs 1, all others cost 0."""

    def __init__(self, stack):
        self.model, self.steps, self.wanted = stack.model, stack.steps, None

    def set_state(self, state):
        assert not state.hidden.any() and (state.recent == -1).all()

    def losses_of(self, x, y):
        assert x.shape == y.shape and len(x) <= self.steps
        follows = (y == x + 1) | (y == 0)  # zeros are padding
        assert follows.all()
        return (y == self.wanted).astype(float)


@pytest.mark.parametrize("length", [2, 3, 5, 9, 10, 11, 57])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8])
def test_validator_counts_every_character_but_the_first_once(monkeypatch, length, rows):
    monkeypatch.setattr("charrnn.evaluation.loss.STEPS", 4)
    monkeypatch.setattr("charrnn.evaluation.loss.WARM_UP", 6)
    if rows >= length:
        return
    validator = Validator(random_model()[0], np.arange(length), rows)
    counter = validator._stack = Counter(validator._stack)
    for counter.wanted in range(1, length):
        assert validator.loss() == pytest.approx(1 / (length - 1)), counter.wanted


@pytest.mark.parametrize("rows, max_chars, counted", [
    (1, 4, range(1, 5)),
    (2, 10, [*range(1, 6), *range(30, 35)]),
    (2, 11, [*range(1, 7), *range(30, 36)]),
    (3, 3, [1, 20, 39]),
    (3, 1000, range(1, 58)),
])  # fmt: skip
def test_validator_counts_the_first_characters_of_each_stream(
    monkeypatch, rows, max_chars, counted
):
    monkeypatch.setattr("charrnn.evaluation.loss.STEPS", 4)
    monkeypatch.setattr("charrnn.evaluation.loss.WARM_UP", 6)
    validator = Validator(random_model()[0], np.arange(58), rows, max_chars)
    counter = validator._stack = Counter(validator._stack)
    for counter.wanted in range(1, 58):
        expected = 1 / len(counted) if counter.wanted in counted else 0
        assert validator.loss() == pytest.approx(expected), counter.wanted


@pytest.mark.parametrize("length", [2, 3, 100, STEPS + 1, 3 * STEPS + 9])
def test_validator_of_one_row_gives_the_exact_loss(length):
    model, _ = random_model()
    validator = Validator(model, text_of(length), rows=1)
    assert validator.loss() == pytest.approx(mean_loss(model, text_of(length)), rel=1e-12)


def test_validator_of_many_rows_is_close_to_the_exact_loss(model_file, text):
    language_model = charrnn.load(model_file)
    ids = language_model.vocabulary.encode(text)
    exact = mean_loss(language_model.model, ids)
    for rows in 2, 5, 20:
        loss = Validator(language_model.model, ids, rows).loss()
        assert loss == pytest.approx(exact, rel=1e-3), rows


def test_validator_uses_the_present_weights_and_a_new_state(model_file, text):
    language_model = charrnn.load(model_file)
    _, ids = split(language_model.vocabulary.encode(text), 0.3)
    validator = Validator(language_model.model, ids, rows=3)
    first = validator.loss()
    assert validator.loss() == first
    weights = language_model.model.state_dict()
    language_model.model.load_state_dict({name: 0 * w for name, w in weights.items()})
    assert validator.loss() == pytest.approx(math.log(len(language_model.vocabulary)), rel=1e-6)
