"""bfloat16: rounding, agreement of every product with the reference, training runs.

On a processor without the instruction, these are tests of its portable version.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import llvmlite.binding as llvm
import numpy as np
import pytest
from helpers import gradcheck, naive, random_models
from helpers.panels import packed, random
from helpers.runs import result_of, started, stopped_after, trained
from llvmlite import ir

import charrnn
from charrnn.api import read_model
from charrnn.errors import UsageError
from charrnn.network import jit
from charrnn.network import precision as precisions
from charrnn.network.arrays import zeros
from charrnn.network.cells import CELLS
from charrnn.network.jit import kernel
from charrnn.network.kernels import bfloat16
from charrnn.network.kernels.bfloat16 import operand
from charrnn.network.kernels.matmul import (
    input_product,
    output_product,
    pack,
    padded,
    product,
    weight_gradient,
    workspace_size,
)
from charrnn.network.kernels.microkernel import NR
from charrnn.network.stack import forward, loss_and_gradients
from charrnn.training.start import prepare_run
from charrnn.training.state import read_state

every_cell = pytest.mark.parametrize("cell", CELLS)


@pytest.fixture
def bfloat16_allowed(monkeypatch):
    """Training in bfloat16 is allowed on every processor."""
    monkeypatch.setattr(jit, "BFLOAT16", True)
    set_gflops(monkeypatch, bfloat16=200.0)


def set_gflops(monkeypatch, bfloat16):
    """Let charrnn find these speeds of matrix products, and 100 GFLOP/s in float32."""
    gflops = {"float32": 100.0, "bfloat16": bfloat16}
    monkeypatch.setattr(precisions, "measure_gflops", lambda: gflops)


def close(found, expected):
    """Whether the two differ at most by the float32 rounding of sums."""
    return np.abs(found - expected).max(initial=0) <= 1e-5 * np.abs(expected).max(initial=1)


# --- rounding


@kernel
def rounded_row(a, panels):
    return operand(a, 0, a.size, 1, panels)[0]


def as_floats(halves):
    return (halves.astype(np.uint32) << 16).view(np.float32)


def by_rows(x):
    """x (n,) rounded as activations are."""
    panels = np.zeros((1, x.size // 2, NR), np.uint32)
    return as_floats(rounded_row(x, panels).view(np.uint16))


def by_panels(x):
    """x (n,), n a multiple of 32, rounded as weights are."""
    panels = zeros((1, x.size // 32, NR), np.uint32)
    pack(x.reshape(-1, 1, NR), 0, panels)
    halves = panels.view(np.uint16).reshape(-1, NR, 2)
    return as_floats(halves.transpose(0, 2, 1).ravel())


@pytest.mark.parametrize("rounds", [by_rows, by_panels])
def test_bfloat16_values_are_unchanged_by_rounding(rounds):
    every = as_floats(np.arange(2**16))
    found, nan = rounds(every), np.isnan(every)
    np.testing.assert_array_equal(found[~nan].view(np.uint32), every[~nan].view(np.uint32))
    assert np.isnan(found[nan]).all()


@pytest.mark.parametrize("rounds", [by_rows, by_panels])
@pytest.mark.parametrize("below", [0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_values_between_are_rounded_to_nearest_ties_to_even(rounds, below):
    between = ((np.arange(2**16, dtype=np.uint32) << 16) + np.uint32(below)).view(np.float32)
    found, nan = rounds(between), np.isnan(between)
    np.testing.assert_array_equal(found[~nan], naive.rounded(between[~nan]))
    assert np.isnan(found[nan]).all()


# --- products


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 25])
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (16, 16), (33, 70), (600, 17)])
def test_product_adds_to_its_target(rows, depth, columns):
    rng = np.random.default_rng(rows)
    a, w = random(rng, (rows, depth)), random(rng, (depth, 1, columns))
    c = random(rng, (rows, columns))
    expected = c + naive.rounded(a[:, :depth]) @ naive.rounded(w[:, 0])
    product(a, packed(w, pairs=True), c)
    assert close(c, expected)


def test_product_equals_plain_loops():
    rng = np.random.default_rng(0)
    a, w, c = random(rng, (3, 20)), random(rng, (20, 1, 16)), zeros((3, 16), np.float32)
    product(a, packed(w, pairs=True), c)
    assert close(c, naive.rounded_product(a[:, :20], w[:, 0]))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_products_over_time_and_back(batch):
    rng = np.random.default_rng(batch)
    steps, inputs, hidden, planes = 5, 20, 35, np.array([0, 1, 3])
    x, w = random(rng, (steps, batch, inputs)), random(rng, (inputs, 3, hidden))
    z, bias = zeros((steps, 4, batch, padded(hidden)), np.float32), random(rng, (4, hidden))
    panels = np.stack([packed(w, g, pairs=True) for g in range(3)])
    for row in range(batch):
        input_product(x, panels, planes, bias, z, steps, row, row + 1)
    alone = z.copy()
    input_product(x, panels, planes, bias, z, steps, 0, batch)
    assert (z == alone).all()
    for g, plane in enumerate(planes):
        product_ = naive.rounded(x[..., :inputs]) @ naive.rounded(w[:, g])
        assert close(z[:, plane], product_ + bias[plane])

    dx = zeros(x.shape, np.float32)
    transposed = np.stack([packed(w, g, transposed=True, pairs=True) for g in range(3)])
    output_product(z, transposed, planes, dx, steps, 0, batch)
    parts = [naive.rounded(z[:, p]) @ naive.rounded(w[:, g]).T for g, p in enumerate(planes)]
    assert close(dx[..., :inputs], sum(parts))
    assert (dx[..., inputs:] == 0).all()


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (5, 3), (37, 7), (40, 13)])
@pytest.mark.parametrize("parts", [1, 5])
def test_weight_gradient(steps, batch, parts):
    rng = np.random.default_rng(steps)
    inputs, hidden, planes = 21, 90, np.array([3, 1])
    x, dz = random(rng, (steps, batch, inputs)), random(rng, (steps, 4, batch, hidden))
    dw = np.full((inputs, 3, padded(hidden)), 7, np.float32)
    db, panels = np.full(dw.shape[1:], 7, np.float32), 2 * padded(hidden) // NR
    workspace = zeros((workspace_size(x.shape[2]),), np.uint32)
    workspace[:] = 0x7FC00000  # earlier contents must not matter, NaN least of all
    for i in range(parts):
        bounds = panels * i // parts, panels * (i + 1) // parts
        weight_gradient(x, dz, planes, 1, dw, db, steps, *bounds, workspace)
    x, dz = naive.rounded(x[..., :inputs]), naive.rounded(dz[:, planes])
    for g in range(2):
        assert close(dw[:, 1 + g], np.einsum("tbd,tbh->dh", x, dz[:, g]))
        assert close(db[1 + g], dz[:, g].sum((0, 1)))
    assert (dw[:, 0] == 7).all()


# --- the instruction


def test_processors_with_the_instruction_get_code_that_uses_it(monkeypatch):
    """The code cannot run on every processor, but it can be compiled on every one."""
    monkeypatch.setattr(bfloat16, "BFLOAT16", True)
    if hasattr(llvm, "initialize_all_targets"):
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    except RuntimeError:
        pytest.skip("this LLVM compiles for no x86")
    total, pair = (ir.VectorType(kind, 16) for kind in (ir.FloatType(), ir.IntType(32)))
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(total, [pair, pair, total]), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(bfloat16.dot(builder, None, *function.args))
    machine = target.create_target_machine(cpu="sapphirerapids")
    code = machine.emit_assembly(llvm.parse_assembly(str(module)))
    assert code.count("vdpbf16ps") == 1


PORTABLE = """
import sys
import numpy as np
from charrnn.network import jit

