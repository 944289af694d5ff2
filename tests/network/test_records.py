"""Models of records: an id that ends a record resets the state, forward and backward."""

import itertools

import numpy as np
import pytest
from helpers import gradcheck, naive
from helpers.logits import require_same_in_chunks
from helpers.random_models import model_of, naive_start, problem

from charrnn.config import ModelConfig
from charrnn.errors import CharRNNError, UsageError
from charrnn.generation.sampler import SamplingOptions, generate
from charrnn.network.carried_state import CarriedState
from charrnn.network.cells import CELLS
from charrnn.network.model import Model
from charrnn.network.stack import Stack, forward, loss_and_gradients

END = 3  # the id that ends a record; an odd one, neither the first nor the last

every_cell = pytest.mark.parametrize("cell", CELLS)
every_input = pytest.mark.parametrize("embedding_size", [0, 6])
every_order = pytest.mark.parametrize("ngrams", [1, 3])

# Where each of five rows ends records, of 6 steps.
RESETS = {
    "first and last step": [0, 5],
    "consecutive steps": [2, 3],  # an empty record
    "every step": range(6),
    "none": [],
    "within": [1, 4],
}


def ended(x, ends):
    """x (T, N) with record ends at the steps ends[n] of row n, and nowhere else."""
    x = np.where(x == END, END + 1, x).astype(np.int32)
    for n, steps in enumerate(ends):
        x[list(steps), n] = END
    return x


def records_problem(cell, embedding_size=0, ngrams=3, **more):
    """As `problem`, with five rows of x that end records as RESETS says."""
    size = 6, len(RESETS), 7, 5, embedding_size, 2
    model, params, x, y, state = problem(cell, size, ngrams=ngrams, record_end_id=END, **more)
    return model, params, ended(x, RESETS.values()), y, state


@every_cell
@every_input
@every_order
def test_forward_equals_the_reference(cell, embedding_size, ngrams):
    model, params, x, _, state = records_problem(cell, embedding_size, ngrams, threads=2)
    logits, end = forward(model, x, state)
    expected, expected_end = naive.forward(params, model.config, x, *naive_start(model, state))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(end.hidden, expected_end, rtol=0, atol=1e-12)


@every_cell
@every_input
@every_order
def test_gradient_of_every_element_equals_the_complex_step(cell, embedding_size, ngrams):
    model, params, x, y, state = records_problem(cell, embedding_size, ngrams, threads=2)
    found_loss, gradients, _, gradients["start state"] = loss_and_gradients(model, x, y, state)
    hidden, *read = naive_start(model, state)

    def loss(arrays):
        return naive.loss(arrays, model.config, x, y, arrays["start state"], *read)[0]

    arrays = params | {"start state": hidden}
    rng = np.random.default_rng(1)
    directions = {name: rng.standard_normal(a.shape) for name, a in arrays.items()}
    terms = [gradients[name] * directions[name] for name in arrays]
    assert found_loss == pytest.approx(loss(arrays), rel=1e-12)
    tolerance = 1e-12 * sum(np.abs(term).sum() for term in terms)
    slope = gradcheck.slope(loss, arrays, directions)
    assert sum(term.sum() for term in terms) == pytest.approx(slope, rel=0, abs=tolerance)
    starts = list(RESETS).index("first and last step"), list(RESETS).index("every step")
    assert not gradients["start state"][:, :, starts].any()
    if ngrams > 1 and not embedding_size:  # every element, of some models: it takes a second each
        expected = gradcheck.complex_step(loss, arrays)
        errors = {
            name: gradcheck.relative_error(gradients[name], expected[name]) for name in arrays
        }
        assert max(errors.values()) < 1e-9, errors


@every_cell
def test_no_gradient_flows_over_a_record_end_with_dropout(cell):
    """What targets after the end change in the gradients does not depend on the ids before it."""
    model, _, x, y, state = records_problem(cell, 6, dropout=0.4)
    x[3] = END
    others = np.concatenate([np.roll(x[:3], 1, axis=1), x[3:]]), np.r_[y[:3], (y[3:] + 1) % 7]
    changes = []
    for ids in x, others[0]:
        first, second = (
            loss_and_gradients(model, ids, targets, state, dropout_seed=5)[1]
            for targets in (y, others[1])
        )
        changes.append({name: second[name] - first[name] for name in first})
    for name, change in changes[0].items():
        assert change.any() or "embedding" in name
        np.testing.assert_allclose(changes[1][name], change, rtol=0, atol=1e-14, err_msg=name)


