"""Mixtures of models, compared with the reference implementation and with their models."""

import json
import math
from functools import partial

import numpy as np
import pytest
from helpers import naive
from helpers.random_models import model_of, ngram_tuples

import charrnn
from charrnn.errors import CharRNNError, UsageError
from charrnn.generation import batch
from charrnn.generation.seeds import rng_of_text
from charrnn.text.vocabulary import UNKNOWN, CharVocabulary

WEIGHTS = 0.7, 0.3
PRIMES = {"model_file": "MARA: The tide", "bytes_model_file": "Grüße", "records_model": "ab"}
SYMBOLS = "\nabcde", "dab\nfgh", "\nafi" + UNKNOWN  # of three models


@pytest.fixture(scope="module")
def parts():
    """Three random models, and the parameters of their naive twins."""
    models, params = [], []
    for i, (cell, characters) in enumerate(zip(("lstm", "gru", "rnn"), SYMBOLS, strict=True)):
        more = {"ngrams": 3, "embedding_size": 4 * (i == 1)}
        model, p = model_of(cell, V=len(characters), H=5 + i, seed=i + 1, **more)
        models.append(charrnn.LanguageModel(model, CharVocabulary(characters), {}))
        params.append(p)
    return models, params


def naive_mixture(parts, weights, text):
    """The mixed probabilities of the united characters to come after `text`."""
    models, all_params = parts
    mixed = dict.fromkeys("\nabcdefghi" + UNKNOWN, 0.0)
    for model, params, weight in zip(models, all_params, weights, strict=True):
        known, config = model.vocabulary.characters, model.config
        other = UNKNOWN if UNKNOWN in known else ""
        read = "".join(c if c in known else other for c in text) or "\n"
        ids = np.array([known.index(c) for c in read])
        hidden = np.zeros((config.num_layers, naive.STATES[config.cell], 1, config.hidden_size))
        logits, _ = naive.forward(params, config, ids[:, None], hidden, ngram_tuples(model.model))
        p = np.exp(logits[-1, 0] - logits[-1, 0].max())
        for c, probability in zip(known, p / p.sum(), strict=True):
            mixed[c] += weight * probability
    return mixed


THREE = 0.5, 0.3, 0.2


@pytest.mark.parametrize("text", ["", "a", "dgig", "hhab\ncdifx"])
def test_probabilities_equal_the_reference(parts, text):
    mixture = charrnn.Mixture(parts[0], THREE)
    found = mixture.probabilities(text)
    expected = naive_mixture(parts, THREE, text)
    assert sum(found.values()) == pytest.approx(1)
    assert {c or UNKNOWN: p for c, p in found.items()} == pytest.approx(expected, rel=1e-5)


def test_losses_equal_the_reference(parts):
    mixture, text = charrnn.Mixture(parts[0], THREE), "abgcxdeifh\nba"
    losses = mixture.losses(text)
    for i, character in enumerate(text):
        if i > 1:  # no model of these predicts its first character; "b" is that of none
            p = naive_mixture(parts, THREE, text[:i])
            seen = character if character in p else UNKNOWN
            assert losses[i] == pytest.approx(-math.log(p[seen]), rel=1e-4)
    assert np.isnan(losses[0])
    assert mixture.loss(text) == pytest.approx(np.nanmean(losses))


@pytest.mark.parametrize("temperature", [0, 0.7, 2.0])
@pytest.mark.parametrize("prime", ["", "bge"])
def test_texts_equal_the_reference(parts, temperature, prime):
    """Each character is drawn as rng.choice draws it from the mixed probabilities."""
    mixture = charrnn.Mixture(parts[0], THREE)
    for index in range(3):
        rng = rng_of_text(5, index)
        rng.integers(1)  # the start
        expected = ""
        for _ in range(25):
            p = naive_mixture(parts, THREE, (prime or "\n") + expected)
            p.pop(UNKNOWN)
            scores = np.log(list(p.values()))
            if temperature == 0:
                expected += max(p, key=p.get)
            else:
                q = np.exp((scores - scores.max()) / temperature)
                expected += list(p)[rng.choice(len(p), p=q / q.sum())]
        how = {"prime": prime, "temperature": temperature, "seed": 5, "first": index}
        assert mixture.sample(25, **how) == expected


