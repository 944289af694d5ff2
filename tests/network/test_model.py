"""The whole model: threads, rows, workspaces, precisions, NaN, parameters, dropout."""

import numpy as np
import pytest
from helpers import gradcheck, naive
from helpers.random_models import naive_start, problem

from charrnn.config import ModelConfig, TensorRole
from charrnn.errors import CharRNNError
from charrnn.network.arrays import Workspace
from charrnn.network.carried_state import CarriedState
from charrnn.network.cells import CELLS
from charrnn.network.model import Model
from charrnn.network.parameters import Parameters
from charrnn.network.stack import Stack, forward, loss_and_gradients

every_cell = pytest.mark.parametrize("cell", CELLS)


def everything(model, x, y, state, dropout_seed=None):
    """{name: array} of all results of forward and backward."""
    loss, gradients, end, start = loss_and_gradients(model, x, y, state, dropout_seed=dropout_seed)
    logits, forward_end = forward(model, x, state)
    named = {"loss": loss, "logits": logits, "end": end.hidden, "start": start}
    named |= {"recent": end.recent, "forward recent": forward_end.recent}
    return named | {"forward end": forward_end.hidden} | gradients


# --- results do not depend on how the work is split ---


@every_cell
@pytest.mark.parametrize("N", [1, 2, 5, 13])
@pytest.mark.parametrize("embedding_size", [0, 19])
def test_number_of_threads_changes_no_bit(cell, N, embedding_size):
    size = (9, N, 67, 37, embedding_size, 2)
    model, _, *inputs = problem(cell, size, np.float32)
    expected = everything(model, *inputs)
    for threads in (2, 3):
        model = problem(cell, size, np.float32, threads)[0]
        for name, a in everything(model, *inputs).items():
            np.testing.assert_array_equal(a, expected[name], err_msg=f"{name}, {threads} threads")


def test_number_of_threads_changes_no_bit_of_large_products():
    """More rows than a tile, more columns than a panel, sums longer than a block."""
    results = []
    for threads in (1, 2, 3):
        model, _, *inputs = problem("lstm", (45, 13, 130, 133, 0, 2), np.float32, threads)
        results.append(everything(model, *inputs))
    for name, a in results[0].items():
        np.testing.assert_array_equal(results[1][name], a, err_msg=name)
        np.testing.assert_array_equal(results[2][name], a, err_msg=name)


@every_cell
def test_repeated_call_gives_the_same_bits(cell):
    model, _, *inputs = problem(cell, dtype=np.float32, threads=2)
    first = everything(model, *inputs)
    loss_and_gradients(model, *problem(cell, (7, 5, 7, 5, 6, 2), np.float32)[2:])  # other sizes
    for name, a in everything(model, *inputs).items():
        np.testing.assert_array_equal(a, first[name], err_msg=name)


@every_cell
def test_rows_are_independent(cell):
    model, _, x, y, state = problem(cell, (4, 7, 9, 17, 6, 2), np.float32, threads=2)
    order = np.random.default_rng(2).permutation(7)
    here = everything(model, x, y, state)
    there = everything(model, x[:, order], y[:, order], state.select(order))
    np.testing.assert_array_equal(there["logits"], here["logits"][:, order])
    np.testing.assert_array_equal(there["end"], here["end"][:, :, order])
    np.testing.assert_array_equal(there["start"], here["start"][:, :, order])
    np.testing.assert_array_equal(there["recent"], here["recent"][:, order])
    assert there["loss"] == pytest.approx(here["loss"], rel=1e-6)


@every_cell
def test_row_alone_has_the_same_bits_as_in_a_batch(cell):
    model, _, x, _, state = problem(cell, (4, 7, 9, 17, 6, 2), np.float32, threads=2)
    logits, _ = forward(model, x, state)
    for n in range(7):
        alone, _ = forward(model, x[:, n : n + 1], state.select([n]))
        np.testing.assert_array_equal(alone[:, 0], logits[:, n])


@every_cell
def test_no_logit_depends_on_a_later_character(cell):
    model, _, x, _, state = problem(cell)
    changed = x.copy()
    changed[2] = (x[2] + 1) % 7
    before, after = forward(model, x, state)[0], forward(model, changed, state)[0]
    np.testing.assert_array_equal(before[:2], after[:2])
    assert np.abs(before[2:] - after[2:]).min() > 0


