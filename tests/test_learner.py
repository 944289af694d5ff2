"""One step of learning, in its parts."""

import numpy as np
import pytest

from charrnn.config import LEARNING_RATES, ModelConfig, TrainOptions
from charrnn.learner import OUTPUT_RATES, Learner

CONFIG = ModelConfig(11, hidden_size=8, num_layers=2, embedding_size=5)


def learner_of(optimizer="adam", **options):
    options = TrainOptions(optimizer=optimizer, **options)
    return Learner(CONFIG, options, np.random.default_rng(0), 1, batch_size=4, seq_length=6)


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
