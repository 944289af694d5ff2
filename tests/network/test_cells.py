"""Every cell, as a stack of layers: agreement with the reference, numerical gradients."""

from functools import partial

import numpy as np
import pytest
from helpers import gradcheck, naive, random_models
from helpers.random_models import naive_start

from charrnn.config import CELL_NAMES, CELL_SHAPES
from charrnn.network.cells import CELLS
from charrnn.network.stack import forward, loss_and_gradients

# T, N, V, H, E, L: all different, so that a transposed array fails, ...
SIZES = [
    (4, 3, 7, 5, 6, 2),
    (4, 3, 7, 5, 0, 2),
    (1, 1, 2, 1, 0, 1),
    (5, 2, 4, 3, 2, 7),
    # ... and around the blocks of the kernels: vectors of 8 and 16, panels of 64, sums of 256.
    (3, 2, 5, 16, 0, 1),
    (3, 7, 9, 17, 3, 2),
    (2, 13, 65, 33, 0, 3),
    (2, 6, 64, 64, 65, 1),
    (1, 2, 70, 63, 0, 1),
    (131, 3, 5, 2, 3, 1),  # a weight gradient sums over T*N = 393
    (257, 1, 3, 2, 0, 2),
    (2, 3, 300, 260, 257, 1),
]
# Each size with n-grams of up to 1 to 4 ids, those of the first two with all.
CASES = [(size, n) for size in SIZES[:2] for n in (1, 2, 3, 4)]
CASES += [(size, 1 + k % 4) for k, size in enumerate(SIZES[2:], 1)]

every_cell = pytest.mark.parametrize("cell", CELLS)
every_size = pytest.mark.parametrize(
    ("size", "ngrams"), CASES, ids=lambda v: "x".join(map(str, v)) if isinstance(v, tuple) else v
)
problem = partial(random_models.problem, threads=2)


def test_every_registered_cell_has_a_reference_and_a_name_in_the_options():
    tables = naive.CELLS, naive.GATES, naive.STATES, naive.SIGMOID_GATES, naive.PEEPHOLES
    assert set(CELLS) == set(CELL_NAMES)
    assert all(set(table) == set(CELL_NAMES) for table in tables)


@every_cell
def test_cell_shapes_of_the_options_repeat_the_constants_of_the_cell(cell):
    module, shape = CELLS[cell], CELL_SHAPES[cell]
    assert shape.gates == module.GATES
    assert shape.states == module.STATES
    assert shape.peepholes == tuple(module.PEEPHOLES)


@every_cell
def test_cell_constants_have_one_value_per_gate(cell):
    module = CELLS[cell]
    per_gate = (module.INPUT_PLANES, module.HIDDEN_PLANES, module.OPERANDS, module.BIAS)
    assert {len(values) for values in per_gate} == {module.GATES}
    planes = {*module.INPUT_PLANES, *module.HIDDEN_PLANES}
    assert planes == set(range(module.PLANES))
    assert set(module.OPERANDS) == set(range(-1, module.SAVED))
    assert planes.issuperset(module.SIGMOIDS.values())


@every_cell
@every_size
def test_forward_equals_the_reference(cell, size, ngrams):
    model, params, x, _, state = problem(cell, size, ngrams=ngrams)
    logits, end_state = forward(model, x, state)
    start = naive_start(model, state)
    expected_logits, expected_end = naive.forward(params, model.config, x, *start)
    assert logits.dtype == end_state.hidden.dtype == np.float64
    np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=1e-12)
    np.testing.assert_allclose(end_state.hidden, expected_end, rtol=0, atol=1e-12)
    read = np.concatenate([state.recent, x])
    np.testing.assert_array_equal(end_state.recent, read[len(read) - ngrams + 1 :])


@every_cell
@every_size
def test_loss_equals_the_reference(cell, size, ngrams):
    model, params, x, y, state = problem(cell, size, ngrams=ngrams)
    loss, _, end_state, _ = loss_and_gradients(model, x, y, state)
    expected, expected_end = naive.loss(params, model.config, x, y, *naive_start(model, state))
    assert loss == pytest.approx(expected, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(end_state.hidden, expected_end, rtol=0, atol=1e-12)


@every_cell
@pytest.mark.parametrize("embedding_size", [0, 6])
@pytest.mark.parametrize("ngrams", [1, 4])
def test_gradient_of_every_element_equals_the_complex_step(cell, embedding_size, ngrams):
    model, params, x, y, state = problem(cell, (4, 3, 7, 5, embedding_size, 2), ngrams=ngrams)
    _, gradients, _, gradients["start state"] = loss_and_gradients(model, x, y, state)
    hidden, *read = naive_start(model, state)

    def loss(arrays):
        return naive.loss(arrays, model.config, x, y, arrays["start state"], *read)[0]

    expected = gradcheck.complex_step(loss, params | {"start state": hidden})
    assert set(gradients) == set(expected)
    errors = {name: gradcheck.relative_error(gradients[name], expected[name]) for name in expected}
    assert max(errors.values()) < 1e-9, errors


@every_cell
@every_size
def test_gradients_equal_the_slope_along_a_random_direction(cell, size, ngrams):
    model, params, x, y, state = problem(cell, size, ngrams=ngrams)
    _, gradients, _, gradients["start state"] = loss_and_gradients(model, x, y, state)
    hidden, *read = naive_start(model, state)
    arrays = params | {"start state": hidden}
    rng = np.random.default_rng(1)
    directions = {name: rng.standard_normal(a.shape) for name, a in arrays.items()}

    def loss(arrays):
        return naive.loss(arrays, model.config, x, y, arrays["start state"], *read)[0]

    terms = [gradients[name] * directions[name] for name in arrays]
    expected = gradcheck.slope(loss, arrays, directions)
    tolerance = 1e-12 * sum(np.abs(term).sum() for term in terms)
    assert sum(term.sum() for term in terms) == pytest.approx(expected, rel=0, abs=tolerance)


@every_cell
def test_two_chunks_equal_one_chunk_of_twice_the_length(cell):
    model, _, x, _, state = problem(cell, (8, 3, 7, 17, 6, 2))
    whole, end_state = forward(model, x, state)
    first, middle_state = forward(model, x[:4], state)
    second, last_state = forward(model, x[4:], middle_state)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, rtol=0, atol=1e-14)
    np.testing.assert_allclose(last_state.hidden, end_state.hidden, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(last_state.recent, end_state.recent)


@every_cell
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_saturated_gates_give_the_exact_loss(cell, dtype):
    """With pre-activations of hundreds, gates are 0 or 1, and nothing overflows."""
    model, params, x, y, state = problem(cell, (4, 3, 7, 5, 0, 1), dtype=dtype)
    params = {name: (100 * w).astype(dtype) for name, w in params.items()}
    model.load_state_dict(params)
    loss, gradients, _, _ = loss_and_gradients(model, x, y, state)
    expected, _ = naive.loss(params, model.config, x, y, *naive_start(model, state))
    assert loss == pytest.approx(expected, rel=1e-5 if dtype == np.float32 else 1e-11)
    assert all(np.isfinite(g).all() for g in gradients.values())
