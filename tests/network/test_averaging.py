"""The average of several models: one network whose logits are the mean of theirs."""

import numpy as np
import pytest
from helpers.random_models import model_of

from charrnn.network.averaging import SCALE, average, averaged_config, count_blocks, separate
from charrnn.network.cells import CELLS
from charrnn.network.model import Model
from charrnn.network.stack import Stack

IDS = np.random.default_rng(5).integers(0, 11, (9, 3), np.int32)


def members_of(cell, count, **more):
    """Models of one shape with different weights, and n-grams in common."""
    models = [model_of(cell, seed=1, **more)[0] for _ in range(count)]
    for i, model in enumerate(models[1:], 2):
        rng = np.random.default_rng(i)
        model.load_state_dict(
            {name: rng.permutation(a.ravel()).reshape(a.shape) for name, a in
             model.state_dict().items()}
        )  # fmt: skip
    return models


def averaged(models):
    first = models[0]
    config = averaged_config(first.config, len(models))
    model = Model(config, dtype=first.dtype, ngrams=first.ngrams.table)
    average([m.parameters for m in models], model.parameters)
    model.pack()
    return model


def logits_of(model, ids=IDS):
    stack = Stack(model, ids.shape[1], len(ids))
    stack.set_state(model.zero_state(ids.shape[1]))
    stack.forward(ids)
    return stack.logits[..., : model.config.vocab_size].copy()


@pytest.mark.parametrize("embedding_size", [0, 6])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_the_logits_of_an_average_are_the_mean_of_its_members(cell, count, embedding_size):
    models = members_of(cell, count, ngrams=3, embedding_size=embedding_size, dtype=np.float64)
    expected = SCALE * np.mean([logits_of(m) for m in models], 0)
    assert np.abs(expected - logits_of(models[0])).max() > 0.1
    np.testing.assert_allclose(logits_of(averaged(models)), expected, atol=1e-12)


@pytest.mark.parametrize("H, dtype", [(5, np.float64), (16, np.float32)])
@pytest.mark.parametrize("cell", CELLS)
def test_an_average_of_models_of_records_resets_its_state_as_they_do(cell, H, dtype):
    """Also where its matrices are multiplied by block: those of the second size."""
    ids = np.where(IDS == 3, 4, IDS)
    ids[4] = 3
    models = members_of(cell, 2, H=H, ngrams=3, dtype=dtype, record_end_id=3)
    whole = averaged(models)
    loaded = Model(whole.config, dtype=dtype, ngrams=whole.ngrams.table)
    loaded.load_state_dict(whole.state_dict())
    assert loaded.config.record_end_id == 3 and loaded.blocks == (2 if H == 16 else 1)
    expected = SCALE * np.mean([logits_of(m, ids) for m in models], 0)
    found = logits_of(loaded, ids)
    np.testing.assert_allclose(found, expected, atol=1e-12 if dtype is np.float64 else 1e-4)
    np.testing.assert_array_equal(found[4:], logits_of(loaded, ids[4:]))
    others = np.vstack([np.roll(ids[:4], 1, 1), ids[4:]])
    np.testing.assert_array_equal(found[4:], logits_of(loaded, others)[4:])
    assert np.abs(found[3] - logits_of(loaded, others)[3]).max() > 0.1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("embedding_size", [0, 6, 32])
@pytest.mark.parametrize("count, units", [(2, 32), (3, 16), (3, 20)])
def test_the_zeros_between_blocks_need_no_products(count, units, embedding_size, precision):
    """A loaded average, whose blocks are found, has the logits of one that is multiplied out."""
    models = members_of("gru", count, H=units, ngrams=2, embedding_size=embedding_size)
    dense = averaged(models)
    loaded = Model(dense.config, precision=precision, ngrams=dense.ngrams.table)
    loaded.load_state_dict(dense.state_dict())
    assert loaded.blocks == (count if units % 16 == 0 else 1)
    if precision == "float32":
        np.testing.assert_array_equal(logits_of(loaded), logits_of(dense))
    before = logits_of(loaded)
    loaded.prepare_backward()  # for training, all of the matrices are packed
    assert loaded.blocks == 1
    np.testing.assert_array_equal(logits_of(loaded), before)


def test_other_matrices_have_no_blocks():
    whole = averaged(members_of("lstm", 4, H=16))
    assert count_blocks(whole.parameters) == 4
    tensors = whole.state_dict()
    for row, column in (0, 63), (63, 0), (15, 16), (32, 31):
        changed = tensors["rnn.weight_hh_l1"].copy()
        changed[row, column] = 1e-30
        whole.load_state_dict(tensors | {"rnn.weight_hh_l1": changed})
        assert whole.blocks == (2 if {row, column} == {15, 16} else 1)
    assert model_of("lstm", H=32)[0].blocks == 1


@pytest.mark.parametrize("embedding_size", [0, 6])
def test_an_average_can_be_separated_again(embedding_size):
    models = members_of("lstm-peephole", 2, ngrams=2, embedding_size=embedding_size)
    whole = averaged(models)
    parts = members_of("lstm-peephole", 2, ngrams=2, embedding_size=embedding_size)
    separate(whole.parameters, [m.parameters for m in parts])
    bias = (models[0].parameters.view("output.bias") + models[1].parameters.view("output.bias")) / 2
    for part, model in zip(parts, models, strict=True):
        for name, tensor in part.state_dict().items():
            expected = bias[0] if name == "output.bias" else model.state_dict()[name]
            np.testing.assert_allclose(tensor, expected, rtol=1e-6)
    again = averaged(parts).parameters.flat
    np.testing.assert_allclose(again, whole.parameters.flat, rtol=1e-6)
