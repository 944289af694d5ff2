"""Rows of n-grams: finding them, adding them up, their gradients and their initial values."""

import numpy as np
import pytest
from helpers import naive
from helpers.logits import require_same_in_chunks
from helpers.random_models import ngram_tuples, problem, random_ngrams, with_ngrams

from charrnn.config import MAX_NGRAMS, ModelConfig
from charrnn.errors import CharRNNError
from charrnn.network.cells import CELLS
from charrnn.network.kernels.embedding import embed, look_up
from charrnn.network.kernels.matmul import padded
from charrnn.network.kernels.ngrams import EMPTY, find_rows, group_places, insert, row_gradient
from charrnn.network.model import Model
from charrnn.network.ngram_index import NgramIndex
from charrnn.network.stack import Stack, forward, loss_and_gradients
from charrnn.text import ngrams as text_ngrams

every_order = pytest.mark.parametrize("order", [2, 3, 4])
every_cell = pytest.mark.parametrize("cell", CELLS)


def test_the_longest_ngrams_of_options_are_those_that_can_be_counted():
    assert MAX_NGRAMS == text_ngrams.MAX_ORDER


# --- finding rows


def rows_by_ngram(table, vocab_size):
    """{n-gram: its row} in plain Python."""
    ngrams = [tuple(ngram) for level in table for ngram in level.tolist()]
    return {ngram: vocab_size + k for k, ngram in enumerate(ngrams)}


def rows_at(ids, before, order, rows):
    """found[t][b][n - 2]: the row of the n-gram that ends at step t of ids, -1 for none."""
    steps, batch_size = len(ids) - before, ids.shape[1]
    found = np.full((steps, batch_size, order - 1), -1)
    for b in range(batch_size):
        column = ids[:, b].tolist()
        for t in range(steps):
            for n in range(2, order + 1):
                end = before + t + 1
                ngram = tuple(column[max(0, end - n) : end])
                found[t, b, n - 2] = rows.get(ngram, -1)
    return found


def found_by(index, ids, order, first=0, last=None):
    """The rows that the kernel finds in ids (order - 1 + T, B)."""
    steps, batch_size = len(ids) - order + 1, ids.shape[1]
    found = np.full((steps, batch_size, order - 1), -7, np.int32)
    bounds = first, batch_size if last is None else last
    find_rows(ids, index.vocab_size, index.keys, index.rows, found, steps, *bounds)
    return found


@every_order
@pytest.mark.parametrize("vocab_size", [1, 2, 7, 300])
def test_rows_are_those_of_a_dict(order, vocab_size):
    rng = np.random.default_rng(order)
    ids = rng.integers(0, vocab_size, (order - 1 + 50, 5), dtype=np.int32)
    table = random_ngrams(ids, vocab_size, order, rng)
    ids[: order - 1, 0] = -1  # a row at the start of a text, ...
    ids[: order - 2, 1] = -1  # ... and one an id later
    index = NgramIndex(table, vocab_size)
    expected = rows_at(ids, order - 1, order, rows_by_ngram(table, vocab_size))
    assert vocab_size == 1 or {-1} < set(expected[..., -1].ravel())
    np.testing.assert_array_equal(found_by(index, ids, order), expected)
    part = found_by(index, ids, order, 2, 4)
    np.testing.assert_array_equal(part[:, 2:4], expected[:, 2:4])
    assert (part[:, [0, 1, 4]] == -7).all()