@pytest.mark.parametrize("embedding_size", [0, 6])
def test_inputs_of_any_layout_and_integer_type_are_accepted_and_unchanged(embedding_size):
    model, _, x, y, state = problem(size=(4, 3, 7, 5, embedding_size, 2))
    expected = everything(model, x, y, state)
    for dtype in (np.uint8, np.uint16, np.int64):
        inputs = x.astype(dtype), np.asfortranarray(y.astype(dtype))
        odd = CarriedState(np.asfortranarray(state.hidden), state.recent[::-1].copy()[::-1])
        copies = [a.copy() for a in (*inputs, *odd)]
        for name, a in everything(model, *inputs, odd).items():
            np.testing.assert_array_equal(a, expected[name], err_msg=f"{name}, {dtype}")
        for a, copy in zip((*inputs, *odd), copies, strict=True):
            np.testing.assert_array_equal(a, copy)


def test_results_are_copies_that_the_next_call_does_not_change():
    model, _, x, y, state = problem()
    results = everything(model, x, y, state)
    copies = {name: np.copy(a) for name, a in results.items()}
    everything(model, (x + 1) % 7, y, CarriedState(-state.hidden, state.recent // 2))
    for name, a in results.items():
        np.testing.assert_array_equal(a, copies[name], err_msg=name)


def all_gradients(stack):
    """The gradients of a stack in PyTorch's names and shapes."""
    gradients = Parameters(stack.model.config, stack.model.dtype)
    gradients.dense[:] = stack.gradients.flat
    gradients.ngram_rows[stack.ngram_gradients.used] = stack.ngram_gradients.rows
    return gradients.state_dict()


@every_cell
@pytest.mark.parametrize("embedding_size", [0, 6])
def test_reused_stack_equals_a_new_one_for_chunks_of_any_length(cell, embedding_size):
    """Training reuses one stack, advances its state, and ends with a shorter chunk."""
    size = (8, 5, 9, 17, embedding_size, 2)
    model, _, x, y, state = problem(cell, size, np.float32, threads=2, dropout=0.3)
    stack = Stack(model, 5, 8, training=True)
    stack.set_state(state)
    for steps, seed in ((8, 1), (3, 2), (5, 3), (1, None), (8, 4)):
        x, y = np.roll(x, 1, axis=0), np.roll(y, 1, axis=0)
        expected, gradients, end_state, start_gradient = loss_and_gradients(
            model, x[:steps], y[:steps], state, seed
        )
        assert stack.loss_and_gradients(x[:steps], y[:steps], seed) == expected
        np.testing.assert_array_equal(stack.start_gradient(), start_gradient)
        for name, g in all_gradients(stack).items():
            np.testing.assert_array_equal(g, gradients[name], err_msg=name)
        stack.advance_state(steps)
        state = stack.get_state()
        assert state.equals(end_state)


@every_cell
@pytest.mark.parametrize("rows, steps", [(5, 8), (2, 3), (40, 9)])
def test_stacks_that_take_turns_may_share_a_workspace(cell, rows, steps):
    """A stack as large, smaller or larger runs between two training steps, as validation does.

    The workspace may hold any numbers at the start of a call.
    """
    model, _, x, y, state = problem(cell, (8, 5, 9, 17, 0, 2), np.float32)
    workspace = Workspace()
    trained = Stack(model, 5, 8, training=True, workspace=workspace)
    trained.set_state(state)
    shared, own = Stack(model, rows, steps, workspace=workspace), Stack(model, rows, steps)
    (buffer,) = workspace.arrays((workspace.nbytes // 4,))
    assert np.shares_memory(trained.z[1], buffer) and not np.shares_memory(trained.s[1], buffer)
    assert (rows == 40) != np.shares_memory(shared.z[1], buffer)
    expected = loss_and_gradients(model, x, y, state)[0]
    ids = np.random.default_rng(5).integers(0, 9, (2, 3 * steps, rows), np.int32)
    for _ in range(2):
        buffer[...] = np.nan
        for stack in own, shared:
            stack.set_state(model.zero_state(rows))
        for chunk in np.split(ids, 3, axis=1):
            np.testing.assert_array_equal(shared.losses_of(*chunk), own.losses_of(*chunk))
        assert shared.get_state().equals(own.get_state())
        assert trained.loss_and_gradients(x, y, None) == expected


@every_cell
def test_losses_come_with_the_predicted_distributions(cell):
    model, _, x, y, state = problem(cell, dtype=np.float32)
    stack, p = Stack(model, 3, 4), np.empty((4, 3, 7), np.float32)
    stack.set_state(state)
    losses = stack.losses_of(x, y, p).copy()
    stack.set_state(state)
    np.testing.assert_array_equal(stack.losses_of(x, y), losses)
    np.testing.assert_allclose(p.sum(axis=2), 1, rtol=1e-6)
    of_targets = np.take_along_axis(p, y[:, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(-np.log(of_targets), losses, rtol=1e-5)


# --- precision, extremes and NaN ---


@every_cell
@pytest.mark.parametrize("embedding_size", [0, 19])
def test_float32_is_close_to_float64(cell, embedding_size):
    size = (6, 5, 67, 37, embedding_size, 2)
    model, params, x, y, state = problem(cell, size, np.float32)
    model64 = problem(cell, size)[0]
    # both from the very same weights and state
    model64.load_state_dict({name: w.astype(np.float32) for name, w in params.items()})
    exact = everything(model64, x, y, state._replace(hidden=state.hidden.astype(np.float64)))
    for name, a in everything(model, x, y, state).items():
        assert gradcheck.scaled_error(a, exact[name]) < 1e-5, name


@every_cell
def test_vocabulary_of_one_character(cell):
    model, _, x, y, state = problem(cell, (4, 3, 1, 5, 0, 2))
    loss, gradients, _, start = loss_and_gradients(model, x, y, state)
    assert loss == 0
    assert forward(model, x, state)[0].shape == (4, 3, 1)
    assert not any(g.any() for g in gradients.values())
    assert not start.any()


@every_cell
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_nan_in_any_weight_makes_the_loss_nan(cell, dtype):
    model, params, x, y, state = problem(cell, dtype=dtype, threads=2, ngrams=1)
    for name, weights in params.items():
        broken = weights.copy()
        broken.flat[-1] = np.nan
        model.load_state_dict(params | {name: broken})
        assert np.isnan(loss_and_gradients(model, x, y, state)[0]), name


@every_cell
def test_nan_in_the_state_of_a_row_stays_in_that_row(cell):
    model, _, x, y, state = problem(cell)
    state.hidden[0, 0, 1, 2] = np.nan
    logits, end_state = forward(model, x, state)
    assert np.isnan(logits[:, 1]).all()
    assert np.isfinite(logits[:, [0, 2]]).all()
    assert np.isfinite(end_state.select([0, 2]).hidden).all()
    assert np.isnan(loss_and_gradients(model, x, y, state)[0])


# --- parameters ---


@every_cell
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_have_the_names_and_shapes_of_pytorch(cell, dtype):
    for L, E in ((1, 0), (3, 6)):
        config = ModelConfig(7, cell, hidden_size=5, num_layers=L, embedding_size=E)
        tensors = Model(config, np.random.default_rng(0), dtype=dtype).state_dict()
        assert {name: a.shape for name, a in tensors.items()} == naive.tensor_shapes(config)
        assert all(a.dtype == dtype and a.flags.c_contiguous for a in tensors.values())


@every_cell
@pytest.mark.parametrize("embedding_size", [0, 6])
def test_tensor_roles(cell, embedding_size):
    config = ModelConfig(7, cell, hidden_size=5, num_layers=3, embedding_size=embedding_size)
    specs = config.tensor_specs()
    tables = [spec.name for spec in specs if spec.is_lookup_table]
    assert tables == ["embedding.weight" if embedding_size else "rnn.weight_ih_l0"]
    names = {
        role: [spec.name for spec in specs if spec.role is role and spec.name not in tables]
        for role in TensorRole
    }
    layers = range(3)
    inputs = [f"rnn.weight_ih_l{k}" for k in layers if k or embedding_size]
    assert names[TensorRole.INPUT_WEIGHT] == inputs
    assert names[TensorRole.RECURRENT_WEIGHT] == [f"rnn.weight_hh_l{k}" for k in layers]
    assert names[TensorRole.INPUT_BIAS] == [f"rnn.bias_ih_l{k}" for k in layers]
    assert names[TensorRole.RECURRENT_BIAS] == [f"rnn.bias_hh_l{k}" for k in layers]
    vectors = CELLS[cell].PEEPHOLES
    assert names[TensorRole.PEEPHOLE] == [f"rnn.{name}_l{k}" for k in layers for name in vectors]
    assert names[TensorRole.OUTPUT_WEIGHT] == ["output.weight"]
    assert names[TensorRole.OUTPUT_BIAS] == ["output.bias"]
    assert all(spec.shape[0] == spec.gates * 5 for spec in specs if spec.gates > 1)


@every_cell
def test_state_dict_returns_copies_of_the_loaded_tensors(cell):
    model, params, x, _, state = problem(cell)
    before = forward(model, x, state)[0]
    tensors = model.state_dict()
    for name, a in tensors.items():
        np.testing.assert_array_equal(a, params[name], err_msg=name)
        a[:] = 0
    np.testing.assert_array_equal(forward(model, x, state)[0], before)


def test_loaded_model_gives_the_bits_of_the_saved_one():
    model, _, *inputs = problem(dtype=np.float32)
    other = Model(model.config, np.random.default_rng(7), ngrams=model.ngrams.table)
    other.load_state_dict(model.state_dict())
    expected = everything(model, *inputs)
    for name, a in everything(other, *inputs).items():
        np.testing.assert_array_equal(a, expected[name], err_msg=name)


def test_loading_names_the_tensor_that_does_not_fit():
    model, params, *_ = problem()
    without = {name: w for name, w in params.items() if name != "rnn.weight_hh_l1"}
    with pytest.raises(CharRNNError, match="rnn.weight_hh_l1"):
        model.load_state_dict(without)
    with pytest.raises(CharRNNError, match="rnn.weight_hh_l2"):
        model.load_state_dict(params | {"rnn.weight_hh_l2": params["rnn.weight_hh_l1"]})
    with pytest.raises(CharRNNError, match="output.weight"):
        model.load_state_dict(params | {"output.weight": params["output.weight"].T})


def test_refused_load_changes_nothing():
    model, params, *_ = problem()
    zeros = {name: np.zeros_like(w) for name, w in params.items()}
    with pytest.raises(CharRNNError):
        model.load_state_dict(zeros | {"output.bias": np.zeros(8)})
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, params[name], err_msg=name)


@every_cell
def test_zero_state(cell):
    model = problem(cell, dtype=np.float32)[0]
    state = model.zero_state(4)
    assert state.hidden.shape == (2, naive.STATES[cell], 4, 5)
    assert state.hidden.dtype == np.float32
    assert not state.hidden.any()
    assert state.recent.shape == (2, 4) and state.recent.dtype == np.int32
    assert (state.recent == -1).all() and state.rows == 4


@every_cell
def test_initial_values(cell):
    config = ModelConfig(7, cell, hidden_size=5, num_layers=3, embedding_size=6)
    tensors = Model(config, np.random.default_rng(0)).state_dict()
    for name, a in tensors.items():
        assert np.isfinite(a).all()
        assert a.any() or "weight" not in name or "weight_c" in name, name
    if cell in ("lstm", "lstm-peephole"):
        for k in range(3):
            bias = tensors[f"rnn.bias_ih_l{k}"] + tensors[f"rnn.bias_hh_l{k}"]
            np.testing.assert_array_equal(bias[5:10], 1, err_msg="the forget gate's")


@every_cell
def test_initial_values_depend_only_on_the_generator(cell):
    config = ModelConfig(7, cell, hidden_size=5, embedding_size=6)
    first, again, other = (
        Model(config, np.random.default_rng(seed), threads=threads).state_dict()
        for seed, threads in ((3, 1), (3, 2), (4, 1))
    )
    for name in first:
        np.testing.assert_array_equal(first[name], again[name], err_msg=name)
    assert not np.array_equal(first["output.weight"], other["output.weight"])


@every_cell
def test_initial_loss_is_near_the_uniform_distribution(cell):
    """Initial logits are small, so all characters are about equally likely."""
    config = ModelConfig(65, cell, hidden_size=64)
    model = Model(config, np.random.default_rng(0))
    x, y = np.random.default_rng(1).integers(0, 65, (2, 20, 5))
    assert loss_and_gradients(model, x, y, model.zero_state(5))[0] == pytest.approx(
        np.log(65), abs=0.3
    )


# --- dropout ---


@every_cell
def test_without_a_seed_there_is_no_dropout(cell):
    model, params, x, y, state = problem(cell, dropout=0.5)
    start = naive_start(model, state)
    expected = naive.loss(params, model.config, x, y, *start)[0]
    assert loss_and_gradients(model, x, y, state)[0] == pytest.approx(expected, rel=1e-12)
    expected = naive.forward(params, model.config, x, *start)[0]
    np.testing.assert_allclose(forward(model, x, state)[0], expected, rtol=0, atol=1e-12)


@every_cell
def test_dropout_depends_on_the_seed(cell):
    model, _, x, y, state = problem(cell, dropout=0.5, dtype=np.float32)
    first, again, other = (loss_and_gradients(model, x, y, state, s)[0] for s in (1, 1, 2))
    assert first == again != other
    whole, *_ = problem(cell, dropout=0.0, dtype=np.float32)
    losses = [loss_and_gradients(whole, x, y, state, s)[0] for s in (1, None)]
    assert losses[0] == losses[1]  # without dropout the seed has no effect


@every_cell
def test_gradients_with_dropout_equal_finite_differences(cell):
    model, params, x, y, state = problem(cell, (3, 2, 4, 3, 2, 3), dropout=0.4)
    _, gradients, _, gradients["start state"] = loss_and_gradients(
        model, x, y, state, dropout_seed=5
    )

    def loss(arrays):
        model.load_state_dict({name: arrays[name] for name in params})
        start = state._replace(hidden=arrays["start state"])
        return loss_and_gradients(model, x, y, start, 5)[0]

    expected = gradcheck.differences(loss, params | {"start state": state.hidden})
    errors = {n: gradcheck.relative_error(gradients[n], expected[n], 1e-5) for n in expected}
    assert max(errors.values()) < 1e-6, errors


def outputs_seen(model, x, state, dropout_seed=None):
    """The input h (T, N, H) of the output layer, read from the gradient of the output weights.

    With zero output weights every character has probability 1/V. Each (t, n) has a target of its
    own, and V > T*N, so row k of the gradient differs from the row of a non-target by -h_k / T*N.
    """
    T, N = x.shape
    y = np.arange(T * N, dtype=np.int32).reshape(T, N)
    gradient = loss_and_gradients(model, x, y, state, dropout_seed)[1]["output.weight"]
    return (gradient[-1] - gradient[: T * N]).reshape(T, N, -1) * T * N


@every_cell
def test_dropout_zeroes_outputs_at_its_rate_and_scales_the_others(cell):
    model, params, x, _, state = problem(cell, (8, 5, 41, 33, 0, 1), dropout=0.25)
    blind = {name: np.zeros_like(params[name]) for name in ("output.weight", "output.bias")}
    model.load_state_dict(params | blind)
    h = outputs_seen(model, x, state)
    survived = []
    for seed in range(10):
        ratio = outputs_seen(model, x, state, seed) / h
        assert np.all(np.isclose(ratio, 0, atol=1e-8) | np.isclose(ratio, 1 / 0.75, atol=1e-8))
        survived.append(ratio > 0.5)
    survived = np.array(survived)  # (10, T, N, H), 13200 draws
    assert survived.mean() == pytest.approx(0.75, abs=0.016)  # 4 standard deviations
    for axis in (0, 1, 2, 3):  # no two seeds, steps, rows or units share their draws
        pairs = np.take(survived, range(1, survived.shape[axis]), axis) == np.take(
            survived, range(survived.shape[axis] - 1), axis
        )
        assert pairs.mean() == pytest.approx(0.75**2 + 0.25**2, abs=0.025)


def test_dropout_between_layers_zeroes_at_its_rate_and_scales_the_others():
    """The masks show in the gradient of a second layer with zero weights, whose h is always 0."""
    T, N, H = 1, 1, 64
    model, params, x, y, state = problem("rnn", (T, N, 7, H, 0, 2), dropout=0.25)
    for name in params:
        if name.endswith("_l1"):
            params[name] = np.zeros_like(params[name])
    model.load_state_dict(params)
    plain = loss_and_gradients(model, x, y, state)[1]["rnn.weight_ih_l1"]
    survived = []
    for seed in range(50):
        ratio = loss_and_gradients(model, x, y, state, seed)[1]["rnn.weight_ih_l1"] / plain
        into, out_of = ratio.any(axis=0), ratio.any(axis=1)  # masks before and after layer 1
        expected = np.outer(out_of, into) / 0.75**2
        np.testing.assert_allclose(ratio, expected, atol=1e-8)
        survived += [into, out_of]
        assert not np.array_equal(into, out_of)
    assert np.mean(survived) == pytest.approx(
        0.75, abs=0.022
    )  # 4 standard deviations of 6400 draws


@every_cell
@pytest.mark.parametrize("N", [1, 5, 13])
def test_number_of_threads_changes_no_bit_of_dropout(cell, N):
    results = []
    for threads in (1, 2, 3):
        model, _, x, y, state = problem(cell, (6, N, 9, 17, 0, 3), np.float32, threads, 0.5)
        results.append(everything(model, x, y, state, dropout_seed=11))
    for name, a in results[0].items():
        np.testing.assert_array_equal(results[1][name], a, err_msg=name)
        np.testing.assert_array_equal(results[2][name], a, err_msg=name)
