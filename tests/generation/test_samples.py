"""Whole texts: their log-probabilities, the conditions on them, and answers to primes."""

import itertools
import re
import tracemalloc

import numpy as np
import pytest
from helpers import naive
from helpers.random_models import model_of, naive_start

from charrnn.api import LanguageModel
from charrnn.errors import CharRNNError, UsageError
from charrnn.generation import batch, filters, sampler
from charrnn.generation.primes import PRIME_STEPS, read_primes
from charrnn.generation.sampler import SamplingOptions
from charrnn.network.carried_state import CarriedState
from charrnn.network.cells import CELLS
from charrnn.network.start import TextStart
from charrnn.text.vocabulary import CharVocabulary

CHARACTERS = "abcd\n"
VOCABULARY, V = CharVocabulary(CHARACTERS), len(CHARACTERS)
NUM_STARTS, LINE_END = 3, 4


def started(cell="lstm", scale=1.5, **how):
    """A language model that starts from one of three states, and its naive twin."""
    model, params = model_of(cell, V, H=4, ngrams=3, scale=scale, **how)
    rng = np.random.default_rng(2)
    hidden = rng.normal(size=model.zero_state(NUM_STARTS).hidden.shape).astype(np.float32)
    recent = rng.integers(0, V, (2, NUM_STARTS), np.int32)
    model.start = TextStart(CarriedState(hidden, recent), np.array([LINE_END]))
    return LanguageModel(model, VOCABULARY, {}), params


@pytest.fixture(scope="module")
def model():
    return started()[0]


def log_probability(model, params, sample, ended_by=""):
    """The log-probability of a sample by the reference, from the start that its generator draws."""
    key = np.random.SeedSequence(sample.seed, spawn_key=(sample.index,))
    k = np.random.default_rng(key).integers(NUM_STARTS)
    ids = [CHARACTERS.index(c) for c in sample.prime + sample.text + ended_by]
    start = naive_start(model.model, model.model.start.states.select([k]))
    x = np.array([LINE_END, *ids])[:, None]
    logits = naive.forward(params, model.config, x, *start)[0][:, 0]
    new = range(len(sample.prime), len(ids))
    return -sum(naive.cross_entropy(logits[t], ids[t]) for t in new)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "how, ended_by",
    [
        ({"length": 7}, ""),
        ({"length": 7, "temperature": 0.3, "top_k": 3, "repetition_penalty": 2.0}, ""),
        ({"length": 7, "allow": "ab", "min_p": 0.1}, ""),
        ({"length": None, "stop": "\n"}, "\n"),
        ({"length": None, "stop": "ab", "forbid": "c"}, "ab"),
        ({"length": None, "lines": 2}, ""),
    ],
    ids=str,
)
def test_a_log_probability_is_that_of_the_reference(cell, how, ended_by):
    """Whatever the sampling options; a stop is included."""
    model, params = started(cell)
    for sample in model.samples(6, prime="ba", seed=4, **how):
        expected = log_probability(model, params, sample, ended_by)
        assert sample.log_probability == pytest.approx(expected, abs=2e-4)


def test_probabilities_of_all_texts_add_up_to_one():
    """Of lines that end by themselves or after three characters."""
    model, params = started()
    found = {}
    for sample in model.samples(3000, 3, seed=1, mid_line=True, prime="a", stop="\n"):
        found[sample.text] = sample.log_probability
    lines = ["".join(c) for n in range(4) for c in itertools.product("abcd", repeat=n)]
    assert set(found) <= set(lines) and len(found) > 50
    # Those that did not occur are unlikely.
    assert 0.98 < sum(np.exp(list(found.values()))) < 1 + 1e-6


@pytest.mark.parametrize("how", [{"length": 9}, {"length": None, "lines": 1}], ids=str)
def test_texts_and_log_probabilities_do_not_depend_on_rows_or_rounds(monkeypatch, how):
    """To the last bit."""
    expected = list(started()[0].samples(60, seed=1, **how))
    for rows, steps, threads in (1, 1, 1), (7, 3, 2), (100, 5, 3):
        monkeypatch.setattr(batch, "ROWS", rows)
        for name in "STEPS", "STEPS_FIXED_LENGTH", "MIN_STEPS":
            monkeypatch.setattr(batch, name, steps)
        model, _ = started(threads=threads)
        assert list(model.samples(60, seed=1, **how)) == expected
        assert list(model.samples(5, seed=1, first=50, **how)) == expected[50:55]


