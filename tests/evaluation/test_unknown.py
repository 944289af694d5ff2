"""The cost of characters that a model does not know."""

import math

import numpy as np
import pytest
from helpers.random_models import unwritable_model

import charrnn
from charrnn.errors import CharRNNError
from charrnn.evaluation import unknown
from charrnn.evaluation.evaluate import evaluate
from charrnn.evaluation.unknown import count_nats, num_unknown
from charrnn.text.corpus import read_corpus


@pytest.mark.parametrize(
    ("characters", "epochs", "n"), [(500, 0.5, 500), (500, 1, 500), (500, 2.5, 200), (1, 1.0, 1)]
)
def test_an_unseen_character_costs_as_much_as_one_met_once(characters, epochs, n):
    nats = count_nats({"characters": characters, "epochs": epochs, "steps": 3})
    assert nats == pytest.approx(-math.log(1 / (n + 1)))


def test_a_trained_model_has_met_the_characters_of_its_training_text(model_file, text):
    share = math.exp(-count_nats(charrnn.load(model_file).training))
    assert 0.8 * len(text) < 1 / share <= len(text)


@pytest.mark.parametrize(
    "history",
    [
        {},
        {"characters": 500},
        {"epochs": 2.0},
        {"characters": 0, "epochs": 1},
        {"characters": -5, "epochs": 1},
        {"characters": None, "epochs": None},
        {"characters": "500", "epochs": 1},
        {"characters": True, "epochs": 1},
        {"characters": 10**400, "epochs": 1},
        {"characters": 500, "epochs": math.nan},
        {"characters": 500, "epochs": [1]},
    ],
    ids=str,
)
def test_an_unusable_history_is_refused(history):
    with pytest.raises(CharRNNError, match="give --unknown skip"):
        count_nats(history)


def test_unknown_symbols_are_counted_and_their_loss_is_the_model_s(tmp_path, monkeypatch):
    monkeypatch.setattr(unknown, "BLOCK", 3)
    model = unwritable_model()
    (tmp_path / "text").write_text("aéb\n日ab a🙂")
    text = read_corpus(tmp_path / "text", vocabulary=model.vocabulary)
    assert (num_unknown(text), text.num_skipped) == (3, 0)
    result = evaluate(model.model, text)
    assert (result.unknown, result.unknown_nats) == (3, None)
    assert result.loss == model.loss("aéb\n日ab a🙂")


def test_skipped_characters_cost_what_is_asked(tmp_path, model_file):
    model = charrnn.load(model_file)
    (tmp_path / "text").write_text("MARA: Thé tide\n")
    text = read_corpus(tmp_path / "text", vocabulary=model.vocabulary, unknown="skip")
    known = model.loss("MARA: Th tide\n")
    result = evaluate(model.model, text, unknown_nats=7.5)
    assert (result.unknown, result.unknown_nats, result.characters) == (1, 7.5, 15)
    assert result.loss == pytest.approx((14 * known + 7.5) / 15)
    assert np.isfinite(known)