@every_cell
@every_input
def test_two_records_have_the_same_losses_in_either_order(cell, embedding_size):
    model, _, x, _, state = records_problem(cell, embedding_size, dtype=np.float32)
    rng = np.random.default_rng(4)
    texts = [rng.choice([0, 1, 2, 4, 5, 6], n).tolist() for n in (5, 9)]
    losses = []
    for first, second in (texts, texts[::-1]):
        ids = np.array([END, *first, END, *second, END], np.int32)
        stack = Stack(model, 1, len(ids) - 1)
        stack.set_state(state.select([1]))
        found = stack.losses_of(ids[:-1, None], ids[1:, None])[:, 0].tolist()
        losses.append((found[: len(first) + 1], found[len(first) + 1 :]))
    assert losses[0] == losses[1][::-1]
    assert losses[0][0] != losses[0][1][: len(losses[0][0])]


@every_cell
@every_input
@every_order
def test_chunks_carry_records_as_long_as_they_are(cell, embedding_size, ngrams):
    size = 12, 5, 7, 17, embedding_size, 2
    model, _, x, _, state = problem(
        cell, size, np.float32, threads=2, ngrams=ngrams, record_end_id=END
    )
    x = ended(x, [[4, 5], [0, 11], [6], [], range(12)])
    require_same_in_chunks(model, x, state, [[1] * 12, [5, 1, 6], [6, 6]])


@every_cell
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_number_of_threads_changes_no_bit(cell, precision):
    results = []
    for threads in 1, 2, 5:
        model, _, x, y, state = records_problem(
            cell, 6, threads=threads, dtype=np.float32, precision=precision, dropout=0.3
        )
        loss, gradients, end, start = loss_and_gradients(model, x, y, state, dropout_seed=3)
        results.append(gradients | {"loss": np.array(loss), "start": start, "end": end.hidden})
    for name, a in results[0].items():
        np.testing.assert_array_equal(results[1][name], a, err_msg=name)
        np.testing.assert_array_equal(results[2][name], a, err_msg=name)


@every_cell
def test_bfloat16_resets_the_same_rows(cell):
    """The bits of the rows that begin a record at step 0 do not depend on the state before."""
    model, _, x, y, state = records_problem(
        cell, 6, dtype=np.float32, precision="bfloat16", threads=2
    )
    x[0] = END
    found = loss_and_gradients(model, x, y, state)
    expected = loss_and_gradients(model, x, y, model.zero_state(x.shape[1]))
    assert found[0] == expected[0] and found[2].equals(expected[2]) and not found[3].any()
    for name, gradient in expected[1].items():
        np.testing.assert_array_equal(found[1][name], gradient, err_msg=name)
    exact, *_ = records_problem(cell, 6, dtype=np.float32)
    assert found[0] == pytest.approx(loss_and_gradients(exact, x, y, state)[0], rel=0.05)


@every_cell
def test_a_model_without_that_id_in_its_input_gives_the_bits_of_one_without_records(cell):
    model, params, x, y, state = records_problem(cell, 6, ngrams=1, dtype=np.float32)
    x = ended(x, [])
    plain = Model(ModelConfig(7, cell, 5, 2, 6))
    plain.load_state_dict({name: a.astype(np.float32) for name, a in params.items()})
    found, expected = (loss_and_gradients(m, x, y, state) for m in (model, plain))
    assert found[0] == expected[0] and found[2].equals(expected[2])
    np.testing.assert_array_equal(found[3], expected[3])
    for name, gradient in expected[1].items():
        np.testing.assert_array_equal(found[1][name], gradient, err_msg=name)


@every_cell
def test_rows_of_a_beam_and_single_steps_read_records_alike(cell):
    model, _, x, _, state = records_problem(cell, dtype=np.float32)
    expected = forward(model, x, state)[0]
    stack, source = Stack(model, 5, 1), np.arange(5)
    stack.set_state(state)
    for t in range(6):
        stack.forward(np.ascontiguousarray(x[t : t + 1, source]))
        np.testing.assert_array_equal(stack.logits[0, :, :7], expected[t, source])
        rows = np.random.default_rng(t).integers(0, 5, 5)
        stack.advance_state(1, rows)
        source = source[rows]