def test_streams_of_seeds_and_texts_are_independent(model):
    """No text of one seed is one of another; their random numbers are not correlated."""
    how = {"length": 40, "temperature": 1e9}  # each character is as likely as the others
    texts = [s.text for seed in range(10) for s in model.samples(30, seed=seed, **how)]
    assert len(set(texts)) == 300
    ids = np.array([[CHARACTERS.index(c) for c in text] for text in texts])
    same = [np.mean(ids[:-shift] == ids[shift:]) for shift in (1, 29, 30, 31)]
    assert np.abs(np.array(same) - 1 / V).max() < 0.02  # five standard deviations


def test_conditions_choose_among_the_texts_of_the_seed(model, tmp_path):
    """In their order, as many as are asked for."""
    how = {"length": None, "lines": 1, "seed": 3, "prime": "c"}
    plain = [s.text for s in model.samples(1200, **how)]
    (tmp_path / "known").write_text("".join("c" + text for text in plain[:50]))
    wanted = []
    for text in plain:
        is_known = text in plain[:50]
        if (
            not is_known
            and text not in wanted
            and 3 < len(text) < 9
            and re.search("^ca|d$", "c" + text)
        ):
            wanted.append(text)
    assert len(wanted) > 10
    for count in 1, len(wanted):
        found = model.samples(
            count,
            unique=True,
            not_in=tmp_path / "known",
            match="^ca|d$",
            min_length=4,
            max_length=8,
            **how,
        )
        assert [s.text for s in found] == wanted[:count]
    unique = [s.text for s in model.samples(90, unique=True, **how)]
    assert unique == list(dict.fromkeys(plain))[:90]


def test_few_more_texts_are_generated_than_conditions_need(model, monkeypatch):
    numbers = []
    begin = sampler.BatchSampler.begin

    def counted(sampler, *arguments):
        numbers.append(arguments)
        begin(sampler, *arguments)

    monkeypatch.setattr(sampler.BatchSampler, "begin", counted)
    found = list(model.samples(5, 20, seed=1, match="^[^\n]"))
    assert 5 <= found[-1].index + 1 <= len(numbers) <= 20


def test_the_search_ends_when_nothing_new_comes(model, monkeypatch):
    monkeypatch.setattr(filters, "MAX_REJECTED", 500)
    samples = model.samples(10, 1, seed=1, unique=True)
    found = [next(samples).text for _ in range(V)]
    assert sorted(found) == sorted(CHARACTERS)
    with pytest.raises(CharRNNError, match="500 texts in a row were rejected"):
        next(samples)
    with pytest.raises(CharRNNError, match="500 texts"):
        next(model.answers([["a"]], 1, seed=1, match="x"))


def test_memory_does_not_grow_with_the_texts_that_are_rejected(model, monkeypatch):
    def peak(count):
        monkeypatch.setattr(filters, "MAX_REJECTED", count)
        tracemalloc.start()
        with pytest.raises(CharRNNError, match="in a row"):
            next(model.samples(1, 3, seed=1, match="x"))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(4000) < peak(2000) + 20_000  # 2,000 texts take 100 KB, as str


@pytest.mark.parametrize(
    "how, words",
    [
        ({"length": None}, "needs an end"),
        ({"unique": True, "temperature": 0}, "same text"),
        ({"match": "a", "top_k": 1}, "same text"),
        ({"length": 3, "min_length": 4}, "--min-length is larger"),
        ({"min_length": -1}, "min length"),
        ({"max_length": -1}, "max length"),
        ({"min_length": 4, "max_length": 3}, "larger than --max-length"),
        ({"length": 4, "max_length": 3}, "each text has --length"),
        ({"match": "("}, "regular expression"),
        ({"first": -1}, "first"),
    ],
    ids=str,
)
def test_conditions_that_no_text_can_fulfil_are_refused_at_once(model, how, words):
    with pytest.raises(UsageError, match=words):
        model.samples(2, **how)
    with pytest.raises(UsageError, match=words):
        model.answers([["a"]], **how)


