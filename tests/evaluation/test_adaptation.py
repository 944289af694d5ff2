"""The loss of a model that learns from the text it reads, compared with the reference."""

import json
import math

import numpy as np
import pytest
from helpers import naive
from helpers.gradcheck import complex_step
from helpers.random_models import naive_start, with_ngrams

import charrnn
from charrnn.config import UNKNOWN_NATS, ModelConfig
from charrnn.errors import CharRNNError
from charrnn.evaluation import adaptation
from charrnn.evaluation.adaptation import STEPS, adapted_loss
from charrnn.evaluation.evaluate import evaluate
from charrnn.evaluation.loss import mean_loss, num_predicted
from charrnn.network.carried_state import CarriedState
from charrnn.network.cells import CELLS
from charrnn.network.model import Model
from charrnn.network.start import TextStart
from charrnn.text.corpus import read_corpus

V = 5


def random_model(
    cell="gru",
    dtype=np.float64,
    line_start=True,
    threads=1,
    precision="float32",
    ngrams=1,
    **config,
):
    """A model with irregular parameters, and these parameters for the reference implementation.

    Its texts start with id 2 in the first of three states, or blank.
    """
    config = ModelConfig(V, cell, **({"hidden_size": 3, "num_layers": 1} | config))
    config, table = with_ngrams(config, text_of(9)[:, None], ngrams)
    rng = np.random.default_rng(3)
    params = naive.random_params(config, rng, scale=1.0)
    model = Model(config, dtype=dtype, threads=threads, precision=precision, ngrams=table)
    model.load_state_dict(params)
    if line_start:
        state = model.zero_state(3)
        hidden = rng.uniform(-0.5, 0.5, state.hidden.shape).astype(dtype)
        recent = rng.integers(0, V, state.recent.shape, np.int32)
        model.start = TextStart(CarriedState(hidden, recent), np.array([2]))
    return model, params


def text_of(length):
    return np.random.default_rng(4).integers(0, V, length).astype(np.uint8)


@pytest.fixture
def language_model(model_file):
    return charrnn.load(model_file)


@pytest.mark.parametrize("ngrams, line_start", [(1, False), (1, True), (3, True)])
@pytest.mark.parametrize("cell", CELLS)
def test_adapted_loss_equals_the_reference(monkeypatch, cell, ngrams, line_start):
    monkeypatch.setattr(adaptation, "STEPS", 7)
    ids = text_of(2 * 7 + 4)
    how = {"embedding_size": 2 if cell == "lstm" else 0, "ngrams": ngrams}
    model, params = random_model(cell, line_start=line_start, **how)
    hidden, known, (read,) = naive_start(model, model.start.first.states)
    start, rates = (hidden, read, model.start.ids), {"rate": 0.0005, "decay": 2.0}
    losses = naive.adapted_losses(
        params, model.config, start, ids, complex_step, steps=7, **rates, ngrams=known
    )
    assert len(losses) == num_predicted(model, ids)
    assert abs(losses.mean() - mean_loss(model, ids)) > 1e-6  # learning has an effect
    for dtype, error in (np.float64, 1e-10), (np.float32, 1e-6):
        model, _ = random_model(cell, dtype, line_start, **how)
        assert adapted_loss(model, ids) == pytest.approx(losses.mean(), abs=error)


@pytest.mark.parametrize("line_start", [False, True])
@pytest.mark.parametrize("length", [2, STEPS, STEPS + 1, STEPS + 2, 3 * STEPS, 3 * STEPS + 9])
def test_adapting_predicts_the_characters_that_mean_loss_predicts(monkeypatch, length, line_start):
    monkeypatch.setattr(adaptation, "LEARNING_RATE", 0)
    model, _ = random_model(line_start=line_start)
    counts = []
    found = adapted_loss(model, text_of(length), counts.append)
    assert found == pytest.approx(mean_loss(model, text_of(length)), rel=1e-12)
    assert sum(counts) == num_predicted(model, text_of(length))


def test_adapting_needs_a_character_to_predict():
    for line_start, length in (True, 0), (False, 0), (False, 1):
        with pytest.raises(CharRNNError, match="too short"):
            adapted_loss(random_model(line_start=line_start)[0], text_of(length))
    assert adapted_loss(random_model()[0], text_of(1)) > 0