@pytest.mark.parametrize("fixture", PRIMES)
@pytest.mark.parametrize("how", [{}, {"temperature": 0}, {"repetition_penalty": 1.5, "top_k": 5}])
def test_a_model_mixed_with_itself_stays_the_same(fixture, how, request):
    model, prime = charrnn.load(request.getfixturevalue(fixture), threads=1), PRIMES[fixture]
    mixture = charrnn.Mixture([model, model], WEIGHTS)
    assert mixture.separator == model.separator and mixture.record_end == model.record_end
    samples = [list(m.samples(9, 40, prime=prime, seed=3, **how)) for m in (model, mixture)]
    for one, other in zip(*samples, strict=True):
        assert one.text == other.text and one.stopped == other.stopped
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-6)
    text = "MARA: The tide"[: 14 if fixture == "model_file" else 0] or "abba"
    np.testing.assert_allclose(mixture.losses(text), model.losses(text), rtol=1e-6)
    assert mixture.probabilities(text) == pytest.approx(model.probabilities(text), rel=1e-6)


def test_texts_do_not_depend_on_threads_or_on_each_other(parts, monkeypatch):
    mixture = charrnn.Mixture(parts[0], THREE)
    texts = [s.text for s in mixture.samples(40, 30, seed=2, stop="ab")]
    assert len(set(texts)) > 30
    assert [mixture.sample(30, seed=2, first=i, stop="ab") for i in range(40)] == texts
    monkeypatch.setattr(batch, "ROWS", 7)
    assert [s.text for s in mixture.samples(40, 30, seed=2, stop="ab")] == texts
    answers = mixture.answers([["a", "dg"], ["hi"]], 9, seed=4)
    expected = [
        mixture.sample(9, prime=p, seed=4, first=i) for i, p in enumerate(["a", "dg", "hi"])
    ]
    assert [s.text for s in answers] == expected


def test_the_log_probability_of_a_text_is_its_loss(model_file, bytes_model_file):
    models = [charrnn.load(model_file), charrnn.load(model_file)]
    models[1].model.load_state_dict(
        {name: 0.5 * array for name, array in models[1].model.state_dict().items()}
    )
    mixture = charrnn.Mixture(models, WEIGHTS)
    [sample] = mixture.samples(1, 50, prime="MARA", seed=1)
    losses = mixture.losses("MARA" + sample.text)
    assert sample.log_probability == pytest.approx(-losses[4:].sum(), rel=1e-5)
    assert mixture.loss("MARA") != pytest.approx(models[0].loss("MARA"), rel=1e-3)


def test_a_mixture_of_models_on_one_thread_or_several_writes_the_same(model_file):
    texts = set()
    for threads in 1, 2:
        models = [charrnn.load(model_file, threads) for _ in WEIGHTS]
        texts.add(tuple(s.text for s in charrnn.Mixture(models).samples(20, 30, seed=1)))
    assert len(texts) == 1


@pytest.mark.parametrize(
    "weights, reason",
    [
        ([1.0], "as many weights"),
        ([0.5, 0.5, 0.0], "as many weights"),
        ([1.5, -0.5], "above 0, not 1.5,-0.5"),
        ([1.0, 0.0], "above 0"),
        ([math.nan, 1.0], "above 0"),
        ([math.inf, 0.5], "add up to inf"),
        ([0.5, 0.4], "0.5,0.4 add up to 0.9"),
    ],
)
def test_wrong_weights_are_refused(model_file, weights, reason):
    model = charrnn.load(model_file)
    with pytest.raises(UsageError, match=reason):
        charrnn.Mixture([model, model], weights)


def test_models_that_do_not_fit_are_refused(model_file, bytes_model_file, records_model):
    model, of_bytes, records = map(charrnn.load, (model_file, bytes_model_file, records_model))
    for others, reason in (([of_bytes], "bytes"), ([records], "records"), ([], "at least one")):
        with pytest.raises(UsageError, match=reason):
            charrnn.Mixture([model, *others] if others else [])
    mixture = charrnn.Mixture([model, model])
    with pytest.raises(UsageError, match="state"):
        mixture.sample(3, state=model.state("M"))
    with pytest.raises(UsageError, match="no line to continue"):
        mixture.sample(3, mid_line=True)
    with pytest.raises(CharRNNError, match="never seen"):
        mixture.sample(3, prime="\u4e00")
    with pytest.raises(CharRNNError, match="too short"):
        mixture.loss("")
    with pytest.raises(UsageError, match="ends the record"):
        charrnn.Mixture([records, records]).sample(3, prime="ab\n")


