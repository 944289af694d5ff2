"""Starts of texts: the states that a text, a prime and a beam are read from."""

from itertools import islice

import numpy as np
import pytest
from helpers import naive
from helpers.random_models import model_of, naive_start

from charrnn.api import LanguageModel
from charrnn.evaluation.activations import iter_activations
from charrnn.evaluation.loss import StreamingScorer, mean_loss, surprisals
from charrnn.generation.sampler import SamplingOptions, generate
from charrnn.generation.suggester import Suggester
from charrnn.network.carried_state import CarriedState
from charrnn.network.cells import CELLS
from charrnn.network.start import LONG_PRIME, TextStart
from charrnn.text.vocabulary import CharVocabulary

V, NUM_STARTS, LINE_END = 11, 4, 2
VOCABULARY = CharVocabulary("abcdefghij\n")


def started(cell="lstm"):
    """A model with starts, and the parameters of its naive twin."""
    model, params = model_of(cell, V, ngrams=3)
    shape, rng = model.zero_state(NUM_STARTS).hidden.shape, np.random.default_rng(2)
    hidden = rng.normal(size=shape).astype(np.float32)
    recent = rng.integers(-1, V, (2, NUM_STARTS), np.int32)
    recent[0, recent[1] < 0] = -1
    model.start = TextStart(CarriedState(hidden, recent), np.array([LINE_END]))
    return model, params


def naive_logits(model, params, k, ids):
    """The logits (n, V) after the line end and after each of ids (n - 1,), from start k."""
    start = naive_start(model, model.start.states.select([k]))
    x = np.array([LINE_END, *ids])[:, None]
    return naive.forward(params, model.config, x, *start)[0][:, 0]


def coldest(model, params, k, prime, length):
    """The ids of temperature 0 by the reference, from start k."""
    ids = list(prime)
    for _ in range(length):
        ids.append(int(np.argmax(naive_logits(model, params, k, ids)[-1])))
    return ids[len(prime) :]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("prime", [[], [5], [1, 2, 3]])
def test_a_prime_is_read_after_a_line_end(cell, prime):
    model, params = started(cell)
    for k in range(NUM_STARTS):
        start, cold = model.start.select([k]), SamplingOptions(temperature=0)
        ids = generate(model, np.array(prime, int), np.random.default_rng(0), cold, start)
        expected = coldest(model, params, k, prime, 12)
        assert list(islice(ids, 12)) == expected


def test_texts_together_begin_like_texts_alone():
    """Also if there are more texts than starts, and more than rows."""
    model = LanguageModel(started()[0], VOCABULARY, {})
    for prime in "", "ab", "a" * LONG_PRIME:
        texts = [b"".join(t).decode() for t in model.texts(300, 5, prime=prime, seed=7)]
        alone = [model.sample(5, prime=prime, seed=7, first=i) for i in range(300)]
        assert texts == alone


def test_the_generator_of_a_text_draws_its_start():
    """Each start as often as the others, for consecutive seeds as for the texts of one seed."""
    model, params = started()
    language_model = LanguageModel(model, VOCABULARY, {})
    # At this temperature the start decides, not the random numbers.
    how = {"temperature": 1e-30, "length": 8}
    of_start = [VOCABULARY.decode(coldest(model, params, k, [], 8)) for k in range(NUM_STARTS)]
    assert len(set(of_start)) == NUM_STARTS
    for texts in (
        [b"".join(pieces).decode() for pieces in language_model.texts(200, seed=1, **how)],
        [language_model.sample(seed=s, **how) for s in range(200)],
    ):
        numbers = [of_start.index(text) for text in texts]
        # 50 each, within four standard deviations.
        assert all(25 < count < 75 for count in np.bincount(numbers, minlength=NUM_STARTS))
    rngs = (np.random.default_rng(np.random.SeedSequence(1, spawn_key=(i,))) for i in range(9))
    texts = [b"".join(t).decode() for t in language_model.texts(9, seed=1, **how)]
    assert texts == [of_start[rng.integers(NUM_STARTS)] for rng in rngs]


