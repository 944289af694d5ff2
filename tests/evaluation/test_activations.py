"""Activations and character vectors, compared with the reference implementation and NumPy."""

import tracemalloc

import numpy as np
import pytest
from helpers import naive
from helpers.random_models import model_of, naive_start, ngram_tuples

from charrnn.config import CELL_NAMES
from charrnn.evaluation import activations
from charrnn.evaluation.activations import HiddenUnit


def naive_states(model, params, ids):
    """(n, L, S, H) after each id."""
    (state, known, (read,)), found = naive_start(model, model.zero_state(1)), []
    for i in ids:
        _, state = naive.forward(params, model.config, np.array([[i]]), state, known, [read])
        read.append(int(i))
        found.append(state[:, :, 0])
    return np.array(found)


def naive_gates(model, params, ids):
    """(n, L, gates, H) after each id, from the equations."""
    states = naive_states(model, params, ids)
    before = np.concatenate([np.zeros_like(states[:1]), states[:-1]])
    cell = model.config.cell
    found = np.zeros(
        (len(ids), model.config.num_layers, len(naive.SIGMOID_GATES[cell]), states.shape[-1])
    )
    for t in range(len(ids)):
        x = naive.input_vector(params, model.config, ids[: t + 1].tolist(), ngram_tuples(model))
        for k in range(model.config.num_layers):
            w, h = naive.layer_weights(params, k), before[t, k, 0]
            parts = w.weight_ih @ x + w.bias_ih + w.weight_hh @ h + w.bias_hh
            parts = np.split(parts, naive.GATES[cell])
            if naive.PEEPHOLES[cell]:
                parts[0] += w.weight_ci * before[t, k, 1]
                parts[1] += w.weight_cf * before[t, k, 1]
                parts[3] += w.weight_co * states[t, k, 1]
            for g, block in enumerate(naive.SIGMOID_GATES[cell].values()):
                found[t, k, g] = naive.sigmoid(parts[block])
            x = states[t, k, 0]
    return found


IDS = np.random.default_rng(7).integers(0, 11, 120)


@pytest.fixture
def short_steps(monkeypatch):
    """Set a chunk length that divides neither the text nor its half."""
    monkeypatch.setattr(activations, "STEPS", 50)


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_states_and_gates_equal_the_naive_ones(cell, short_steps):
    model, params = model_of(cell, ngrams=3)
    assert list(model.cell.SIGMOIDS) == list(naive.SIGMOID_GATES[cell])
    states, gates = map(np.concatenate, zip(*activations.iter_activations(model, IDS), strict=True))
    expected = naive_states(model, params, IDS)
    np.testing.assert_allclose(states, expected, atol=2e-3)
    np.testing.assert_allclose(gates, naive_gates(model, params, IDS), atol=2e-3)
    for unit in HiddenUnit(0, 0, 4), HiddenUnit(1, model.cell.STATES - 1, 2):
        found = activations.values(model, IDS, unit)
        np.testing.assert_array_equal(found, states[:, unit.layer, unit.state, unit.number])


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_activation_report_equals_numpy_on_naive_states(cell, short_steps):
    model, params = model_of(cell)
    rng = np.random.default_rng(3)
    states = naive_states(model, params, IDS)
    n, middle = len(IDS), len(IDS) // 2
    mask = rng.random(n) < 0.8
    columns = states.reshape(n, -1)
    flag, number = columns[:, 3], columns[:, 7] / columns[:, 7].std()
    given = {
        "flag": flag + rng.normal(0, 0.3 * flag.std(), n) > flag.mean(),
        "number": np.rint(-5 * number + 3 * rng.random(n)),
        "noise": rng.random(n) < 0.5,
        "turns": (flag > flag.mean()) ^ (np.arange(n) >= middle),
        "in one half": np.arange(n) < 20,
        "never": np.zeros(n, bool),
    }
    found = activations.measure_activations(model, IDS, given, mask)
    first, second = mask.copy(), mask.copy()
    first[middle:] = second[:middle] = False
    matched = set()
    for name in "flag", "number":
        r = [np.corrcoef(given[name][first], u[first])[0, 1] for u in columns.T]
        best = int(np.argmax(np.abs(r)))
        confirmed = np.corrcoef(given[name][second], columns[second, best])[0, 1]
        match = next(match for match in found.matches if match.feature == name)
        assert match.selection_correlation == pytest.approx(r[best], abs=1e-3)
        assert match.correlation == pytest.approx(confirmed, abs=1e-3)
        where = np.ravel_multi_index(
            (match.unit.layer, match.unit.state, match.unit.number), states.shape[1:]
        )
        assert where == best
        matched.add(name)
    assert {match.feature for match in found.matches} == matched
    assert found.unmatched == ["noise", "turns"]
    strengths = [abs(match.correlation) for match in found.matches]
    assert strengths == sorted(strengths, reverse=True)
    gates = naive_gates(model, params, IDS)
    np.testing.assert_allclose(found.low, (gates < 0.1).mean(axis=0), atol=2 / n)
    np.testing.assert_allclose(found.high, (gates > 0.9).mean(axis=0), atol=2 / n)
    assert found.low.shape == (2, len(naive.SIGMOID_GATES[cell]), 5)


