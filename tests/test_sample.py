"""New text, against a plain loop with the judge's model and `rng.choice`."""

from itertools import islice

import naive
import numpy as np
import pytest

from charrnn.cells import CELLS
from charrnn.config import ModelConfig
from charrnn.model import Model
from charrnn.sample import PRIME_STEPS, generate

V = 11


def random_model(cell="lstm", **config):
    """A model that prefers some characters and depends on what came before."""
    config = ModelConfig(V, cell, **({"hidden_size": 6, "num_layers": 2} | config))
    params = naive.random_params(config, np.random.default_rng(5), scale=1.5)
    model = Model(config)
    model.load_state_dict(params)
    return model, params


def prime_of(length):
    return np.random.default_rng(6).integers(0, V, length).astype(np.uint8)


def naive_text(params, config, prime, rng, length, **how):
    state = np.zeros((config.num_layers, naive.STATES[config.cell], 1, config.hidden_size))
    logits, state = naive.forward(params, config, np.array(prime)[:, None], state)
    text = []
    while len(text) < length:
        text.append(naive.sample(logits[-1, 0], rng, **how))
        logits, state = naive.forward(params, config, np.array([[text[-1]]]), state)
    return text


def drawn(model, prime, seed, length, **how):
    return list(islice(generate(model, prime, np.random.default_rng(seed), **how), length))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.3},
        {"temperature": 3.0},
        {"temperature": 0},
        {"top_k": 1},
        {"top_k": 4},
        {"top_k": V + 1},
        {"top_p": 0.5},
        {"top_p": 1e-9},
        {"temperature": 1.7, "top_k": 5, "top_p": 0.8},
    ],
    ids=str,
)
def test_the_text_is_that_of_the_plain_loop(cell, how):
    model, params = random_model(cell)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        expected = naive_text(params, model.config, prime_of(3), rng, 40, **how)
        assert drawn(model, prime_of(3), seed, 40, **how) == expected, seed


@pytest.mark.parametrize("embedding_size", [0, 4])
@pytest.mark.parametrize("length", [1, 2, PRIME_STEPS, PRIME_STEPS + 1, PRIME_STEPS + 2, 200])
def test_the_prime_is_read_once_and_whole(embedding_size, length):
    model, params = random_model("gru", embedding_size=embedding_size)
    rng = np.random.default_rng(0)
    expected = naive_text(params, model.config, prime_of(length), rng, 20)
    assert drawn(model, prime_of(length), 0, 20) == expected


@pytest.mark.parametrize("how", [{}, {"temperature": 0.5, "top_k": 6, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_texts_side_by_side_are_what_each_would_be_alone(count, how):
    model, _ = random_model()
    rngs = [np.random.default_rng(seed) for seed in range(count)]
    rows = np.array(list(islice(generate(model, prime_of(5), rngs, **how), 50)))
    assert rows.shape == (50, count)
    for seed in range(count):
        assert rows[:, seed].tolist() == drawn(model, prime_of(5), seed, 50, **how)


def test_each_character_takes_one_number_of_its_generator():
    model, _ = random_model()
    rng, other = np.random.default_rng(1), np.random.default_rng(1)
    list(islice(generate(model, prime_of(4), rng, top_k=3), 12))
    other.random(12)
    assert rng.random() == other.random()


def test_ids_are_the_readers_own():
    model, _ = random_model()
    rows = generate(model, prime_of(2), [np.random.default_rng(i) for i in range(9)])
    first = next(rows)
    kept = first.copy()
    for _ in range(20):
        next(rows)
    assert np.array_equal(first, kept)
    assert all(type(i) is int for i in drawn(model, prime_of(2), 0, 3))


def test_the_prime_stays_as_it_was_and_may_be_read_only():
    model, _ = random_model()
    prime = prime_of(70)
    prime.flags.writeable = False
    drawn(model, prime, 0, 10)
    assert np.array_equal(prime, prime_of(70))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300, 5e-324])
def test_near_zero_temperatures_tend_to_the_likeliest(temperature):
    model, _ = random_model()
    coldest = drawn(model, prime_of(3), 0, 50, temperature=0)
    assert drawn(model, prime_of(3), 0, 50, temperature=temperature) == coldest


def test_an_enormous_temperature_draws_evenly():
    model, _ = random_model()
    counts = np.bincount(drawn(model, prime_of(1), 0, 2200, temperature=1e300), minlength=V)
    assert counts.min() > 150 and counts.max() < 250  # 200 each, within 3.7 standard deviations


def test_a_vocabulary_of_one():
    model = Model(ModelConfig(1, hidden_size=3), np.random.default_rng(0))
    assert drawn(model, np.zeros(3, np.uint8), 0, 5) == [0] * 5
