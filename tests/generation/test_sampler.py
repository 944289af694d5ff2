"""Sampling, compared with a plain loop over the reference model and `rng.choice`."""

from itertools import islice

import numpy as np
import pytest
from helpers import naive
from helpers.random_models import model_of, ngram_tuples
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.config import ModelConfig
from charrnn.generation.primes import PRIME_STEPS, read_primes
from charrnn.generation.sampler import (
    PENALTY_WINDOW,
    BatchSampler,
    SamplingOptions,
    generate,
)
from charrnn.network.cells import CELLS
from charrnn.network.kernels.sampling import draw_rows, log_probabilities
from charrnn.network.model import Model

V = 11


def random_model(cell="lstm", **more):
    """A model with uneven probabilities that depend on the preceding characters."""
    return model_of(cell, V, **({"H": 6, "seed": 5, "scale": 1.5, "ngrams": 3} | more))


def prime_of(length):
    return np.random.default_rng(6).integers(0, V, length).astype(np.uint8)


def naive_text(model, params, prime, rng, length, repetition_penalty=1, allowed=None, **how):
    return naive.text(
        params, model.config, prime, rng, length, PENALTY_WINDOW, ngram_tuples(model),
        penalty=repetition_penalty, allowed=None if allowed is None else np.flatnonzero(allowed),
        **how,
    )  # fmt: skip


def drawn(model, prime, seed, length, **how):
    rng = np.random.default_rng(seed)
    return list(islice(generate(model, prime, rng, SamplingOptions(**how)), length))


def sampler_of(model, prime, rngs, **how):
    """A sampler whose rows draw with `rngs`."""
    sampler = BatchSampler(model, len(rngs), SamplingOptions(**how))
    for row, rng in enumerate(rngs):
        sampler.begin(row, rng, read(model, prime))
    return sampler


def read(model, prime):
    [found] = read_primes(model, [prime], model.zero_state(1))
    return found


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
        {"min_p": 0.3},
        {"min_p": 1.0},
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 3.0, "temperature": 0},
        {"allowed": np.arange(V) % 3 == 1, "repetition_penalty": 0.5},
    ],
    ids=str,
)
def test_sampled_text_equals_the_plain_loop(cell, how):
    model, params = random_model(cell)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        expected = naive_text(model, params, prime_of(3), rng, 40, **how)
        assert drawn(model, prime_of(3), seed, 40, **how) == expected, seed


MIXES = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 0.5, 0.9, 2.5]),
        "top_k": st.integers(0, V + 1),
        "top_p": st.sampled_from([0.2, 0.6, 0.95, 1.0]),
        "min_p": st.sampled_from([0, 0.05, 0.4, 1]),
        "repetition_penalty": st.sampled_from([0.7, 1.0, 1.3, 4.0]),
        "allowed": st.lists(st.booleans(), min_size=V, max_size=V).filter(any).map(np.array),
    },
)
MODEL, PARAMS = random_model("gru", H=4, L=1)


@settings(max_examples=60, deadline=None)
@given(MIXES, st.integers(0, 2**40), st.integers(1, PENALTY_WINDOW + 8))
def test_any_combination_of_options_equals_the_plain_loop(how, seed, length):
    rng = np.random.default_rng(seed)
    expected = naive_text(MODEL, PARAMS, prime_of(length), rng, 2 * PENALTY_WINDOW, **how)
    assert drawn(MODEL, prime_of(length), seed, 2 * PENALTY_WINDOW, **how) == expected


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 7, 150, 299, 300])
@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.9, 0.999, 1.0])
def test_filters_of_a_large_vocabulary_with_ties_equal_a_sort(temperature, top_k, top_p):
    size, rows, rng = 300, 25, np.random.default_rng(1)
    logits = np.zeros((1, rows, 304), np.float32)
    logits[0, :, :size] = rng.standard_normal((rows, size)).round(rng.integers(0, 3)) * 2
    u = np.array([[np.random.default_rng(n).random()] for n in range(rows)])
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    ids, recent = np.zeros((1, rows), np.int32), np.zeros((rows, 0), np.int32)
    allowed = np.ones(size, bool)
    draw_rows(logits, allowed, 1.0, temperature, top_k, top_p, 0.0, recent, u, 0, ids, ids, 0, rows)
    for n in range(rows):
        expected = naive.sample(logits[0, n, :size], np.random.default_rng(n), **how)
        assert ids[0, n] == expected, n