@every_order
def test_rows_do_not_depend_on_chunk_boundaries(order):
    rng = np.random.default_rng(3)
    before = order - 1
    ids = rng.integers(0, 4, (before + 40, 3), dtype=np.int32)
    ids[:before] = -1
    index = NgramIndex(random_ngrams(ids[before:], 4, order, rng), 4)
    whole = found_by(index, ids, order)
    for length in 1, 2, 3, 7:
        parts = [
            found_by(index, ids[start : start + before + length], order)
            for start in range(0, 40, length)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_beginning_of_an_unknown_ngram_is_never_taken_for_an_id():
    """-1 before a text must match no n-gram, whatever ids these have."""
    ids = np.array(np.meshgrid(range(3), range(3), range(3), indexing="ij"), np.int32)
    trigrams = ids.reshape(3, -1).T.copy()
    bigrams = np.unique(trigrams[:, :2], axis=0)
    index = NgramIndex((bigrams, trigrams), 3)
    for column in ([-1, -1, 2], [-1, 0, 2], [2, -1, 0], [-1, -1, -1]):
        found = found_by(index, np.array(column, np.int32)[:, None], 3)[0, 0]
        known = [-1 not in column[-n:] for n in (2, 3)]
        assert ((found >= 0) == known).all(), column


def test_many_ngrams_whose_slots_collide_are_all_found():
    """Half of all slots are taken, so that most searches pass others' keys."""
    rng = np.random.default_rng(4)
    bigrams = np.unique(rng.integers(0, 1000, (16384, 2), dtype=np.int32), axis=0)
    index = NgramIndex((bigrams,), 1000)
    assert index.size == len(bigrams) and 2 * index.size < len(index.keys) <= 4 * index.size + 2
    assert (index.keys != EMPTY).sum() == index.size
    np.testing.assert_array_equal(index.rows_of(bigrams), 1000 + np.arange(len(bigrams)))
    others = rng.integers(0, 1000, (5000, 2), dtype=np.int32)
    known = rows_by_ngram((bigrams,), 1000)
    expected = [known.get(tuple(ngram), -1) for ngram in others.tolist()]
    np.testing.assert_array_equal(index.rows_of(others), expected)


def test_keys_of_one_slot_are_found_in_a_table_that_is_almost_full():
    keys, rows = np.full(8, EMPTY, np.int64), np.zeros(8, np.int32)
    new = np.array([5, 13, 0, 21, 2**40, 8, 16], np.int64)
    insert(new, 100, keys, rows)
    assert {int(k): int(r) for k, r in zip(keys, rows, strict=True) if k >= 0} == {
        int(key): 100 + i for i, key in enumerate(new)
    }


@every_order
def test_every_ngram_of_a_large_alphabet_has_its_row(order):
    """Keys are beyond 32 bits: the largest vocabulary, and rows after it."""
    size, rng = 1_112_064, np.random.default_rng(5)
    ids = rng.integers(size - 9, size, (60, 2), dtype=np.int32)
    known = np.unique(np.lib.stride_tricks.sliding_window_view(ids[:, 0], 2), axis=0)
    table = [known]
    for n in range(3, order + 1):
        windows = np.lib.stride_tricks.sliding_window_view(ids[:, 0], n)
        table.append(np.unique(windows, axis=0).astype(np.int32))
    index = NgramIndex(tuple(table), size)
    first = size
    for level in table:
        np.testing.assert_array_equal(index.rows_of(level), first + np.arange(len(level)))
        first += len(level)


def test_an_index_without_ngrams_finds_nothing():
    index = NgramIndex((np.empty((0, 2), np.int32), np.empty((0, 3), np.int32)), 5)
    ids = np.random.default_rng(0).integers(0, 5, (12, 2), dtype=np.int32)
    assert index.size == 0 and (found_by(index, ids, 3) == -1).all()


# --- sums of rows


@every_order
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_character_and_its_ngrams_are_added_up(order, dtype):
    rng = np.random.default_rng(order)
    T, B, V, K, G, H = 6, 5, 7, 9, 3, 20
    table, ngram_rows = (rng.standard_normal((n, G, padded(H))).astype(dtype) for n in (V, K))
    x = rng.integers(0, V, (T, B), dtype=np.int32)
    found = rng.integers(-1, K, (T, B, order - 1), dtype=np.int32)
    found[found >= 0] += V
    bias, planes = rng.standard_normal((4, padded(H))).astype(dtype), np.array([3, 0, 2])
    z = np.full((T, 4, B, padded(H)), 9, dtype)
    look_up(table, ngram_rows, x, found, planes, bias, z, T, 1, 4)
    embedded = np.full((T, B, padded(H)), 9, dtype)
    embed(table[:, 0], ngram_rows[:, :1], x, found, embedded, T, 1, 4)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    assert (z[:, :, [0, 4]] == 9).all() and (embedded[:, [0, 4]] == 9).all()
    for t in range(T):
        for b in range(1, 4):
            total = table[x[t, b]].astype(float)
            for row in found[t, b]:
                total = total + (ngram_rows[row - V] if row >= 0 else 0)
            np.testing.assert_allclose(embedded[t, b], total[0], atol=tolerance)
            for p in range(4):
                gate = {3: 0, 0: 1, 2: 2}.get(p)
                rows = 0 if gate is None else total[gate]
                np.testing.assert_allclose(z[t, p, b], bias[p] + rows, atol=tolerance)


# --- gradients of rows


def grouped(found, vocab_size, num_ngrams, steps):
    """[(n-gram, [place, ...]), ...] as group_places gives them."""
    group_of = np.full(num_ngrams, -1, np.int32)
    most = min(found.size, num_ngrams)
    used, starts = np.full(most, -9, np.int32), np.full(most + 1, -9, np.int32)
    places = np.full(found.size, -9, np.int32)
    count = group_places(found, vocab_size, group_of, used, starts, places, steps)
    assert (group_of == -1).all()
    bounds = zip(starts[:count], starts[1:], strict=False)
    groups = [places[a:b].tolist() for a, b in bounds]
    return list(zip(used[:count].tolist(), groups, strict=True)), (starts, places, count)


@every_order
@pytest.mark.parametrize("num_ngrams", [1, 4, 60])
@pytest.mark.parametrize("steps", [1, 5, 9])
def test_places_are_grouped_by_row_in_order_of_first_use(order, num_ngrams, steps):
    V, B = 7, 3
    rng = np.random.default_rng(num_ngrams)
    found = rng.integers(-1, num_ngrams, (9, B, order - 1), dtype=np.int32)
    found[found >= 0] += V
    expected = {}
    for t in range(steps):
        for b in range(B):
            for row in found[t, b]:
                if row >= 0:
                    expected.setdefault(int(row) - V, []).append(t * B + b)
    assert grouped(found, V, num_ngrams, steps)[0] == list(expected.items())


def test_a_chunk_without_known_ngrams_has_no_groups():
    assert grouped(np.full((4, 3, 2), -1, np.int32), 7, 5, 4)[0] == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("parts", [1, 3, 7])
def test_the_gradient_of_a_row_is_the_sum_over_its_places(parts, dtype):
    T, B, V, K, H, planes = 8, 3, 4, 6, 16 * 5, np.array([2, 0])
    rng = np.random.default_rng(6)
    found = rng.integers(-1, K, (T, B, 2), dtype=np.int32)
    found[found >= 0] += V
    groups, (starts, places, count) = grouped(found, V, K, T)
    dz = rng.standard_normal((T, 3, B, H)).astype(dtype)
    out, squares = np.full((K, 2, H), np.nan, dtype), np.full((2, H), np.nan)
    for i in range(parts):
        bounds = i * 10 // parts, (i + 1) * 10 // parts  # panels
        row_gradient(starts, places, count, dz, planes, out, squares, *bounds)
    tolerance = 1e-14 if dtype == np.float64 else 1e-5
    for u, (_, at) in enumerate(groups):
        for g, plane in enumerate(planes):
            expected = sum(dz[p // B, plane, p % B].astype(float) for p in at)
            np.testing.assert_allclose(out[u, g], expected, rtol=0, atol=tolerance)
    assert np.isnan(out[count:]).all()
    expected = sum(row.astype(float) ** 2 for row in out[:count])
    np.testing.assert_allclose(squares, expected, rtol=1e-14)


# --- models


@every_cell
@pytest.mark.parametrize("embedding_size", [0, 6])
@every_order
def test_a_text_in_chunks_gives_the_bits_of_the_whole(cell, embedding_size, order):
    size = 12, 5, 4, 17, embedding_size, 2
    model, _, x, _, state = problem(cell, size, np.float32, threads=2, ngrams=order)
    require_same_in_chunks(model, x, state, [[1] * 12, [5, 1, 6], [11, 1]])


@every_order
def test_rows_of_a_beam_carry_their_last_ids(order):
    """Rows that continue others' texts, as a beam search reorders them."""
    model, _, x, _, state = problem("gru", (9, 6, 4, 9, 0, 2), np.float32, ngrams=order)
    stack, expected = Stack(model, 6, 3), forward(model, x, state)[0]
    stack.set_state(state)
    rng, source = np.random.default_rng(8), np.arange(6)
    for start in range(0, 9, 3):
        stack.forward(np.ascontiguousarray(x[start : start + 3, source]))
        logits = stack.logits[:, :, : model.config.vocab_size]
        np.testing.assert_array_equal(logits, expected[start : start + 3, source])
        rows = rng.integers(0, 6, 6)
        stack.advance_state(3, rows)
        source = source[rows]


@pytest.mark.parametrize("embedding_size", [0, 19])
@pytest.mark.parametrize("batch_size", [1, 2, 11])
def test_five_threads_change_no_bit(embedding_size, batch_size):
    size, results = (9, batch_size, 6, 37, embedding_size, 2), []
    for threads in 1, 2, 5:
        model, _, x, y, state = problem("lstm", size, np.float32, threads, ngrams=4)
        loss, gradients, _, start = loss_and_gradients(model, x, y, state)
        results.append(gradients | {"loss": np.array(loss), "start": start})
    for name, a in results[0].items():
        np.testing.assert_array_equal(results[1][name], a, err_msg=name)
        np.testing.assert_array_equal(results[2][name], a, err_msg=name)


@pytest.mark.parametrize("embedding_size", [0, 6])
def test_only_ngrams_of_the_chunk_have_gradients(embedding_size):
    model, _, x, y, state = problem(size=(4, 3, 7, 5, embedding_size, 2), ngrams=4)
    read = np.concatenate([state.recent, x])
    rows = rows_by_ngram(model.ngrams.table, 7)
    used = {int(row) - 7 for row in rows_at(read, 3, 4, rows).ravel() if row >= 0}
    stack = Stack(model, 3, 4, training=True)
    stack.set_state(state)
    stack.loss_and_gradients(x, y, None)
    assert set(stack.ngram_gradients.used.tolist()) == used < set(range(model.ngrams.size))
    gradient = loss_and_gradients(model, x, y, state)[1][model.config.lookup_table_name]
    by_input = gradient if embedding_size else gradient.T
    assert set(np.flatnonzero(by_input[7:].any(axis=1)).tolist()) == used


@pytest.mark.parametrize("embedding_size", [0, 6])
def test_nan_in_the_weights_of_an_ngram_shows_where_it_is_used(embedding_size):
    model, params, x, _, state = problem(size=(4, 3, 7, 5, embedding_size, 2))
    name = model.config.lookup_table_name
    rows = rows_at(np.concatenate([state.recent, x]), 2, 3, rows_by_ngram(model.ngrams.table, 7))
    for k in range(model.ngrams.size):
        table = params[name].copy()
        (table if embedding_size else table.T)[7 + k] = np.nan
        model.load_state_dict(params | {name: table})
        logits, _ = forward(model, x, state)
        expected = np.logical_or.accumulate((rows == 7 + k).any(axis=2), axis=0)
        np.testing.assert_array_equal(np.isnan(logits).all(axis=2), expected)
        np.testing.assert_array_equal(np.isnan(logits).any(axis=2), expected)


@every_cell
@pytest.mark.parametrize("embedding_size", [0, 6])
def test_ngrams_begin_with_zero_weights_and_change_no_other(cell, embedding_size):
    plain = ModelConfig(7, cell, hidden_size=5, num_layers=2, embedding_size=embedding_size)
    ids = np.random.default_rng(0).integers(0, 7, (20, 2), np.int32)
    config, table = with_ngrams(plain, ids, 3)
    without = Model(plain, np.random.default_rng(1))
    model = Model(config, np.random.default_rng(1), ngrams=table)
    name = config.lookup_table_name
    for other, weights in model.state_dict().items():
        if other == name:
            by_input = weights if embedding_size else weights.T
            assert len(by_input) == 7 + model.ngrams.size and not by_input[7:].any()
            weights = by_input[:7] if embedding_size else by_input[:7].T
        np.testing.assert_array_equal(weights, without.state_dict()[other], err_msg=other)
    logits, logits_without = (forward(m, ids, m.zero_state(2))[0] for m in (model, without))
    np.testing.assert_array_equal(logits, logits_without)


def test_tensor_shapes_equal_the_reference():
    for embedding_size in 0, 6:
        config = ModelConfig(7, "gru", 5, 2, embedding_size, ngrams=3, num_ngrams=11)
        assert config.tensor_shapes() == naive.tensor_shapes(config)


def test_a_model_refuses_other_ngrams_than_its_configuration_says():
    table = (np.array([[0, 1], [1, 1]], np.int32),)
    model = Model(ModelConfig(3, ngrams=2, num_ngrams=2), ngrams=table)
    assert ngram_tuples(model) == [(0, 1), (1, 1)]
    for ngrams, count in [(2, 1), (3, 2), (1, 0), (2, 3)]:
        with pytest.raises(CharRNNError, match="n-grams do not fit"):
            Model(ModelConfig(3, ngrams=ngrams, num_ngrams=count), ngrams=table)


def test_parameters_of_padded_rows_stay_zero_in_the_padding():
    model, *_ = problem(size=(4, 3, 7, 5, 0, 1))
    assert model.parameters.ngram_rows.shape == (model.ngrams.size, 4, 16)
    assert not model.parameters.ngram_rows[..., 5:].any()
