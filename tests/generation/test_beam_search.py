"""Beam search, compared with all possible texts and with a beam in plain loops."""

import itertools

import numpy as np
import pytest
from helpers import naive
from helpers.random_models import model_of, naive_start

from charrnn.generation.beam_search import beam_search
from charrnn.generation.stopping import StopMatcher, StoppingCriteria

ALPHABET = "ab\n"
PRIME = np.array([0, 2, 1])


def random_model(seed, cell="lstm", vocab_size=3):
    return model_of(cell, vocab_size, seed=seed, ngrams=3)


def symbols(ids):
    return "".join(chr(32 + i) if i >= len(ALPHABET) else ALPHABET[i] for i in ids)


def search(model, width, criteria, allowed=(True, True, True)):
    [best] = beam_search(model, PRIME, width, criteria, symbols, np.array(allowed))
    return best


def log_probability(model, params, ids):
    x = np.array([*PRIME, *ids])
    zero = naive_start(model, model.zero_state(1))
    logits, _ = naive.forward(params, model.config, x[:-1, None], *zero)
    start = len(PRIME) - 1
    return -sum(naive.cross_entropy(logits[start + t, 0], i) for t, i in enumerate(ids))


def all_texts(criteria):
    """The ids of all texts, each up to its end."""
    for ids in itertools.product(range(len(ALPHABET)), repeat=criteria.length):
        matcher = StopMatcher(criteria)
        n = 0
        while not matcher.finished:
            matcher.feed(ALPHABET[ids[n]])
            n += 1
        if n == len(ids) or all(i == 0 for i in ids[n:]):  # yields each text once
            yield ids[:n]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "criteria",
    [
        StoppingCriteria(5),
        StoppingCriteria(5, lines=1),
        StoppingCriteria(5, lines=2),
        StoppingCriteria(5, stops=("ab", "b\n")),
        StoppingCriteria(1),
    ],
    ids=str,
)
@pytest.mark.parametrize("allowed", [(True, True, True), (True, False, True)])
def test_a_wide_beam_search_finds_the_likeliest_of_all_texts(seed, criteria, allowed):
    model, params = random_model(seed)
    candidates = [ids for ids in all_texts(criteria) if all(allowed[i] for i in ids)]
    scores = [log_probability(model, params, ids) for ids in candidates]
    best = int(np.argmax(scores))
    text, nats = search(model, 3**5, criteria, allowed)
    assert text == StopMatcher(criteria).feed(symbols(candidates[best]))
    assert nats == pytest.approx(scores[best], abs=1e-4)


@pytest.mark.parametrize(
    "criteria",
    [StoppingCriteria(4), StoppingCriteria(4, lines=1), StoppingCriteria(4, stops=("ab", "b"))],
    ids=str,
)
def test_a_wide_beam_search_finds_the_k_likeliest_of_all_texts(criteria):
    """Each text once, with the likelier of the stops that may end it."""
    model, params = random_model(2)
    best = {}
    for ids in all_texts(criteria):
        text = StopMatcher(criteria).feed(symbols(ids))
        best[text] = max(log_probability(model, params, ids), best.get(text, -np.inf))
    ranked = sorted(best.items(), key=lambda found: -found[1])
    for count in 1, 2, 9, len(ranked) + 5:
        found = beam_search(model, PRIME, 3**4, criteria, symbols, np.ones(3, bool), count=count)
        assert [text for text, _ in found] == [text for text, _ in ranked[:count]]
        expected = [nats for _, nats in ranked[:count]]
        np.testing.assert_allclose([nats for _, nats in found], expected, atol=1e-4)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_beam_search_equals_a_beam_in_plain_loops(width):
    for seed in range(5):
        model, params = random_model(seed, "gru")
        beam = [()]
        for _ in range(12):
            longer = [(*ids, i) for ids in beam for i in range(len(ALPHABET))]
            beam = sorted(longer, key=lambda ids: -log_probability(model, params, ids))[:width]
        assert search(model, width, StoppingCriteria(12))[0] == symbols(beam[0])


def test_beam_search_wider_than_the_possible_texts_ignores_impossible_ones():
    model, _ = random_model(0)
    assert search(model, 50, StoppingCriteria(3), (False, True, False))[0] == "bbb"


def test_beam_search_of_length_zero_returns_an_empty_text():
    assert search(random_model(0)[0], 3, StoppingCriteria(0)) == ("", 0.0)


def test_beam_search_with_a_large_vocabulary_fills_the_length():
    model, _ = random_model(1, vocab_size=4000)
    [(text, nats)] = beam_search(
        model, PRIME, 20, StoppingCriteria(30), symbols, np.ones(4000, bool)
    )
    assert len(text) == 30 and -30 * np.log(4000) < nats < 0
