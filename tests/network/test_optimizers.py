"""Optimizers, clipping and schedules compared with the reference, in float64."""

from dataclasses import fields, make_dataclass

import numpy as np
import pytest
from helpers import naive

from charrnn.config import OPTIMIZER_NAMES, SCHEDULE_NAMES
from charrnn.network.jit import ThreadTeam
from charrnn.network.optimizers import (
    BLOCK,
    OPTIMIZERS,
    ROW_RULES,
    SCHEDULES,
    RowOptimizer,
    clip_norm_,
    clip_value_,
)

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


# --- rows, of which each step uses few


every_rule = pytest.mark.parametrize("name", ROW_RULES)
K, N = 9, 5


def row_walk(num_steps=60, dtype=np.float64):
    """Initial rows, the gradients {row: array} of each step, and rates.

    Row 0 is used always, row 1 first and last, row 2 never.
    """
    rng = np.random.default_rng(3)
    gradients = []
    for t in range(num_steps):
        used = {0} | {k for k in range(3, K) if rng.random() < 0.15}
        used |= {1} if t in (0, num_steps - 1) else set()
        scale = 10.0 ** rng.integers(-4, 2, (K, N))
        g = (rng.standard_normal((K, N)) * scale).astype(dtype)
        order = rng.permutation(sorted(used)).tolist()
        gradients.append({k: g[k] for k in order})
    return rng.standard_normal((K, N)).astype(dtype), gradients, rng.uniform(0, 0.1, num_steps)


def row_trajectory(optimizer, p, gradients, rates, first=1):
    """The rows after each step."""
    for step, (used, rate) in enumerate(zip(gradients, rates, strict=True), first):
        numbers = np.array(list(used), np.int32)
        optimizer.step(p, numbers, np.array(list(used.values())), float(rate), step)
        yield p.copy()


def row_optimizer(name, dtype=np.float64, threads=1, **more):
    return RowOptimizer((K, N), dtype, ThreadTeam(threads), ROW_RULES[name], **more)


def test_every_optimizer_has_a_rule_for_rows():
    assert set(ROW_RULES) == set(naive.ROW_RULES) == set(OPTIMIZERS)


@every_rule
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_steps_of_rows_equal_the_reference(name, decay):
    p, gradients, rates = row_walk()
    expected = list(naive.row_steps(name, p, gradients, rates, decay))
    optimizer = row_optimizer(name, weight_decay=decay)
    steps = list(row_trajectory(optimizer, p.copy(), gradients, rates))
    np.testing.assert_allclose(steps, expected, rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(np.array(steps)[:, 2], np.tile(p[2], (60, 1)))


@every_rule
def test_steps_of_rows_equal_the_dense_optimizer_without_momentum(name):
    """The rows that a step does not use have the gradient zero there."""
    options = {"cautious-adam": {"beta1": 0.0}, "adam": {"beta1": 0.0}, "sgd": {"momentum": 0.0}}
    dense_name = "adam" if name == "cautious-adam" else name
    p, gradients, rates = row_walk()
    parts = [(p.size, ROW_RULES[name].rate)]
    dense = OPTIMIZERS[dense_name](p.size, dtype=p.dtype, rates=parts, **options.get(name, {}))
    table, steps = p.copy(), row_trajectory(row_optimizer(name), p, gradients, rates)
    for used, rate, rows in zip(gradients, rates, steps, strict=True):
        g = np.zeros_like(table)
        for k, gradient in used.items():
            g[k] = gradient
        dense.step(table.reshape(-1), g.reshape(-1), rate)
        np.testing.assert_allclose(rows, table, rtol=1e-11, atol=1e-13)


@every_rule
def test_steps_of_rows_in_float32_are_close_to_float64(name):
    p, gradients, rates = row_walk(dtype=np.float32)
    exact = list(naive.row_steps(name, p.astype(float), gradients, rates))
    steps = list(row_trajectory(row_optimizer(name, np.float32), p, gradients, rates))
    assert all(step.dtype == np.float32 for step in steps)
    np.testing.assert_allclose(steps, exact, rtol=1e-4, atol=1e-5)


@every_rule
def test_a_row_unused_for_thousands_of_steps_forgets_its_squares_without_denormals(name):
    optimizer, p = row_optimizer(name, np.float32), np.ones((K, N), np.float32)
    used, g = np.array([4], np.int32), np.full((1, N), 1e-3, np.float32)
    optimizer.step(p, used, g, 0.1, 1)
    optimizer.step(p, used, 0 * g, 0.1, 20_000)
    assert np.isfinite(p).all() and list(optimizer.last_step) == [0, 0, 0, 0, 20_000, 0, 0, 0, 0]
    kept = {"adagrad": np.float32(1e-6)}.get(name, 0)
    np.testing.assert_allclose(optimizer.mean_square[4], kept, rtol=1e-6)


@every_rule
def test_rows_have_the_same_bits_with_any_number_of_threads(name, monkeypatch):
    monkeypatch.setattr("charrnn.network.optimizers.threads_for", lambda size: 3)
    p, gradients, rates = row_walk(dtype=np.float32)
    expected = list(row_trajectory(row_optimizer(name, np.float32), p.copy(), gradients, rates))
    threaded = row_optimizer(name, np.float32, threads=3)
    np.testing.assert_array_equal(list(row_trajectory(threaded, p, gradients, rates)), expected)


@every_rule
def test_mean_square_and_last_step_are_the_whole_state_of_rows(name):
    p, gradients, rates = row_walk(dtype=np.float32)
    first, second = row_optimizer(name, np.float32), row_optimizer(name, np.float32)
    for _ in row_trajectory(first, p, gradients[:30], rates[:30]):
        pass
    second.mean_square[:], second.last_step[:] = first.mean_square, first.last_step
    rest = gradients[30:], rates[30:], 31
    expected = list(row_trajectory(first, p.copy(), *rest))
    np.testing.assert_array_equal(list(row_trajectory(second, p.copy(), *rest)), expected)
    first.reset()
    new = row_optimizer(name, np.float32)
    rest = gradients, rates
    expected = list(row_trajectory(new, p.copy(), *rest))
    np.testing.assert_array_equal(list(row_trajectory(first, p.copy(), *rest)), expected)


@every_rule
def test_nan_gradient_of_a_row_reaches_only_its_element(name):
    p, gradients, rates = row_walk()
    gradients[0][0][3] = np.nan
    (after,) = row_trajectory(row_optimizer(name), p, gradients[:1], rates[:1])
    assert np.argwhere(np.isnan(after)).tolist() == [[0, 3]]


# --- clipping


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