@pytest.mark.parametrize("length", [1, STEPS])
def test_characters_are_predicted_before_they_are_learned(length):
    model, _ = random_model()
    ids = text_of(length)
    assert adapted_loss(model, ids) == pytest.approx(mean_loss(model, ids), rel=1e-12)


def test_the_copy_that_adapts_has_the_precision_of_the_model():
    model, _ = random_model(dtype=np.float32, precision="bfloat16")
    loss = adapted_loss(model, text_of(STEPS))
    assert loss == pytest.approx(mean_loss(model, text_of(STEPS)), rel=1e-6)
    assert loss != adapted_loss(random_model(dtype=np.float32)[0], text_of(STEPS))


def test_the_model_does_not_change(language_model, text):
    model, ids = language_model.model, language_model.vocabulary.encode(text)
    before, static = model.parameters.flat.copy(), mean_loss(model, ids)

    def interrupt(count):
        raise KeyboardInterrupt

    assert adapted_loss(model, ids) != static
    with pytest.raises(KeyboardInterrupt):
        adapted_loss(model, ids, interrupt)
    assert np.array_equal(model.parameters.flat, before)
    assert mean_loss(model, ids) == static
    assert not model.has_backward  # nor does it take more memory


def test_adapting_lowers_the_loss_of_a_text_that_repeats(language_model):
    ids = language_model.vocabulary.encode("TOM: Then no friend has a late tide.\n" * 40)
    static, adapted = mean_loss(language_model.model, ids), adapted_loss(language_model.model, ids)
    assert adapted < static - 0.1


def test_adapted_losses_are_bit_identical_for_any_number_of_threads():
    losses = set()
    for threads in 1, 2, 3:
        model, _ = random_model("lstm", np.float32, hidden_size=256, threads=threads)
        losses.add(adapted_loss(model, text_of(200)))
    assert model.parameters.flat.size > 2**18  # enough work for three threads
    assert len(losses) == 1


def test_gradients_that_are_not_finite_are_not_learned(monkeypatch):
    model, _ = random_model()
    monkeypatch.setattr(adaptation, "norm", lambda *_: math.nan)
    assert adapted_loss(model, text_of(99)) == pytest.approx(mean_loss(model, text_of(99)))


def test_evaluation_adds_the_adapted_loss_if_asked(language_model, corpus_file, text):
    corpus = read_corpus(corpus_file, vocabulary=language_model.vocabulary)
    counts = []
    plain = evaluate(language_model.model, corpus)
    result = evaluate(language_model.model, corpus, adapt=True, progress=counts.append)
    assert plain.adapted_loss is None and result.loss == plain.loss
    assert result.adapted_loss == adapted_loss(language_model.model, corpus.ids)
    assert sum(counts) == 2 * len(text)


# --- The command


def test_eval_adapt_adds_the_adapted_loss(invoke, model_file, language_model, corpus_file, text):
    run = ["eval", "-m", model_file, corpus_file]
    plain, values = (json.loads(invoke(*run, "--json", *a).stdout) for a in ([], ["--adapt"]))
    nats = values.pop("adapted_nats_per_character")
    assert nats == adapted_loss(language_model.model, language_model.vocabulary.encode(text))
    assert values.pop("adapted_bits_per_character") == pytest.approx(nats / math.log(2))
    assert values == plain
    table = invoke(*run, "--adapt")
    assert f"adapting to the text  {nats:.4f} nats" in table.stdout
    assert f"{plain['nats_per_character']:.4f}" in table.stdout and not table.stderr


def test_eval_adapt_charges_unknown_characters(invoke, model_file, text):
    run = ["eval", "-m", model_file, "--json", "--adapt", "--unknown", "skip", "-"]
    known = json.loads(invoke(*run, input=text).stdout)["adapted_nats_per_character"]
    odd = json.loads(invoke(*run, input=text + "東" * len(text)).stdout)
    assert odd["adapted_nats_per_character"] == pytest.approx((known + UNKNOWN_NATS) / 2)


def test_eval_adapt_warns_of_a_text_too_short_to_learn_from(invoke, model_file, text):
    for length, warned in (STEPS, True), (STEPS + 1, False):
        result = invoke("eval", "-m", model_file, "--adapt", "-", input=text[:length])
        assert result.exit_code == 0 and ("--adapt has no effect" in result.stderr) == warned
        assert "adapting to the text" in result.stdout
