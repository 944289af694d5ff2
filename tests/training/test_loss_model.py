"""The planner's model of the loss: its constants are the fit of the measured runs."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from charrnn.training.loss_model import WITH_NGRAMS, WITHOUT_NGRAMS

CURVES = {"WITH_NGRAMS": WITH_NGRAMS, "WITHOUT_NGRAMS": WITHOUT_NGRAMS}


@pytest.fixture(scope="module")
def planner_fit():
    path = Path(__file__).parents[1] / "bench" / "planner_fit.py"
    spec = importlib.util.spec_from_file_location("planner_fit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_constants_are_the_fit_of_the_measured_runs(planner_fit):
    runs = planner_fit.best_runs(planner_fit.read_runs())
    curves, constants = planner_fit.fitted(runs)
    assert curves == CURVES
    errors = [planner_fit.predicted(run, curves, constants) - run["loss"] for run in runs]
    assert np.mean(np.abs(errors)) < 0.012 and len(runs) > 60


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize("num_chars", [10**4, 10**5, 10**6, 10**8])
def test_the_best_number_of_epochs_has_the_lowest_loss(curve, num_chars):
    best = curve.best_epochs(num_chars)
    loss = curve.loss(num_chars, 128, best, 2)
    others = [curve.loss(num_chars, 128, best * factor, 2) for factor in (0.5, 0.8, 1.25, 2)]
    if best > 1:
        assert loss < min(others) + 0.3 * (max(others) - loss)
    assert curve.loss(num_chars, 128, 1, 2) >= loss or best == 1


def test_wider_models_and_more_of_them_have_lower_losses():
    for curve in CURVES.values():
        losses = [curve.loss(10**6, units, 2, 2) for units in (64, 128, 256)]
        assert losses == sorted(losses, reverse=True)
        losses = [curve.loss(10**6, 128, 2, members) for members in (1, 2, 4, 8)]
        assert losses == sorted(losses, reverse=True)


def test_the_program_measures_and_fits_a_text(planner_fit, tmp_path, monkeypatch, corpus_file):
    """The grid of real runs takes an hour; one of its runs here takes a second."""
    run = planner_fit.measured_run(
        corpus_file,
        {
            "num_layers": 1, "hidden_size": 16, "ngrams": 3, "epochs": 0.5, "ensemble": 2,
            "dropout": 0.1, "recurrent_dropout": 0.1,
        },
    )  # fmt: skip
    assert 0 < run["loss"] < 5 and run["ensemble"] == 2
    text = corpus_file.read_text()
    assert run["characters"] == pytest.approx(0.9 * len(text), abs=1)