def test_temperature_0_and_beams_do_not_depend_on_the_seed():
    model, params = started()
    language_model = LanguageModel(model, VOCABULARY, {})
    expected = VOCABULARY.decode(coldest(model, params, 0, [3], 10))
    for seed in range(NUM_STARTS):
        assert language_model.sample(10, prime="d", temperature=0, seed=seed) == expected
    assert language_model.beam(1, 10, prime="d")[0].decode() == expected


def test_a_long_prime_leaves_nothing_to_the_seed():
    language_model = LanguageModel(started()[0], VOCABULARY, {})
    for length, count in (1, 2), (LONG_PRIME - 1, 1), (LONG_PRIME, 1):
        how = {"prime": "a" * length, "temperature": 1e-30}
        assert len({language_model.sample(8, seed=s, **how) for s in range(4)}) >= count


def test_mid_line_reads_the_prime_from_a_blank_state():
    model, _ = started()
    blank, _ = model_of("lstm", V, ngrams=3)
    with_starts = LanguageModel(model, VOCABULARY, {})
    without = LanguageModel(blank, VOCABULARY, {})
    for seed in range(3):
        expected = without.sample(30, prime="ab", seed=seed)
        assert with_starts.sample(30, prime="ab", mid_line=True, seed=seed) == expected
    assert with_starts.beam(3, 9, prime="ab", mid_line=True) == without.beam(3, 9, prime="ab")


@pytest.mark.parametrize("temperature", [0, 0.5])
def test_suggestions_equal_sampled_texts(temperature):
    """Also when the start changes with the seed, or the text becomes long."""
    language_model = LanguageModel(started()[0], VOCABULARY, {})
    model, how = language_model.model, {"length": 9, "temperature": temperature}
    suggester = Suggester(model, VOCABULARY, "ab", seed=3, **how)
    texts = ["ab", "abb", "", "a" * (LONG_PRIME + 3), "a" * (LONG_PRIME + 4), "ab"]
    how = {"temperature": temperature, "seed": 3}
    for i, text in enumerate(texts):
        suggester.update(text)
        while suggester.step():
            pass
        expected = language_model.sample(9, prime=text, first=i, **how)
        assert suggester.suggestion == expected
    suggester.resample()
    while suggester.step():
        pass
    expected = language_model.sample(9, prime="ab", first=len(texts), **how)
    assert suggester.suggestion == expected


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 600])
def test_every_character_has_a_surprisal(cell, length):
    model, params = started(cell)
    ids = np.random.default_rng(3).integers(0, V, length).astype(np.uint8)
    logits = naive_logits(model, params, 0, ids[:-1])
    expected = [naive.cross_entropy(p, i) for p, i in zip(logits, ids, strict=True)]
    found = np.concatenate(list(surprisals(model, ids)))
    np.testing.assert_allclose(found, expected, atol=1e-3)  # a random network is chaotic
    assert mean_loss(model, ids) == pytest.approx(np.mean(expected), rel=1e-5)
    scorer, parts = StreamingScorer(model, top=2), np.array_split(ids, 3)
    np.testing.assert_array_equal(
        np.concatenate([scorer.read(part)["nats"] for part in parts]), found
    )


def test_activations_start_at_a_line_start():
    model, params = started("gru")
    ids = np.random.default_rng(3).integers(0, V, 30)
    states = np.concatenate([s for s, _ in iter_activations(model, ids)])
    state, known, (read,) = naive_start(model, model.start.first.states)
    for i, found in zip([LINE_END, *ids], [None, *states], strict=True):
        _, state = naive.forward(params, model.config, np.array([[i]]), state, known, [read])
        read.append(int(i))
        if found is not None:
            np.testing.assert_allclose(found, state[:, :, 0], atol=1e-5)