def test_greedy_texts_without_conditions_have_log_probabilities(model):
    first, second = model.samples(2, 5, temperature=0)
    assert first.text == second.text == model.sample(5, temperature=0)
    assert first.log_probability == pytest.approx(model.beam(1, 5)[1], abs=1e-5)


# --- Primes


def primes_of(lengths):
    rng = np.random.default_rng(1)
    return ["".join(rng.choice(list(CHARACTERS), n)) for n in lengths]


@pytest.mark.parametrize("cell", CELLS)
def test_primes_of_different_lengths_are_read_as_each_alone(cell):
    """To the last bit, in several chunks, from different states."""
    model = started(cell)[0].model
    lengths = [1, 2, PRIME_STEPS, PRIME_STEPS + 1, PRIME_STEPS + 2, 3, 200, 1, 150]
    primes = [VOCABULARY.encode(p).astype(np.int32) for p in primes_of(lengths)]
    states = model.start.states.select([n % NUM_STARTS for n in range(len(primes))])
    together = read_primes(model, primes, states)
    for n, read in enumerate(together):
        [alone] = read_primes(model, [primes[n]], states.select([n]))
        assert read.state.equals(alone.state) and read.ids is primes[n]


def test_answers_equal_samples_of_each_prime_alone(model):
    primes = primes_of([0, 3, 3, 90, 1, 300, 0, 65, 2])
    how = {"length": 8, "seed": 5, "repetition_penalty": 1.5}
    together = list(model.answers([primes], **how))
    for i, prime in enumerate(primes):
        assert [together[i]] == list(model.samples(1, prime=prime, first=i, **how))
    assert list(model.answers([primes[:2], [], primes[2:3], primes[3:]], **how)) == together
    assert list(model.answers([primes[4:]], first=4, **how)) == together[4:]
    assert list(model.answers([], **how)) == list(model.answers([[]], **how)) == []


def test_many_primes_are_answered_in_order(model, monkeypatch):
    monkeypatch.setattr(batch, "ROWS", 8)
    primes = primes_of([n % 5 for n in range(50)])
    answers = list(model.answers([primes], None, lines=1, seed=1))
    assert [(a.prime, a.index) for a in answers] == [(p, i) for i, p in enumerate(primes)]
    again = [next(model.samples(1, None, lines=1, seed=1, prime=p, first=i)) for i, p in
             enumerate(primes)]  # fmt: skip
    assert answers == again


def test_a_batch_of_primes_is_asked_for_after_the_answers_before():
    model, _ = started()
    asked = []

    def batches():
        for prime in "ab", "c", "d":
            asked.append(prime)
            yield list(prime)

    answers = model.answers(batches(), 3, seed=1)
    assert next(answers).prime == "a" and next(answers).prime == "b" and asked == ["ab"]
    assert next(answers).prime == "c" and asked == ["ab", "c"]


def test_rejected_answers_are_generated_anew(model):
    """The result does not depend on how the primes are batched."""
    primes = primes_of([1, 2, 0, 3] * 6)
    how = {"length": 3, "seed": 2, "unique": True, "match": "[ab]$"}
    answers = list(model.answers([primes], **how))
    texts = [a.prime + a.text for a in answers]
    assert [a.prime for a in answers] == primes and len(set(texts)) == len(primes)
    assert all(re.search("[ab]$", text) for text in texts)
    plain = list(model.answers([primes], 3, seed=2))
    fitting = [i for i, a in enumerate(plain) if re.search("[ab]$", a.prime + a.text)]
    assert 0 < len(fitting) < len(primes)
    assert sum(answers[i] == plain[i] for i in fitting) >= len(fitting) - 2  # two repeated, at most
    assert list(model.answers([[p] for p in primes], **how)) == answers


def test_an_unknown_character_in_a_prime_is_named(model):
    with pytest.raises(CharRNNError, match="'x'"):
        list(model.answers([["a", "x"]], 3))
    with pytest.raises(UsageError, match="no line to continue"):
        list(model.answers([["a", ""]], 3, mid_line=True))


def test_greedy_options_draw_nothing():
    assert SamplingOptions(temperature=0).is_greedy and SamplingOptions(top_k=1).is_greedy
    assert not SamplingOptions(top_k=2).is_greedy and not SamplingOptions().is_greedy
