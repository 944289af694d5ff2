"""The kernels one by one: products compared with NumPy, approximation errors in ulp."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.panels import packed, random
from numba import TypingError

from charrnn.network.arrays import zeros
from charrnn.network.jit import jit
from charrnn.network.kernels.activations import exp, sigmoid_, tanh_
from charrnn.network.kernels.cross_entropy import cross_entropy, probabilities_of
from charrnn.network.kernels.dropout import drop, drop_
from charrnn.network.kernels.matmul import (
    input_product,
    output_product,
    padded,
    product,
    sum_biases,
    weight_gradient,
    workspace_size,
)
from charrnn.network.kernels.microkernel import NR

ONES = np.ones((16, 1, 16), np.float32)
DTYPES = {np.float32: 1e-5, np.float64: 1e-13}


@jit
def exp_(x):
    for i in range(x.size):
        x[i] = exp(x[i])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25, 64])
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (16, 16), (33, 70), (257, 40), (600, 17)])
def test_product_adds_to_its_target(dtype, rows, depth, columns):
    rng = np.random.default_rng(rows)
    a, w = random(rng, (rows, depth), dtype), random(rng, (depth, 1, columns), dtype)
    c = random(rng, (rows, columns), dtype)
    expected = c + a[:, :depth] @ w[:, 0]
    product(a, packed(w), c)
    assert np.abs(c - expected).max() <= DTYPES[dtype] * np.abs(expected).max()


def test_product_of_no_depth_or_no_rows_changes_nothing():
    c = np.ones((3, 16), np.float32)
    product(np.zeros((3, 0), np.float32), np.zeros((1, 0, 16), np.float32), c)
    product(np.zeros((0, 16), np.float32), np.zeros((1, 16, 16), np.float32), c[:0])
    assert (c == 1).all()


def test_product_refuses_arrays_with_gaps():
    with pytest.raises(TypingError):
        product(np.ones((3, 32), np.float32)[:, ::2], packed(ONES), ONES[:3, 0])


def test_bits_of_a_row_do_not_depend_on_other_rows():
    rng = np.random.default_rng(0)
    a, w = random(rng, (40, 300), np.float32), random(rng, (300, 1, 48), np.float32)
    together = np.zeros((40, 48), np.float32)
    product(a, packed(w), together)
    for first, last in [(0, 1), (3, 5), (7, 10), (11, 15), (20, 25), (30, 36), (33, 40)]:
        part = np.zeros((last - first, 48), np.float32)
        product(a[first:last], packed(w), part)
        assert (part == together[first:last]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gate", [0, 2])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 16), (16, 32), (37, 50), (64, 80)])
def test_packing(dtype, gate, inputs, outputs):
    w = random(np.random.default_rng(inputs), (inputs, 3, outputs), dtype)
    for transposed in False, True:
        panels = packed(w, gate, transposed)
        matrix = panels.transpose(1, 0, 2).reshape(panels.shape[1], -1)
        expected = w[:, gate].T if transposed else w[:, gate]
        k, n = expected.shape
        assert (matrix[:k, :n] == expected).all() and np.isclose(matrix.sum(), expected.sum())
        assert np.count_nonzero(matrix) == np.count_nonzero(expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_biases_of_each_plane_are_summed(dtype):
    rng = np.random.default_rng(0)
    b_ih, b_hh = random(rng, (3, 20), dtype), random(rng, (3, 20), dtype)
    bias = np.full((5, b_ih.shape[1]), 7, dtype)
    sum_biases(b_ih, b_hh, np.array([0, 1, 3]), np.array([0, 1, 4]), bias)
    both = b_ih[:2] + b_hh[:2]
    assert (bias == np.array([both[0], both[1], 0 * both[0], b_ih[2], b_hh[2]])).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_products_over_time_and_back(dtype, batch):
    rng = np.random.default_rng(batch)
    steps, inputs, hidden, planes = 5, 20, 35, np.array([0, 1, 3])
    x, w = random(rng, (steps, batch, inputs), dtype), random(rng, (inputs, 3, hidden), dtype)
    z, bias = zeros((steps, 4, batch, padded(hidden)), dtype), random(rng, (4, hidden), dtype)
    panels = np.stack([packed(w, g) for g in range(3)])
    for row in range(batch):
        input_product(x, panels, planes, bias, z, steps, row, row + 1)
    alone = z.copy()
    z[:] = 0
    input_product(x, panels, planes, bias, z, steps, 0, batch)
    assert (z == alone).all()
    for g, plane in enumerate(planes):
        expected = x[..., :inputs] @ w[:, g] + bias[plane]
        assert np.allclose(z[:, plane], expected, atol=100 * DTYPES[dtype])
    assert (z[:, 2] == bias[2]).all()

    dx = zeros(x.shape, dtype)
    transposed = np.stack([packed(w, g, transposed=True) for g in range(3)])
    output_product(z, transposed, planes, dx, steps, 0, batch)
    expected = sum(z[:, plane] @ w[:, g].T for g, plane in enumerate(planes))
    assert np.allclose(dx[..., :inputs], expected, rtol=10 * DTYPES[dtype], atol=1e-3)
    assert (dx[..., inputs:] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (5, 3), (40, 13)])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_weight_gradient(dtype, steps, batch, parts):
    rng = np.random.default_rng(steps)
    inputs, hidden, planes = 21, 90, np.array([3, 1])
    x = random(rng, (steps, batch, inputs), dtype)
    dz = random(rng, (steps, 4, batch, hidden), dtype)
    dw, db = np.full((inputs, 3, padded(hidden)), 7, dtype), np.full((3, padded(hidden)), 7, dtype)
    panels = 2 * padded(hidden) // NR
    for i in range(parts):
        bounds = panels * i // parts, panels * (i + 1) // parts
        weight_gradient(
            x,
            dz,
            planes,
            1,
            dw,
            db,
            steps,
            *bounds,
            zeros((workspace_size(x.shape[2]),), dtype),
        )
    for g, plane in enumerate(planes):
        expected = np.einsum("tbd,tbh->dh", x[..., :inputs], dz[:, plane])
        assert np.allclose(dw[:, 1 + g], expected, rtol=0, atol=200 * DTYPES[dtype])
        assert np.allclose(db[1 + g], dz[:, plane].sum((0, 1)), rtol=0, atol=200 * DTYPES[dtype])
    assert (dw[:, 0] == 7).all()


def ulps(found, true):
    return np.abs(found - true) / np.spacing(np.abs(true).astype(np.float32))


def test_tanh_in_ulp():
    x = np.concatenate([np.linspace(-12, 12, 400_001), np.geomspace(1e-30, 1, 10_001)])
    x = x.astype(np.float32)
    y = x.copy()
    tanh_(y)
    assert ulps(y, np.tanh(x.astype(np.float64))).max() < 6
    assert np.abs(y).max() < 1 + 3e-7


def test_sigmoid_error():
    x = np.linspace(-40, 40, 400_001).astype(np.float32)
    y = x.copy()
    sigmoid_(y)
    assert np.abs(y - 1 / (1 + np.exp(-x.astype(np.float64)))).max() < 2e-7


def test_exp_in_ulp():
    x = np.linspace(-87, 88, 400_001).astype(np.float32)
    y = x.copy()
    exp_(y)
    assert ulps(y, np.exp(x.astype(np.float64))).max() < 3


def test_exp_of_float64():
    x = np.concatenate([np.linspace(-708, 709, 400_001), np.linspace(-1, 0, 100_001)])
    y = x.copy()
    exp_(y)
    assert (np.abs(y / np.exp(x.astype(np.longdouble)) - 1)).max() < 2.3e-16
    special = np.array([0, -708.1, -1e300, -np.inf, np.inf, np.nan])
    exp_(special)
    assert special[:4].tolist() == [1, 0, 0, 0]
    assert 8e307 < special[4] < np.inf and math.isnan(special[5])
    equal = np.full(67, -1.2345)  # elements in vectors and the remainder must agree
    exp_(equal)
    assert len(set(equal)) == 1


@pytest.mark.parametrize("function", [tanh_, sigmoid_, exp_])
def test_nan_stays_nan_and_other_special_values_give_finite_results(function):
    x = np.array([np.nan, np.inf, -np.inf, 0], np.float32)
    function(x)
    assert math.isnan(x[0])
    assert np.isfinite(x[1:]).all()


@pytest.mark.parametrize("function", [tanh_, sigmoid_, exp_])
def test_bits_of_a_value_do_not_depend_on_its_position(function):
    x = np.random.default_rng(0).standard_normal(200).astype(np.float32)
    whole = x.copy()
    function(whole)
    for first, last in [(0, 1), (1, 8), (5, 36), (9, 73), (13, 200)]:
        part = x[first:last].copy()
        function(part)
        assert (part == whole[first:last]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_extreme_logits(dtype):
    logits = np.array([1e4, -1e4, 0, 1e4], dtype)
    assert cross_entropy(logits, 4, 0, dtype(1)) == pytest.approx(math.log(2))
    assert logits == pytest.approx([-0.5, 0, 0, 0.5])
    logits = np.array([0, np.nan, 0], dtype)
    assert math.isnan(cross_entropy(logits, 3, 0, dtype(1)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_are_the_softmax_of_the_logits(dtype):
    rng = np.random.default_rng(0)
    logits = zeros((3, 5, padded(20)), dtype)
    logits[..., :20] = 10 * rng.standard_normal((3, 5, 20))
    before = logits.copy()
    p = np.full((3, 5, 20), 7, dtype)
    probabilities_of(logits, p, 2, 1, 4)
    expected = np.exp(logits[:2, 1:4, :20].astype(float))
    expected /= expected.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(p[:2, 1:4], expected, rtol=20 * np.finfo(dtype).eps, atol=1e-30)
    assert (p[2] == 7).all() and (p[:, [0, 4]] == 7).all()
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_preserves_the_mean_and_its_mask_depends_on_seed_and_position(rate):
    ones = np.ones((4, 100, 64), np.float32)
    out = np.zeros_like(ones)
    drop(ones, out, 12345, rate, 4, 0, 100, 0, 100)
    assert (out == 0).mean() == pytest.approx(rate, abs=0.02)
    assert out.mean() == pytest.approx(1, abs=0.05)
    again = np.zeros_like(ones)
    for first, last in [(0, 7), (7, 100)]:
        drop(ones, again, 12345, rate, 4, first, last, 0, 100)
    assert (out == again).all()
    drop(ones, again, 12346, rate, 4, 0, 100, 0, 100)
    for first, last in [(0, 7), (7, 100)]:
        drop_(ones, 12345, rate, 4, first, last, 0, 100)
    assert (out == ones).all()
    agree = ((out == 0) == (again == 0)).mean()
    assert agree == pytest.approx(rate**2 + (1 - rate) ** 2, abs=0.03)


WIDTHS = """
import sys
import numpy as np
from charrnn.network import jit