@every_cell
def test_log_probabilities_of_sampled_records_are_those_of_the_forward_pass(cell):
    model, _, x, _, state = records_problem(cell, dtype=np.float32)
    stack, drawn, log_p = Stack(model, 5, 1), np.empty((40, 5), np.int32), np.empty((40, 5))
    stack.set_state(state)
    u, recent = np.random.default_rng(1).random((5, 40)), np.empty((5, 0), np.int32)
    draws = np.ones(7, bool), 1.0, 1.5, 0, 1.0, 0.0, recent, u
    stack.sample_steps(x[:1].copy(), drawn, draws, log_p, 1)
    assert 5 < np.count_nonzero(drawn == END) < 150
    logits = forward(model, np.concatenate([x[:1], drawn[:-1]]), state)[0].astype(float)
    logits -= np.log(np.exp(logits).sum(axis=2, keepdims=True))
    found = np.take_along_axis(logits, drawn[:, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(log_p, found, rtol=0, atol=1e-4)


@every_cell
@pytest.mark.parametrize("ngrams", [1, 3])
def test_probabilities_of_all_records_and_the_rest_add_up_to_one(cell, ngrams):
    """All records of two letters up to four, and all beginnings of five letters, read as one text
    in a row: what stands before a record changes nothing."""
    how = {"scale": 0.7, "ngrams": ngrams, "dtype": np.float64}
    model, _ = model_of(cell, V=3, record_end_id=1, **how)
    letters = [0, 2]
    records = [r for n in range(5) for r in itertools.product(letters, repeat=n)]
    rest = list(itertools.product(letters, repeat=5))
    ids = [1]
    for record in *records, *rest:
        ids += [*record, 1]
    ids = np.array(ids, np.int32)
    stack = Stack(model, 1, len(ids) - 1)
    stack.set_state(model.start.states)
    losses = iter(stack.losses_of(ids[:-1, None], ids[1:, None])[:, 0])
    total = 0.0
    for record in records:
        total += np.exp(-sum(next(losses) for _ in range(len(record) + 1)))
    assert 0.01 < total < 0.99
    for beginning in rest:
        total += np.exp(-sum(next(losses) for _ in beginning))
        next(losses)  # of the end
    assert total == pytest.approx(1, abs=1e-12)


def test_texts_begin_with_a_record():
    model, _ = model_of("lstm", V=7, record_end_id=END)
    assert model.start.ids.tolist() == [END]
    assert model.start.states.equals(model.zero_state(1))
    assert model.blank_start().ids.tolist() == [END]
    greedy = SamplingOptions(temperature=0)
    plain = generate(model, np.array([], np.int32), np.random.default_rng(0), greedy)
    first = list(itertools.islice(plain, 9))
    expected = forward(model, np.array([[END]]), model.zero_state(1))[0][0, 0].argmax()
    assert first[0] == expected
    for prime in [END], [2, 5, END]:  # the end of a record is the beginning of the next
        texts = generate(model, np.array(prime, np.int32), np.random.default_rng(0), greedy)
        assert list(itertools.islice(texts, 9)) == first


def test_ngrams_that_reach_over_the_end_of_a_record_are_refused():
    config = ModelConfig(7, ngrams=3, num_ngrams=3, record_end_id=END)
    pairs, triples = [(1, 2), (END, 2)], [(END, 2, 1)]

    def model(*levels):
        return Model(config, ngrams=tuple(np.array(level, np.int32) for level in levels))

    assert model(pairs, triples).ngrams.size == 3
    for level in [(1, END), (END, 2)], [(1, 2), (END, END)]:
        with pytest.raises(CharRNNError, match="over the end of a record"):
            model(level, triples)
    with pytest.raises(CharRNNError, match="over the end of a record"):
        model(pairs, [(1, 2, END)])


@pytest.mark.parametrize("value", [-2, 7, 2**63, True, 1.0, None, "3"])
def test_an_id_outside_the_vocabulary_ends_no_record(value):
    with pytest.raises(UsageError, match="record end id must be a whole number of at least -1"):
        ModelConfig(7, record_end_id=value)


def test_models_have_no_records_by_default():
    assert ModelConfig(7).record_end_id == -1 and not ModelConfig(7).has_records
    assert ModelConfig(7, record_end_id=0).has_records
    assert Model(ModelConfig(7)).start.ids.size == 0


def test_the_state_before_a_record_changes_nothing_even_if_it_is_not_finite():
    model, _, x, y, state = records_problem("lstm", dtype=np.float32)
    x[0] = END
    hidden = np.full_like(state.hidden, np.nan)
    loss, gradients, end, _ = loss_and_gradients(model, x, y, CarriedState(hidden, state.recent))
    assert np.isfinite(loss) and np.isfinite(end.hidden).all()
    assert all(np.isfinite(g).all() for g in gradients.values())