@pytest.mark.parametrize("offset", [0, 1e3])
def test_moments_give_the_correlations_of_corrcoef(offset):
    rng = np.random.default_rng(0)
    f, u = rng.random((500, 2)), rng.normal(size=(500, 3)) + offset
    u[:, 1] += 3 * f[:, 0]
    u[:, 2] = 0.25 + offset
    moments = activations.Moments()
    for part in slice(0, 0), slice(0, 7), slice(7, 500):
        moments.add(f[part], u[part])
    found = moments.correlations()
    expected = np.corrcoef(f.T, u[:, :2].T)[:2, 2:]
    np.testing.assert_allclose(found[:, :2], expected, atol=1e-6)
    assert np.isnan(found[:, 2]).all()


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 1), (1, 4), (2, 2)])
def test_pca_2d_equals_the_svd(shape):
    vectors = np.random.default_rng(1).normal(size=shape)
    points, variance = activations.pca_2d(vectors)
    centred = vectors - vectors.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    expected = np.zeros((shape[0], 2))
    expected[:, : min(2, len(s))] = (u * s)[:, :2]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-6)
    fraction = (s**2 / (s**2).sum())[:2] if shape[0] > 1 else np.zeros(1)
    np.testing.assert_allclose(variance[: len(fraction)], fraction, atol=1e-9)
    far = np.abs(points).argmax(axis=0)
    assert (points[far, [0, 1]] >= 0).all()


def test_neighbours_equal_sorted_cosines():
    vectors = np.random.default_rng(1).normal(size=(9, 4))
    vectors[4] = vectors[2] * 1.5 - 0.5 * vectors.mean(axis=0)
    ids, cosines = activations.neighbours(vectors, 3)
    centred = vectors - vectors.mean(axis=0)
    for k, v in enumerate(centred):
        by = [
            (-(v @ w) / np.linalg.norm(v) / np.linalg.norm(w), j)
            for j, w in enumerate(centred)
            if j != k
        ]
        assert ids[k].tolist() == [j for _, j in sorted(by)[:3]]
        np.testing.assert_allclose(cosines[k], [-c for c, _ in sorted(by)[:3]])
    assert activations.neighbours(vectors[:2], 3)[0].tolist() == [[1], [0]]
    assert activations.neighbours(vectors[:1], 3)[0].shape == (1, 0)


def test_memory_does_not_grow_with_all_activations():
    model, _ = model_of("lstm", H=200)
    ids = np.zeros(50 * activations.STEPS, np.uint8)
    features_and_mask = {"a": np.arange(len(ids)) % 7}, np.ones(len(ids), bool)
    for run in (
        lambda: activations.values(model, ids, HiddenUnit(0, 0, 0)),
        lambda: activations.measure_activations(model, ids, *features_and_mask),
    ):
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10 * activations.STEPS * 2 * 2 * 200 * 8  # states, in float64, of 10 chunks


def test_chance_correlations_are_not_matches():
    """In a short text some of many units correlate with each feature, but not in both halves."""
    model, _ = model_of("lstm", V=4, H=256)
    ids = np.random.default_rng(2).integers(0, 4, 400)
    noise = {str(k): np.random.default_rng(k).random(400) < 0.5 for k in range(20)}
    found = activations.measure_activations(model, ids, noise, np.ones(400, bool))
    assert found.matches == [] and found.unmatched == list(noise)