def test_log_probabilities_equal_the_reference_in_the_rows_asked_for():
    rng = np.random.default_rng(1)
    logits = (rng.standard_normal((1, 5, 16)) * 30).astype(np.float32)
    ids = rng.integers(0, V, (3, 5)).astype(np.int32)
    found = np.zeros((3, 5))
    log_probabilities(logits, V, ids, 1, found, 1, 4)
    expected = np.zeros((3, 5))
    for n in range(1, 4):
        expected[1, n] = -naive.cross_entropy(logits[0, n, :V].astype(float), ids[1, n])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_log_probabilities_of_extreme_logits_are_finite():
    logits = np.array([np.nan, np.inf, -np.inf, 3.4e38], np.float32).reshape(1, 1, 4)
    for i in range(4):
        found = np.full((1, 1), np.nan)
        log_probabilities(logits, 4, np.array([[i]], np.int32), 0, found, 0, 1)
        assert np.isfinite(found).all() and found <= 0


@pytest.mark.parametrize("how", [(0, 1.0), (3, 1.0), (0, 0.5), (3, 0.5)], ids=str)
def test_logits_of_nan_and_infinity_give_a_valid_id(how):
    logits = np.full((1, 2, 16), np.nan, np.float32)
    logits[0, 1, 4] = np.inf
    ids, u = np.full((1, 2), -1, np.int32), np.full((2, 1), 0.5)
    allowed, recent = np.ones(11, bool), np.zeros((2, 0), np.int32)
    draw_rows(logits, allowed, 1.0, 1.0, *how, 0.0, recent, u, 0, ids, ids, 0, 2)
    assert ((ids >= 0) & (ids < 11)).all()


EXTREME_LOGITS = st.one_of(
    st.sampled_from([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 0.0, -0.0, 1e-45, 88.0, -88.0]),
    st.floats(-30, 30, width=32),
)
EXTREMES = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0, 5e-324, 1e-300, 1e-9, 1, 1e9, 1e30, 1.7e308]),
        "penalty": st.sampled_from([5e-324, 1e-300, 0.1, 1, 1.1, 1e30, 9e307, 1.7e308]),
        "top_k": st.integers(0, V + 1),
        "top_p": st.sampled_from([5e-324, 1e-9, 0.5, 1 - 2**-53, 1.0]),
        "min_p": st.sampled_from([0, 5e-324, 0.5, 1.0]),
    }
)


def draw_one(logits, allowed=None, recent=(), u=0.5, **how):
    """The id that is drawn from logits (V,)."""
    how = {"penalty": 1, "temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0} | how
    padded = np.zeros((1, 1, 16), np.float32)
    padded[0, 0, : len(logits)] = logits
    allowed = np.ones(len(logits), bool) if allowed is None else np.array(allowed)
    ids, recent = np.full((1, 1), -1, np.int32), np.array([recent], np.int32).reshape(1, -1)
    options = (
        float(how["penalty"]), float(how["temperature"]), how["top_k"], float(how["top_p"]),
        float(how["min_p"]),
    )  # fmt: skip
    draw_rows(padded, allowed, *options, recent, np.array([[u]]), 0, ids, ids, 0, 1)
    return ids[0, 0]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(EXTREME_LOGITS, min_size=V, max_size=V),
    st.lists(st.booleans(), min_size=V, max_size=V).filter(any),
    st.lists(st.integers(-1, V - 1), max_size=2 * V),
    st.floats(0, 1, exclude_max=True),
    EXTREMES,
)
def test_extreme_numbers_draw_an_allowed_id(logits, allowed, recent, u, how):
    i = draw_one(logits, allowed, recent, u, **how)
    assert 0 <= i < V and allowed[i]


