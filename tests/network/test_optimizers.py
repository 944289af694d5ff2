"""Optimizers, clipping and schedules compared with the reference, in float64."""

from dataclasses import fields, make_dataclass

import numpy as np
import pytest
from helpers import naive

from charrnn.config import OPTIMIZER_NAMES, SCHEDULE_NAMES
from charrnn.network.jit import ThreadTeam
from charrnn.network.optimizers import BLOCK, OPTIMIZERS, SCHEDULES, clip_norm_, clip_value_

OPTIONS = {
    "adam": [{}, {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1}],
    "cautious-adam": [{}, {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1}],
    "rmsprop": [{}, {"alpha": 0.9, "epsilon": 1e-3}],
    "adagrad": [{}, {"epsilon": 1e-3}],
    "sgd": [{}, {"momentum": 0.0}, {"momentum": 0.7}],
}
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]
RATES = (0.1, 0.1, 0.05, 0.05, 0.02, 0.01, 0.0)

every_case = pytest.mark.parametrize(("name", "options"), CASES)


def trajectory(optimizer, p, gradients, rates):
    """The parameters after each step."""
    for g, rate in zip(gradients, rates, strict=True):
        optimizer.step(p, g.copy(), rate)
        yield p.copy()


def random_walk(size=37, dtype=np.float64):
    """Initial parameters, and gradients from 1e-6 to 1e3 with exact zeros among them."""
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((len(RATES), size)) * 10.0 ** rng.integers(-6, 4, size)
    gradients[:, 3] = gradients[2] = 0
    return rng.standard_normal(size).astype(dtype), gradients.astype(dtype)


def test_every_optimizer_and_schedule_has_a_reference_and_a_name_in_the_options():
    assert set(OPTIMIZERS) == set(naive.OPTIMIZERS) == set(OPTIMIZER_NAMES) == set(OPTIONS)
    assert set(SCHEDULES) == set(SCHEDULE_NAMES)


@every_case
def test_steps_equal_the_reference(name, options):
    p, gradients = random_walk()
    expected = list(naive.OPTIMIZERS[name](p.copy(), gradients, RATES, **options))
    optimizer = OPTIMIZERS[name](p.size, dtype=p.dtype, **options)
    steps = list(trajectory(optimizer, p, gradients, RATES))
    np.testing.assert_allclose(steps, expected, rtol=1e-12, atol=1e-14)


