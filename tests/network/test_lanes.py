"""Arithmetic with the same bits everywhere: sums in lanes, fma, log, orthogonal matrices."""

import math
import operator
from fractions import Fraction

import numpy as np
import pytest
from numba import TypingError

from charrnn.network.jit import CPU_FEATURES, jit
from charrnn.network.kernels.activations import log
from charrnn.network.kernels.fma import fma
from charrnn.network.kernels.lanes import largest, sum_lanes, sum_squares
from charrnn.network.kernels.orthogonal import orthogonalize

SIZES = [0, 1, 2, 15, 16, 17, 31, 32, 33, 65, 80, 257]
DTYPES = [np.float32, np.float64]


@jit
def reductions(x):
    return sum_lanes(x), sum_squares(x), largest(x)


@jit
def fma_of(a, b, c):
    return fma(a, b, c)


def naive_lanes(terms, start, combine):
    """Combine terms k, k + 16, ... in lane k, then lane i + n / 2 with lane i of n lanes."""
    lanes = [start] * 16
    for k, term in enumerate(terms):
        lanes[k % 16] = combine(lanes[k % 16], term)
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [combine(lanes[i], lanes[half + i]) for i in range(half)]
    return lanes[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_sums_have_the_bits_of_the_naive_lanes(dtype, size):
    rng = np.random.default_rng(size)
    x = (rng.standard_normal(size) * 10.0 ** rng.integers(0, 5, size)).astype(dtype)
    wide = x.astype(np.float64)
    total, squares, _ = reductions(x)
    assert total == naive_lanes(x, dtype(0), operator.add)
    assert squares == naive_lanes(wide * wide, np.float64(0), operator.add)
    if size > 64:  # a test of the test: the order matters
        assert total != np.add.accumulate(x)[-1]
        assert squares != np.add.accumulate(wide * wide)[-1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_largest_element(dtype, size):
    x = np.random.default_rng(size).standard_normal(size).astype(dtype)
    assert reductions(x)[2] == max(x, default=-math.inf)
    x[: size // 2] = math.nan
    assert reductions(x)[2] == max(x[size // 2 :], default=-math.inf)


def test_reductions_refuse_arrays_with_gaps():
    with pytest.raises(TypingError):
        reductions(np.ones(32, np.float32)[::2])


@pytest.mark.skipif("fma" not in CPU_FEATURES, reason="the processor rounds twice")
@pytest.mark.parametrize("dtype", DTYPES)
def test_fma_rounds_once(dtype):
    for a, b in np.random.default_rng(0).standard_normal((100, 2)).astype(dtype):
        rounded = a * b
        error = Fraction(float(a)) * Fraction(float(b)) - Fraction(float(rounded))
        assert fma_of(a, b, -rounded) == float(error)  # rounded twice, it would be 0


def test_log_is_within_one_ulp():
    rng = np.random.default_rng(0)
    x = np.concatenate([1 + rng.random(500), 10 ** rng.uniform(-300, 300, 500), rng.random(500)])
    for value in [*x, 1.0, 2.0, 0.5, math.sqrt(0.5), math.nextafter(1, 2), math.nextafter(1, 0)]:
        assert abs(log(value) - math.log(value)) <= math.ulp(math.log(value))
    assert log(1.0) == 0
    assert math.isnan(log(math.nan))


@pytest.mark.parametrize("size", [1, 2, 3, 15, 16, 17, 40, 70])
def test_orthogonalize_gives_q_of_lapack(size):
    a = np.random.default_rng(size).standard_normal((size, size))
    q = a.copy()
    orthogonalize(q)
    np.testing.assert_allclose(q, np.linalg.qr(a)[0], atol=1e-12)
    np.testing.assert_allclose(q @ q.T, np.eye(size), atol=1e-14)


def test_orthogonalize_of_a_triangular_matrix_is_diagonal():
    """Its columns need no reflection; LAPACK leaves such columns alone."""
    a = np.triu(np.random.default_rng(0).random((5, 5)))
    orthogonalize(a)
    np.testing.assert_array_equal(a, np.eye(5))