jit.BFLOAT16 = False
from charrnn.network.arrays import zeros
from charrnn.network.kernels.matmul import pack, product

a, w, c = (np.load(f"{name}.npy") for name in "awc")
b = zeros((3, 150, 16), np.uint32)
pack(w, 0, b)
product(a, b, c)
np.save("c", c)
"""


@pytest.mark.slow
@pytest.mark.skipif(not jit.BFLOAT16, reason="the processor has no AVX-512 BF16")
def test_the_instruction_agrees_with_its_portable_version(tmp_path):
    rng = np.random.default_rng(0)
    a, w, c = random(rng, (7, 300)), random(rng, (300, 1, 48)), random(rng, (7, 48))
    for name, array in ("a", a[:, :300]), ("w", w), ("c", c):
        np.save(tmp_path / f"{name}.npy", array)
    product(a[:, :300].copy(), packed(w, pairs=True)[:, :150].copy(), c)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": ""}
    subprocess.run([sys.executable, "-c", PORTABLE], check=True, env=environment, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "c.npy"), c, rtol=0, atol=3e-5)


# --- models


def problem(cell, precision, threads=1, sizes=(6, 5, 9, 17, 6, 2), ngrams=3):
    """As of helpers, with the weights that the model has."""
    model, params, *inputs = random_models.problem(
        cell, sizes, np.float32, threads, ngrams=ngrams, precision=precision
    )
    return model, {name: a.astype(np.float32) for name, a in params.items()}, *inputs


class Rounded(np.ndarray):
    """A matrix that is rounded, as its right-hand side is, before a product."""

    def __matmul__(self, other):
        return naive.rounded(np.asarray(self)) @ naive.rounded(np.asarray(other))


@every_cell
def test_only_both_sides_of_every_product_are_rounded(cell):
    model, params, x, _, state = problem(cell, "bfloat16", sizes=(3, 2, 9, 17, 6, 2))
    logits, end = forward(model, x, state)
    params = {name: a.astype(np.float64) for name, a in params.items()}
    layers = [vars(naive.layer_weights(params, k)) for k in range(2)]
    layers = [
        SimpleNamespace(**{n: a.view(Rounded) if a.ndim == 2 else a for n, a in layer.items()})
        for layer in layers
    ]
    hidden, ngrams, before = random_models.naive_start(model, state)
    for n in range(2):
        states = list(hidden[:, :, n])
        for t in range(3):
            read = [*before[n], *x[: t + 1, n].tolist()]
            v = naive.input_vector(params, model.config, read, ngrams)
            for k in range(2):
                states[k] = naive.CELLS[cell](v, states[k], layers[k])
                v = states[k][0]
            expected = params["output.weight"].view(Rounded) @ v + params["output.bias"]
            assert np.abs(logits[t, n] - expected).max() < 1e-5
        assert np.abs(end.hidden[:, :, n] - np.array(states)).max() < 1e-5


@every_cell
@pytest.mark.parametrize("embedding_size", [0, 6])
def test_loss_and_gradients_are_close_to_float32(cell, embedding_size):
    sizes = (6, 5, 9, 33, embedding_size, 2)
    results = []
    for precision in "float32", "bfloat16":
        model, _, *inputs = problem(cell, precision, sizes=sizes, ngrams=1)
        loss, gradients, end, start = loss_and_gradients(model, *inputs)
        results.append(gradients | {"loss": np.array(loss), "end": end.hidden, "start": start})
    errors = {n: gradcheck.scaled_error(results[1][n], a) for n, a in results[0].items()}
    assert 1e-5 < max(errors.values()) < 0.03, errors


@every_cell
@pytest.mark.parametrize("N", [1, 5, 13])
def test_number_of_threads_changes_no_bit(cell, N):
    results = []
    for threads in 1, 3:
        model, _, *inputs = problem(cell, "bfloat16", threads, (6, N, 9, 17, 0, 3))
        loss, gradients, end, start = loss_and_gradients(model, *inputs)
        results.append(gradients | {"loss": np.array(loss), "end": end.hidden, "start": start})
    for name, a in results[0].items():
        np.testing.assert_array_equal(results[1][name], a, err_msg=name)


# --- runs


def test_training_without_the_instruction_is_refused(invoke, corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr(jit, "BFLOAT16", False)
    for more in ["--steps=2"], ["--time=1s"]:
        result = invoke(
            "train", corpus_file, "--precision=bfloat16", "-o", tmp_path / "m", "--quiet", *more
        )
        assert result.exit_code == 2
        assert result.stderr == (
            "Error: precision bfloat16 cannot be used here: this processor has no instruction for "
            "it (AVX-512 BF16); train in float32, the default, or on a processor that has one.\n"
        )
        assert list(tmp_path.iterdir()) == []


def test_training_is_refused_before_the_text_is_read(corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr(jit, "BFLOAT16", False)
    read = []
    with pytest.raises(UsageError, match="no instruction"):
        prepare_run(
            corpus_file,
            tmp_path / "m",
            {"precision": "bfloat16"},
            progress=lambda *_: read.append(1),
        )
    assert not read


SLOWER = (
    "bfloat16 is slower than float32 here, 51 against 100 GFLOP/s in matrix products on one core"
)


@pytest.mark.usefixtures("bfloat16_allowed")
def test_training_is_refused_where_bfloat16_is_slower(invoke, corpus_file, tmp_path, monkeypatch):
    set_gflops(monkeypatch, bfloat16=51.4)
    arguments = "--precision=bfloat16", "-o", tmp_path / "m", "--hidden-size=8", "--quiet"
    for limit in "--steps=2", "--time=1s":
        result = invoke("train", corpus_file, *arguments, limit)
        assert result.exit_code == 2
        assert result.stderr == f"Error: {SLOWER}: train in float32, the default.\n"
    with pytest.raises(UsageError, match="51 against 100 GFLOP/s"):
        charrnn.train(corpus_file, tmp_path / "m", steps=2, precision="bfloat16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("bfloat16_allowed")
def test_run_in_bfloat16_is_resumed_with_a_note_where_it_is_slower(
    corpus_file, tmp_path, monkeypatch
):
    settings = {"steps": 4, "hidden_size": 8, "precision": "bfloat16"}
    trained(corpus_file, tmp_path / "whole", **settings)
    stopped_after(started(corpus_file, tmp_path / "m", **settings), 2)
    set_gflops(monkeypatch, bfloat16=51.4)
    run = trained(corpus_file, tmp_path / "m", resume=True, precision="bfloat16")
    assert SLOWER in run.summary.notes
    assert result_of(tmp_path / "m") == result_of(tmp_path / "whole")


@pytest.mark.usefixtures("bfloat16_allowed")
def test_resumed_run_continues_in_its_precision(corpus_file, tmp_path, monkeypatch):
    settings = {"steps": 6, "embedding_size": 5, "dropout": 0.2, "precision": "bfloat16"}
    trained(corpus_file, tmp_path / "whole", **settings)
    stopped_after(started(corpus_file, tmp_path / "m", **settings), 3)
    before = (tmp_path / "m.state.safetensors").read_bytes()
    with pytest.raises(UsageError, match="precision bfloat16, not float32"):
        started(corpus_file, tmp_path / "m", resume=True, precision="float32")
    monkeypatch.setattr(jit, "BFLOAT16", False)
    with pytest.raises(UsageError, match="no instruction"):
        started(corpus_file, tmp_path / "m", resume=True)
    assert (tmp_path / "m.state.safetensors").read_bytes() == before
    monkeypatch.setattr(jit, "BFLOAT16", True)
    trained(corpus_file, tmp_path / "m", resume=True)
    assert result_of(tmp_path / "m") == result_of(tmp_path / "whole")
    assert read_state(tmp_path / "m.state.safetensors").options.precision == "bfloat16"


@pytest.mark.usefixtures("bfloat16_allowed")
def test_training_in_bfloat16_learns_as_float32_does_and_saves_float32(corpus_file, tmp_path):
    losses = {}
    for precision in "float32", "bfloat16":
        run = trained(
            corpus_file, tmp_path / precision, steps=150, hidden_size=32, precision=precision
        )
        losses[precision] = run.progress.best_val_loss
        weights = run.model.state_dict().values()
        assert all(a.dtype == np.float32 for a in weights)
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.05)
    training = read_model(tmp_path / "bfloat16").training
    assert training["options"]["precision"] == "bfloat16"
