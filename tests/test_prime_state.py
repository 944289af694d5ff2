"""Primes that are read once and continued many times."""

import pytest

import charrnn
from charrnn.errors import UsageError
from charrnn.generation import primes

PRIMES = {"model_file": "MARA: The tide", "bytes_model_file": "Grüße", "records_model": "ab"}
every_model = pytest.mark.parametrize("fixture", PRIMES)


@pytest.fixture
def model(fixture, request):
    return charrnn.load(request.getfixturevalue(fixture), threads=1)


@every_model
@pytest.mark.parametrize("how", [{}, {"temperature": 0}, {"repetition_penalty": 1.5}])
def test_a_state_gives_the_texts_of_its_prime(model, fixture, how):
    prime = PRIMES[fixture]
    half = model.state(prime[:2])
    for state in model.state(prime), model.state(prime[2:], after=half):
        for seed in range(6):
            expected = model.sample(40, prime=prime, seed=seed, **how)
            assert model.sample(40, state=state, seed=seed, **how) == expected
    assert half.text == prime[:2]


def test_a_long_text_is_read_once(model_file, text, monkeypatch):
    model = charrnn.load(model_file)
    state = model.state(text[:700])
    expected = [s.text for s in model.samples(5, 30, prime=text[:700], seed=3)]
    monkeypatch.setattr(primes, "states_after", None)
    assert [s.text for s in model.samples(5, 30, state=state, seed=3)] == expected
    assert [s.prime for s in model.samples(1, 3, state=state)] == [text[:700]]


def test_a_state_may_begin_within_a_line(model_file):
    model = charrnn.load(model_file)
    state = model.state("tide", mid_line=True)
    expected = model.sample(30, prime="tide is", mid_line=True, seed=1)
    assert model.sample(30, state=model.state(" is", after=state), seed=1) == expected


def test_what_does_not_fit_a_state_is_refused(model_file, records_model):
    model, records = charrnn.load(model_file), charrnn.load(records_model)
    state = model.state("MARA")
    for wrong in (
        lambda: charrnn.load(model_file).sample(3, state=state),
        lambda: charrnn.load(model_file).state("M", after=state),
        lambda: model.sample(3, state=state, prime="M"),
        lambda: model.sample(3, state=state, mid_line=True),
        lambda: model.state("M", after=state, mid_line=True),
        lambda: list(model.answers([["M"]], state=state)),
        lambda: records.state("ab\n"),
        lambda: records.state("b\n", after=records.state("a")),
        lambda: model.state("", mid_line=True),
    ):
        with pytest.raises(UsageError):
            wrong()