def test_a_character_that_one_model_lacks_is_skipped_by_it(parts):
    """With "x", which only the third model reads, the other two predict what they did before."""
    models, _ = parts
    mixture = charrnn.Mixture(models[:2])
    assert mixture.vocabulary.characters == "\nabcdefgh"
    with pytest.raises(CharRNNError, match="never seen"):
        mixture.loss("axb")
    first = mixture.parts[0].model
    assert first is models[0].model
    both, alone = mixture.probabilities("agh"), models[0].probabilities("a")
    other = models[1].probabilities("agh")
    for character in "cde":
        p = alone[character] / 2 + other.get(character, 0) / 2
        assert both[character] == pytest.approx(p, rel=1e-5)


# --- the commands


@pytest.fixture
def other_file(tmp_path, model_file):
    """The model of `model_file` with smaller weights."""
    model = charrnn.load(model_file)
    tensors = {name: 0.5 * array for name, array in model.model.state_dict().items()}
    model.model.load_state_dict(tensors)
    model.save(tmp_path / "other")
    return tmp_path / "other"


def test_sample_and_eval_mix_models(invoke, model_file, other_file, tmp_path):
    sample = partial(invoke, "sample", "-m", model_file)
    mix = ["-m", other_file, "--mix", "0.7,0.3"]
    mixture = charrnn.Mixture([charrnn.load(f) for f in (model_file, other_file)], WEIGHTS)
    assert sample(*mix, "--length", 40, "--seed", 7).stdout == mixture.sample(40, seed=7)
    found = json.loads(sample(*mix, "--jsonl", "--seed", 1, "--lines", 1).stdout)
    [expected] = mixture.samples(1, 500, seed=1, lines=1)
    assert (found["text"], found["log_probability"]) == (
        expected.text,
        expected.log_probability,
    )
    text = "MARA: The tide is here.\n" * 3
    (tmp_path / "text").write_text(text)
    result = invoke("eval", tmp_path / "text", "-m", model_file, *mix, "--json")
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert json.loads(result.stdout)["nats_per_character"] == pytest.approx(mixture.loss(text))
    (tmp_path / "text").write_text(text + "\u4e00")
    skipped = invoke(
        "eval", tmp_path / "text", "-m", model_file, *mix, "--json", "--unknown", "skip"
    )
    total = mixture.losses(text)[-len(text) :].sum() + 50
    nats = json.loads(skipped.stdout)["nats_per_character"]
    assert nats == pytest.approx(total / (len(text) + 1), rel=1e-3)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["sample", "--mix", "0.5,0.5"], "--mix is for several models"),
        (["sample", "-m", "{m}", "--mix", "0.5,x"], "'0.5,x' is not a list of numbers"),
        (["sample", "-m", "{m}", "--mix", ""], "'' is not a list of numbers"),
        (["sample", "-m", "{m}", "--mix", "0.5,0.6"], "add up to 1.1"),
        (["sample", "-m", "{m}", "--mix", "1"], "2 models have as many weights"),
        (["sample", "-m", "{m}"], "2 models need weights: give --mix 0.5,0.5, or one -m."),
        (["eval", "{m}", "-m", "{m}", "-m", "{m}"], "give --mix 0.333333,0.333333,0.333333"),
        (["sample", "-m", "{m}", "--beam", "2"], "a beam search has one model"),
        (["sample", "-m", "missing", "--mix", ".5,.5"], "missing"),
        (["sample", "-m", "{m}", "-o", "{m}"], "the output"),
        (["eval", "{m}", "-m", "{m}", "--adapt", "--window", "9"], "--window and --adapt measure"),
        (["eval", "{m}", "-m", "{m}", "--unknown", "count"], "--unknown count measure"),
    ],
)
def test_wrong_options_get_one_sentence(invoke, model_file, arguments, reason):
    command, *rest = [a.format(m=model_file) for a in arguments]
    result = invoke(command, "-m", model_file, *rest)
    assert result.exit_code != 0 and result.stdout == ""
    assert reason in result.stderr.splitlines()[-1]
