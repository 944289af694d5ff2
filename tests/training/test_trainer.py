"""One step of learning, in its parts."""

from dataclasses import replace

import numpy as np
import pytest

from charrnn.config import CELL_NAMES, LEARNING_RATES, ModelConfig, TrainOptions
from charrnn.network.model import Model
from charrnn.network.stack import forward
from charrnn.training.trainer import OUTPUT_RATES, Trainer

CONFIG = ModelConfig(11, hidden_size=8, num_layers=2, embedding_size=5)


def learner_of(optimizer="adam", **options):
    options = TrainOptions(optimizer=optimizer, **options)
    return Trainer(CONFIG, options, np.random.default_rng(0), 1, batch_size=4, seq_length=6)


def chunk():
    return tuple(np.random.default_rng(1).integers(0, 11, (2, 6, 4)).astype(np.int32))


def test_to_compute_changes_nothing_but_gradients():
    learner = learner_of()
    weights, state = learner.model.parameters.flat.copy(), learner.stack.get_state()
    loss, length = learner.compute(*chunk(), None)
    assert loss == pytest.approx(np.log(11), rel=0.2)
    gradients = learner.stack.gradients.flat
    assert length == pytest.approx(np.linalg.norm(gradients.astype(float)))
    assert np.array_equal(learner.model.parameters.flat, weights)
    assert np.array_equal(learner.stack.get_state(), state)
    learner.update(0.01)
    assert not np.array_equal(learner.model.parameters.flat, weights)
    assert not np.array_equal(learner.stack.get_state(), state)


@pytest.mark.parametrize("optimizer", LEARNING_RATES)
def test_the_output_layer_has_a_learning_rate_of_its_own(optimizer):
    """With Adam the first update of every weight is the learning rate, up or down."""
    learner = learner_of(optimizer, clip_norm=0.0)
    before = learner.model.state_dict()
    learner.compute(*chunk(), None)
    gradients = learner.stack.gradients.state_dict()
    learner.update(0.01)
    ratios = {}
    for name, tensor in learner.model.state_dict().items():
        g = gradients[name]
        usual = {
            "cautious-adam": np.sign(g),
            "adam": np.sign(g),
            "sgd": g,
            "adagrad": np.sign(g),
        }.get(optimizer, np.sign(g) / np.sqrt(0.05))
        touched = np.abs(g) > 1e-5
        changes = (tensor - before[name])[touched] / (-0.01 * usual[touched])
        ratios[name] = np.median(changes)
    output = OUTPUT_RATES.get(optimizer, 1.0)
    expected = {name: output if name == "output.weight" else 1.0 for name in ratios}
    assert ratios == pytest.approx(expected, rel=2e-2)
    assert OUTPUT_RATES == {"cautious-adam": 3.0, "adam": 3.0}


@pytest.mark.parametrize(
    "options, length",
    [({"clip_norm": 0.5}, 0.5), ({"clip_norm": 0.0}, None), ({"clip_value": 1e-3}, None)],
)
def test_gradients_are_clipped(options, length):
    learner = learner_of(**options)
    learner.compute(*chunk(), None)
    gradients = learner.stack.gradients.flat
    gradients *= 100
    learner._norm *= 100
    before = gradients.copy()
    learner.update(0.0)
    if "clip_value" in options:
        before = before.clip(-1e-3, 1e-3)
        length = min(1.0, np.linalg.norm(before))
    expected = before * (length / np.linalg.norm(before)) if length else before
    np.testing.assert_allclose(gradients, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("threads", [1, 3])
def test_recurrent_dropout_is_a_network_with_some_weights_from_step_to_step_missing(cell, threads):
    """Loss and gradients are that network's, but of the weights as they are."""
    config = replace(CONFIG, cell=cell)
    shape = {"batch_size": 4, "seq_length": 6}
    options = TrainOptions(recurrent_dropout=0.25)
    learner = Trainer(config, options, np.random.default_rng(0), threads, **shape)
    weights = learner.model.state_dict()
    loss, _ = learner.compute(*chunk(), 77)
    assert all(np.array_equal(a, weights[name]) for name, a in learner.model.state_dict().items())

    gradients = learner.stack.gradients.state_dict()
    learner.model.drop_recurrent(learner.model.parameters, 77, 0.25)
    binned_means = learner.model.state_dict()
    other = Trainer(config, TrainOptions(), np.random.default_rng(0), 1, **shape)
    other.model.load_state_dict(binned_means)
    assert other.compute(*chunk(), None)[0] == loss
    for name, g in other.stack.gradients.state_dict().items():
        recurrent = "weight_hh" in name
        mask = np.where(binned_means[name] == 0, 0, 4 / 3) if recurrent else np.ones_like(g)
        np.testing.assert_allclose(binned_means[name], weights[name] * mask, rtol=1e-6)
        np.testing.assert_allclose(gradients[name], g * mask, rtol=1e-6)
        if recurrent:
            assert 0.1 < (mask == 0).mean() < 0.4


def test_after_recurrent_dropout_the_whole_network_goes_on():
    learner = learner_of(recurrent_dropout=0.5)
    learner.compute(*chunk(), 5)
    learner.update(0.01)
    x, y = chunk()
    whole = Model(CONFIG)
    whole.load_state_dict(learner.model.state_dict())
    state = whole.zero_state(4)
    assert np.array_equal(forward(learner.model, x, state)[0], forward(whole, x, state)[0])


def test_both_kinds_of_dropout_go_together():
    options = TrainOptions(recurrent_dropout=0.25)
    config = replace(CONFIG, dropout=0.3)
    losses = set()
    for seed in 1, 2, 1:
        learner = Trainer(config, options, np.random.default_rng(0), 1, 4, 6)
        losses.add(learner.compute(*chunk(), seed)[0])
    assert learner.drops and len(losses) == 2


def test_afresh_it_is_as_if_new():
    """But for what is drawn at random."""
    new, used = learner_of(), learner_of()
    first = used.model.state_dict()
    for _ in range(3):
        used.compute(*chunk(), None)
        used.update(0.01)
    used.start_afresh(new.model.parameters.flat)
    assert all(np.array_equal(a, first[name]) for name, a in used.model.state_dict().items())
    for learner in new, used:
        learner.compute(*chunk(), None)
        learner.update(0.01)
    assert np.array_equal(new.model.parameters.flat, used.model.parameters.flat)
    assert np.array_equal(new.stack.get_state(), used.stack.get_state())
