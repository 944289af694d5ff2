"""The parts of a training step."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.random_models import with_ngrams

from charrnn.config import CELL_NAMES, LEARNING_RATES, ModelConfig, ResolvedOptions
from charrnn.network.model import Model
from charrnn.network.optimizers import ROW_RULES
from charrnn.network.parameters import Parameters
from charrnn.network.stack import forward
from charrnn.training.ensemble import Ensemble
from charrnn.training.trainer import OUTPUT_RATES, Trainer


def chunk():
    return tuple(np.random.default_rng(1).integers(0, 11, (2, 6, 4)).astype(np.int32))


CONFIG, NGRAMS = with_ngrams(
    ModelConfig(11, hidden_size=8, num_layers=2, embedding_size=5), chunk()[0], 3
)


def make_trainer(config=CONFIG, threads=1, **options):
    shape = {"batch_size": 4, "seq_length": 6}
    options = {"optimizer": "adam"} | shape | options
    options = ResolvedOptions(steps=1, learning_rate=0.01, **options)
    return Trainer(config, options, np.random.default_rng(0), threads, NGRAMS)


def all_gradients(trainer):
    """All gradients, flat."""
    stack = trainer.stack
    return np.concatenate([stack.gradients.flat, stack.ngram_gradients.rows.reshape(-1)])


def named_gradients(trainer):
    """All gradients in PyTorch's names and shapes."""
    stack, gradients = trainer.stack, Parameters(trainer.model.config)
    gradients.dense[:] = stack.gradients.flat
    gradients.ngram_rows[stack.ngram_gradients.used] = stack.ngram_gradients.rows
    return gradients.state_dict()


def test_compute_changes_only_the_gradients():
    trainer = make_trainer()
    weights, state = trainer.model.parameters.flat.copy(), trainer.stack.get_state()
    loss, length = trainer.compute(*chunk())
    assert loss == pytest.approx(np.log(11), rel=0.2)
    assert len(trainer.stack.ngram_gradients.rows) > 5
    assert length == pytest.approx(np.linalg.norm(all_gradients(trainer).astype(float)))
    assert np.array_equal(trainer.model.parameters.flat, weights)
    assert trainer.stack.get_state().equals(state)
    trainer.update(0.01, length)
    assert not np.array_equal(trainer.model.parameters.flat, weights)
    after = trainer.stack.get_state()
    assert not np.array_equal(after.hidden, state.hidden)
    np.testing.assert_array_equal(after.recent, chunk()[0][-2:])


@pytest.mark.parametrize("optimizer", LEARNING_RATES)
def test_the_output_layer_has_a_learning_rate_of_its_own(optimizer):
    """Adam's first update of every weight is the learning rate, up or down."""
    trainer = make_trainer(optimizer=optimizer, clip_norm=0.0)
    before = trainer.model.state_dict()
    _, gradient_norm = trainer.compute(*chunk())
    gradients = named_gradients(trainer)
    trainer.update(0.01, gradient_norm)
    ratios = {}
    for name, tensor in trainer.model.state_dict().items():
        g = gradients[name]
        usual = {
            "cautious-adam": np.sign(g),
            "adam": np.sign(g),
            "sgd": g,
            "adagrad": np.sign(g),
        }.get(optimizer, np.sign(g) / np.sqrt(0.05))
        usual = np.where(np.abs(g) > 1e-5, usual, np.nan)
        changes = (tensor - before[name]) / (-0.01 * usual)
        parts = {name: changes}
        if name == trainer.model.config.lookup_table_name:
            parts = {name: changes[:11], "n-grams": changes[11:]}
        ratios |= {part: np.nanmedian(values) for part, values in parts.items()}
    rates = {
        "output.weight": OUTPUT_RATES.get(optimizer, 1.0),
        "n-grams": ROW_RULES[optimizer].rate,
    }
    assert ratios == pytest.approx({name: rates.get(name, 1.0) for name in ratios}, rel=2e-2)