jit.VECTOR_BYTES = int(sys.argv[1])
from charrnn.network.arrays import zeros
from charrnn.network.kernels.matmul import pack, product

rng = np.random.default_rng(0)
for rows in range(1, 14):
    a, w = zeros((rows, 272), np.float32), rng.standard_normal((272, 1, 112), np.float32)
    a[:] = rng.standard_normal(a.shape)
    b, c = zeros((7, 272, 16), np.float32), zeros((rows, 112), np.float32)
    pack(w, 0, b)
    product(a, b, c)
    assert np.abs(c - a @ w[:, 0]).max() < 1e-3, rows
"""


@pytest.mark.parametrize("width", ["16", "64"])
def test_microkernel_at_the_vector_widths_of_other_processors(width, tmp_path):
    """LLVM splits or joins vectors that the processor lacks: slow, but from the same source."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", WIDTHS, width], check=True, env=environment)


PRODUCT = """
import sys
import numpy as np
from charrnn.network.jit import CACHE_FOLDER
from charrnn.network.kernels.cross_entropy import logits_of
from charrnn.network.arrays import zeros

h, w = np.ones((2, 3, 32), np.float32), np.ones((1, 32, 16), np.float32)
logits = zeros((2, 3, 16), np.float32)
logits_of(h, w, np.ones((1, 16), np.float32), logits, 2, 0, 3)
assert (logits == 33).all()
assert "numba.np.linalg" not in sys.modules or len(sys.argv) > 1, "loading imported the compiler"
print(CACHE_FOLDER)
"""


def test_cached_code_finds_the_product_it_calls_by_name(tmp_path):
    """Even if the product's own cached code is missing or truncated; loading needs no compiler."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": ""}

    def run(*arguments):
        command = [sys.executable, "-c", PRODUCT, *arguments]
        return subprocess.check_output(command, env=environment, text=True).strip()

    folder = Path(run("compiles"))
    run()
    codes = list(folder.glob("*gemm*.nbc"))
    assert len(codes) == 1
    codes[0].write_bytes(codes[0].read_bytes()[:1000])
    run("compiles")
    for file in folder.glob("*gemm*"):
        file.unlink()
    run("compiles")
    run()