@every_case
def test_settings_reach_the_kernel_by_name(name, options, monkeypatch):
    """Settings in another order give the same steps: beta1 does not become beta2."""
    cls = OPTIMIZERS[name]
    reordered = [(f.name, float, f.default) for f in reversed(fields(cls.Settings))]
    monkeypatch.setattr(cls, "Settings", make_dataclass("Settings", reordered))
    assert list(cls.defaults()) == [setting for setting, *_ in reordered]
    p, gradients = random_walk()
    expected = list(naive.OPTIMIZERS[name](p.copy(), gradients, RATES, **options))
    optimizer = cls(p.size, dtype=p.dtype, **options)
    steps = list(trajectory(optimizer, p, gradients, RATES))
    np.testing.assert_allclose(steps, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_unknown_settings_are_refused(name):
    with pytest.raises(TypeError, match="beta3"):
        OPTIMIZERS[name](4, beta3=0.5)


@pytest.mark.parametrize("name", ["adam", "cautious-adam", "rmsprop", "sgd"])
def test_decayed_moments_become_zero_instead_of_denormal(name):
    optimizer = OPTIMIZERS[name](40)
    p, g = np.ones(40, np.float32), np.full(40, 1e-3, np.float32)
    optimizer.step(p, g, 0.1)
    for array in optimizer.arrays.values():
        assert (array != 0).all()
        array[:20], array[20:30], array[30:] = 2e-45, -5e-39, np.nan
    g[:] = 0
    optimizer.step(p, g, 0.1)
    for array in optimizer.arrays.values():
        assert (array[:30] == 0).all() and np.isnan(array[30:]).all()


@every_case
def test_float32_is_close_to_float64(name, options):
    p, gradients = random_walk(dtype=np.float32)
    exact = list(naive.OPTIMIZERS[name](p.astype(float), gradients.astype(float), RATES, **options))
    optimizer = OPTIMIZERS[name](p.size, dtype=p.dtype, **options)
    steps = list(trajectory(optimizer, p, gradients, RATES))
    assert all(step.dtype == np.float32 for step in steps)
    np.testing.assert_allclose(steps, exact, rtol=1e-5, atol=1e-6)


@every_case
def test_parts_have_their_own_learning_rates(name, options, monkeypatch):
    monkeypatch.setattr("charrnn.network.optimizers.threads_for", lambda size: 3)
    p, gradients = random_walk(size=3 * BLOCK + 5)
    rates = [(BLOCK + 3, 1.0), (2 * BLOCK, 3.0), (2, 0.5)]
    optimizer = OPTIMIZERS[name](p.size, dtype=p.dtype, rates=rates, **options)
    threaded = OPTIMIZERS[name](p.size, p.dtype, ThreadTeam(3), rates=rates, **options)
    steps = list(trajectory(optimizer, p.copy(), gradients, RATES))
    np.testing.assert_array_equal(list(trajectory(threaded, p.copy(), gradients, RATES)), steps)
    start = 0
    for count, factor in rates:
        part = slice(start, start + count)
        scaled = [factor * rate for rate in RATES]
        expected = list(naive.OPTIMIZERS[name](p[part], gradients[:, part], scaled, **options))
        np.testing.assert_allclose(np.array(steps)[:, part], expected, rtol=1e-12, atol=1e-14)
        start += count


@every_case
def test_arrays_and_steps_are_the_whole_state_of_an_optimizer(name, options):
    """Copied into a new optimizer, as in a resumed run, they give the same bits."""
    p, gradients = random_walk(dtype=np.float32)
    first = OPTIMIZERS[name](p.size, dtype=p.dtype, **options)
    for _ in trajectory(first, p, gradients[:4], RATES[:4]):
        pass
    second = OPTIMIZERS[name](p.size, dtype=p.dtype, **options)
    second.steps = first.steps
    assert set(first.arrays) == set(second.arrays)
    for key, array in first.arrays.items():
        second.arrays[key][...] = array
    rest = gradients[4:], RATES[4:]
    expected = list(trajectory(first, p.copy(), *rest))
    np.testing.assert_array_equal(list(trajectory(second, p.copy(), *rest)), expected)


@every_case
def test_nan_gradient_reaches_only_its_parameter(name, options):
    p, gradients = random_walk()
    gradients[0, 5] = np.nan
    optimizer = OPTIMIZERS[name](p.size, dtype=p.dtype, **options)
    (after,) = trajectory(optimizer, p, gradients[:1], RATES[:1])
    assert list(np.flatnonzero(np.isnan(after))) == [5]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_value(dtype):
    g = np.random.default_rng(0).standard_normal(101).astype(dtype)
    g[:4] = 0.5, -0.5, np.inf, -np.inf
    expected = naive.clip_value(g, 0.5)
    clip_value_(g, 0.5)
    np.testing.assert_array_equal(g, expected)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("limit", [0.01, 3.0, 1e6])
def test_clip_norm(dtype, rtol, limit):
    g = np.random.default_rng(0).standard_normal(1001).astype(dtype)
    expected, expected_norm = naive.clip_norm(g.astype(float), limit)
    before = g.copy()
    norm = clip_norm_(g, limit)
    assert norm == pytest.approx(expected_norm, rel=rtol)
    np.testing.assert_allclose(g, expected, rtol=rtol)
    if limit > expected_norm:
        np.testing.assert_array_equal(g, before)


def test_clip_norm_of_zeros_and_of_gradients_whose_squares_overflow():
    zeros = np.zeros(5, np.float32)
    assert clip_norm_(zeros, 1.0) == 0
    assert not zeros.any()
    huge = np.full(4, 1e30, np.float32)
    assert clip_norm_(huge, 1.0) == pytest.approx(2e30, rel=1e-6)
    np.testing.assert_allclose(huge, 0.5, rtol=1e-6)


def test_clipping_preserves_nan():
    g = np.array([1.0, np.nan, 3.0])
    clip_value_(g, 0.5)
    np.testing.assert_array_equal(g, [0.5, np.nan, 0.5])
    assert np.isnan(clip_norm_(g, 0.5))


def factor(name, done, epoch=0, decay=0.5, decay_after=3):
    return SCHEDULES[name](done, epoch=epoch, decay=decay, decay_after=decay_after)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear"])
@pytest.mark.parametrize("total", [1, 2, 10, 333])
def test_schedules_by_step(name, total):
    reference = {"constant": naive.constant, "cosine": naive.cosine, "linear": naive.linear}[name]
    for step in range(total + 1):
        expected = reference(step, total)
        assert factor(name, step / total) == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert 0 <= factor(name, step / total) <= 1


@pytest.mark.parametrize("after", [0, 1, 2.5, 3, 10])
def test_exponential_decays_by_whole_epochs_as_char_rnn_does(after):
    for epoch in range(15):
        expected = naive.exponential(epoch, 0.97, after)
        got = factor("exponential", 0.5, epoch=epoch, decay=0.97, decay_after=after)
        assert got == pytest.approx(expected, rel=1e-12), epoch