@pytest.mark.parametrize("clip_value", [0.0, 1e-3])
@pytest.mark.parametrize("clip_norm", [0.0, 5e-3, 1e6])
def test_gradients_are_clipped_by_value_and_then_by_norm(clip_value, clip_norm):
    trainer = make_trainer(optimizer="sgd", clip_value=clip_value, clip_norm=clip_norm)
    _, gradient_norm = trainer.compute(*chunk())
    expected = all_gradients(trainer).astype(float)
    if clip_value:
        assert np.abs(expected).max() > 2 * clip_value
        expected = expected.clip(-clip_value, clip_value)
    norm = np.linalg.norm(expected)
    assert norm > 2 * 5e-3
    if clip_norm:
        expected *= min(1.0, clip_norm / norm)
    weights, used = trainer.model.parameters, trainer.stack.ngram_gradients.used
    weights.flat[:] = 0
    trainer.update(1.0, gradient_norm)
    updates = np.concatenate([weights.dense, weights.ngram_rows[used].reshape(-1)])
    np.testing.assert_allclose(-updates, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("threads", [1, 3])
def test_recurrent_dropout_trains_a_network_without_some_hidden_to_hidden_weights(cell, threads):
    """Loss and gradients equal that network's; the parameters themselves do not change."""
    config = replace(CONFIG, cell=cell)
    trainer = make_trainer(config, threads, recurrent_dropout=0.25)
    weights = trainer.model.state_dict()
    loss, _ = trainer.compute(*chunk(), 77)
    assert all(np.array_equal(a, weights[name]) for name, a in trainer.model.state_dict().items())

    gradients = named_gradients(trainer)
    trainer.model.drop_recurrent(trainer.model.parameters, 77, 0.25)
    dropped = trainer.model.state_dict()
    other = make_trainer(config)
    other.model.load_state_dict(dropped)
    assert other.compute(*chunk())[0] == loss
    for name, g in named_gradients(other).items():
        recurrent = "weight_hh" in name
        mask = np.where(dropped[name] == 0, 0, 4 / 3) if recurrent else np.ones_like(g)
        np.testing.assert_allclose(dropped[name], weights[name] * mask, rtol=1e-6)
        np.testing.assert_allclose(gradients[name], g * mask, rtol=1e-6)
        if recurrent:
            assert 0.1 < (mask == 0).mean() < 0.4


def test_average_brings_back_the_weights_that_recurrent_dropout_drops():
    shape = {"batch_size": 4, "seq_length": 6}
    options = ResolvedOptions(
        steps=1, learning_rate=0.01, optimizer="adam", recurrent_dropout=0.5, **shape
    )
    ensemble = Ensemble(CONFIG, options, np.random.default_rng(0), 1, NGRAMS)
    ensemble.compute(*chunk(), 5)
    ensemble.update(0.01)
    ensemble.average()
    x, y = chunk()
    whole = Model(CONFIG, ngrams=NGRAMS)
    whole.load_state_dict(ensemble.model.state_dict())
    state = whole.zero_state(4)
    assert np.array_equal(forward(ensemble.model, x, state)[0], forward(whole, x, state)[0])


def test_both_kinds_of_dropout_depend_on_the_seed_alone():
    config = replace(CONFIG, dropout=0.3)
    losses = set()
    for seed in 1, 2, 1:
        trainer = make_trainer(config, recurrent_dropout=0.25)
        losses.add(trainer.compute(*chunk(), seed)[0])
    assert trainer.needs_dropout_seed and len(losses) == 2


def test_a_reset_trainer_trains_as_a_new_one():
    new, used = make_trainer(), make_trainer()
    first = used.model.state_dict()
    for _ in range(3):
        used.update(0.01, used.compute(*chunk())[1])
    used.reset(new.model.parameters.flat)
    assert all(np.array_equal(a, first[name]) for name, a in used.model.state_dict().items())
    for trainer in new, used:
        trainer.update(0.01, trainer.compute(*chunk())[1])
    assert np.array_equal(new.model.parameters.flat, used.model.parameters.flat)
    assert new.stack.get_state().equals(used.stack.get_state())
