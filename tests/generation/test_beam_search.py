"""Beam search against all texts there are, and against the likeliest character each time."""

import itertools

import numpy as np
import pytest
from helpers import naive

from charrnn.config import ModelConfig
from charrnn.generation.beam_search import beam_search
from charrnn.generation.stopping import StopMatcher, StoppingCriteria
from charrnn.network.model import Model

ALPHABET = "ab\n"
PRIME = np.array([0, 2, 1])


def random_model(seed, cell="lstm", vocab_size=3):
    config = ModelConfig(vocab_size, cell, hidden_size=5, num_layers=2)
    params = naive.random_params(config, np.random.default_rng(seed), scale=2)
    model = Model(config)
    model.load_state_dict(params)
    return model, params


def symbols(ids):
    return "".join(chr(32 + i) if i >= len(ALPHABET) else ALPHABET[i] for i in ids)


def search(model, width, ending, allowed=(True, True, True)):
    return beam_search(model, PRIME, width, ending, symbols, np.array(allowed))


def log_probability(model, params, ids):
    x = np.array([*PRIME, *ids])
    state = model.zero_state(1).astype(float)
    logits, _ = naive.forward(params, model.config, x[:-1, None], state)
    start = len(PRIME) - 1
    return -sum(naive.cross_entropy(logits[start + t, 0], i) for t, i in enumerate(ids))


def texts(ending):
    """The ids of all texts, just to their ends."""
    for ids in itertools.product(range(len(ALPHABET)), repeat=ending.length):
        cutter = StopMatcher(ending)
        n = 0
        while not cutter.over:
            cutter.feed(ALPHABET[ids[n]])
            n += 1
        if n == len(ids) or all(i == 0 for i in ids[n:]):  # each once
            yield ids[:n]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "ending",
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
def test_wide_enough_it_finds_the_likeliest_text_of_all(seed, ending, allowed):
    model, params = random_model(seed)
    candidates = [ids for ids in texts(ending) if all(allowed[i] for i in ids)]
    scores = [log_probability(model, params, ids) for ids in candidates]
    best = int(np.argmax(scores))
    text, nats = search(model, 3**5, ending, allowed)
    assert text == StopMatcher(ending).feed(symbols(candidates[best]))
    assert nats == pytest.approx(scores[best], abs=1e-4)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_it_follows_so_many_beginnings(width):
    """A beam written out in plain loops."""
    for seed in range(5):
        model, params = random_model(seed, "gru")
        beam = [()]
        for _ in range(12):
            longer = [(*ids, i) for ids in beam for i in range(len(ALPHABET))]
            beam = sorted(longer, key=lambda ids: -log_probability(model, params, ids))[:width]
        assert search(model, width, StoppingCriteria(12))[0] == symbols(beam[0])


def test_a_wider_beam_is_never_given_a_text_of_no_likelihood():
    model, _ = random_model(0)
    assert search(model, 50, StoppingCriteria(3), (False, True, False))[0] == "bbb"


def test_nothing_to_write():
    assert search(random_model(0)[0], 3, StoppingCriteria(0)) == ("", 0.0)


def test_a_large_vocabulary():
    model, _ = random_model(1, vocab_size=4000)
    text, nats = beam_search(model, PRIME, 20, StoppingCriteria(30), symbols, np.ones(4000, bool))
    assert len(text) == 30 and -30 * np.log(4000) < nats < 0