@pytest.mark.parametrize("penalty", [1e30, 9e307, 1.7e308])
@pytest.mark.parametrize("temperature", [0, 1e-9, 1])
def test_an_enormous_penalty_keeps_the_order_of_the_characters_it_applies_to(penalty, temperature):
    logits, how = np.arange(9) % 7 / 100, {"penalty": penalty, "temperature": temperature}
    assert draw_one(logits, recent=range(9), u=0.99, **how) == 6
    assert draw_one(logits, recent=[0, 1, 3, 4, 5, 6, 7, 8], u=0.99, **how) == 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=V, max_size=V, unique=True),
    st.sampled_from([5e-324, 1e-9, 0.5, 1, 1e9, 1e17, 1e30, 1.7e308]),
    st.integers(1, V),
    st.floats(0, 1, exclude_max=True),
)
def test_filters_keep_the_likeliest_at_any_temperature(logits, temperature, k, u):
    ranking = np.argsort(-np.array(logits))
    likeliest = ranking[:k].tolist()
    assert draw_one(logits, u=u, temperature=temperature, top_k=k) in likeliest
    assert draw_one(logits, u=u, temperature=temperature, top_p=1e-9) == ranking[0]
    assert draw_one(logits, u=u, temperature=temperature, top_k=k, top_p=1e-9) == ranking[0]


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_can_begin_and_be_reassigned_at_any_time(threads, monkeypatch):
    monkeypatch.setattr("charrnn.generation.sampler.WORK_PER_THREAD", 1)
    model, _ = random_model(threads=threads)
    how = {"repetition_penalty": 1.3}
    sampler, prime = BatchSampler(model, 3, SamplingOptions(**how)), read(model, prime_of(4))
    written = {0: [], 1: [], 2: [], 3: []}

    def write(steps, *texts):
        for text, ids in zip(texts, sampler.sample(steps).T, strict=True):
            if text is not None:
                written[text] += ids.tolist()

    sampler.begin(0, np.random.default_rng(0), prime)
    sampler.begin(2, np.random.default_rng(1), prime)
    write(5, 0, None, 1)
    sampler.begin(1, np.random.default_rng(2), prime)
    write(3, 0, 2, 1)
    sampler.reassign_rows([2, None, 1, None])
    sampler.begin(1, np.random.default_rng(3), prime)
    write(0, 1, 3, 2, None)
    write(7, 1, 3, 2, None)
    sampler.reassign_rows([2])
    write(4, 2)
    assert [len(ids) for ids in written.values()] == [8, 15, 14, 7]
    for seed, ids in written.items():
        assert ids == drawn(model, prime_of(4), seed, len(ids), **how)


@pytest.mark.parametrize("embedding_size", [0, 4])
@pytest.mark.parametrize("length", [1, 2, PRIME_STEPS, PRIME_STEPS + 1, PRIME_STEPS + 2, 200])
def test_primes_of_any_length_are_read_completely(embedding_size, length):
    model, params = random_model("gru", embedding_size=embedding_size)
    rng = np.random.default_rng(0)
    expected = naive_text(model, params, prime_of(length), rng, 20)
    assert drawn(model, prime_of(length), 0, 20) == expected


@pytest.mark.parametrize("how", [{}, {"temperature": 0.5, "top_k": 6, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_parallel_texts_equal_texts_sampled_alone(count, how):
    model, _ = random_model()
    rngs = [np.random.default_rng(seed) for seed in range(count)]
    sampler = sampler_of(model, prime_of(5), rngs, **how)
    rows = np.concatenate([sampler.sample(steps) for steps in (1, 1, 20, 28)])
    assert rows.shape == (50, count)
    for seed in range(count):
        assert rows[:, seed].tolist() == drawn(model, prime_of(5), seed, 50, **how)


def test_each_character_consumes_one_random_number():
    model, _ = random_model()
    rng, other = np.random.default_rng(1), np.random.default_rng(1)
    sampler = sampler_of(model, prime_of(4), [rng], top_k=3)
    for steps in 1, 4, 7:
        sampler.sample(steps)
    other.random(12)
    assert rng.random() == other.random()


def test_sampled_ids_are_not_overwritten_later():
    model, _ = random_model()
    sampler = sampler_of(model, prime_of(2), [np.random.default_rng(i) for i in range(9)])
    first = sampler.sample(1)
    copy = first.copy()
    for _ in range(20):
        sampler.sample(1)
    assert np.array_equal(first, copy)
    assert all(type(i) is int for i in drawn(model, prime_of(2), 0, 3))


def test_the_prime_may_be_read_only_and_is_not_changed():
    model, _ = random_model()
    prime = prime_of(70)
    prime.flags.writeable = False
    drawn(model, prime, 0, 10)
    assert np.array_equal(prime, prime_of(70))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300, 5e-324])
def test_near_zero_temperatures_draw_the_likeliest(temperature):
    model, _ = random_model()
    coldest = drawn(model, prime_of(3), 0, 50, temperature=0)
    assert drawn(model, prime_of(3), 0, 50, temperature=temperature) == coldest


def test_an_enormous_temperature_draws_uniformly():
    model, _ = random_model()
    counts = np.bincount(drawn(model, prime_of(1), 0, 2200, temperature=1e300), minlength=V)
    assert counts.min() > 150 and counts.max() < 250  # 200 each, within 3.7 standard deviations


def test_a_vocabulary_of_one_character_gives_that_character():
    model = Model(ModelConfig(1, hidden_size=3), np.random.default_rng(0))
    assert drawn(model, np.zeros(3, np.uint8), 0, 5) == [0] * 5
