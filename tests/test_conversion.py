"""Models made of arrays and saved from Python; losses and probabilities of each character."""

import numpy as np
import pytest
from helpers.random_models import model_of

import charrnn
from charrnn.errors import UsageError
from charrnn.network.cells import CELLS
from charrnn.text.vocabulary import UnknownCharacters

LETTERS = "\nabcdefghij"


class Tensor:
    """What PyTorch's tensors offer to code that does not import it."""

    def __init__(self, array):
        self._array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        return np.array(self._array, dtype)


def weights_of(cell="lstm", **shape):
    model, _ = model_of(cell, V=len(LETTERS), scale=0.5, **shape)
    return model, model.state_dict()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding", [0, 6])
@pytest.mark.parametrize("names", ["{}", "net.{}", "net.{}.layers", "model"])
def test_a_state_dict_becomes_the_same_model(cell, embedding, names):
    model, weights = weights_of(cell, L=3, embedding_size=embedding)
    if names == "model":  # a module that is the recurrent network itself
        renamed = {n.removeprefix("rnn.").replace("output", "fc"): w for n, w in weights.items()}
    else:
        parts = {"rnn": "a", "output": "b", "embedding": "c"}
        renamed = {
            names.format(parts[n.partition(".")[0]]) + "." + n.partition(".")[2]: w
            for n, w in weights.items()
        }
    made = charrnn.from_torch({n: Tensor(w) for n, w in renamed.items()}, LETTERS, cell)
    assert made.config == model.config
    assert np.array_equal(made.model.parameters.flat, model.parameters.flat)
    assert charrnn.from_torch(renamed, LETTERS, cell).loss("abc") == made.loss("abc")


def test_a_model_of_bytes_is_made_without_a_vocabulary():
    model, _ = model_of("gru", V=256)
    assert charrnn.from_torch(model.state_dict(), None, "gru").loss("é") > 0


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w: w.pop("rnn.bias_hh_l1"), "rnn.bias_hh_l1 is missing instead of (20,)"),
        (lambda w: w.pop("output.bias"), "there is no matrix|output.bias is missing"),
        (lambda w: w.update({"output.weight": w["output.weight"].T}), "output.weight is (5, 11)"),
        (
            lambda w: w.update({"rnn.weight_hh_l0": w["rnn.weight_hh_l0"].T}),
            "rnn.weight_hh_l0 of a network of lstm cells has 4 times",
        ),
        (lambda w: w.update({"output.bias": np.zeros(3)}), "output.bias is (3,) instead of (11,)"),
        (
            lambda w: w.update({"rnn.weight_ih_l0_reverse": np.zeros((2, 2))}),
            "l0_reverse is (2, 2)",
        ),
        (lambda w: w.update({"rnn.weight_hr_l0": np.zeros((2, 2))}), "weight_hr_l0 is (2, 2)"),
        (lambda w: w.update({"output.bias": np.ones(11, complex)}), "of real numbers"),
        (lambda w: w.update({"output.bias": np.full(11, 1e300)}), "values that are not finite"),
        (lambda w: w.update({3: np.zeros(3)}), "not a state_dict"),
        (
            lambda w: w.update({"x.rnn.weight_ih_l0": np.zeros((2, 2))}),
            "not of one recurrent",
        ),
        (lambda w: w["output.bias"].fill(np.nan), "output.bias holds values that are not finite"),
        (lambda w: w.update({"output.bias": "x"}), "'output.bias' is not an array of real numbers"),
        (lambda w: w.clear(), "there is no matrix rnn.weight_hh_l0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, words):
    _, weights = weights_of()
    change(weights)
    with pytest.raises(UsageError) as caught:
        charrnn.from_torch(weights, LETTERS)
    assert any(part in str(caught.value) for part in words.split("|")), caught.value
    assert str(caught.value).count(".") >= 1 and "\n" not in str(caught.value)


def test_another_cell_or_vocabulary_is_refused():
    _, weights = weights_of()
    for arguments in (weights, LETTERS, "gru"), (weights, "abc"), (weights, LETTERS, "tree"):
        with pytest.raises(UsageError):
            charrnn.from_torch(*arguments)


@pytest.mark.parametrize("fixture", ["model_file", "bytes_model_file", "records_model"])
def test_a_saved_model_is_the_file_that_it_came_from(fixture, request, tmp_path):
    path = request.getfixturevalue(fixture)
    model = charrnn.load(path)
    model.save(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == path.read_bytes()
    with pytest.raises(UsageError, match="exists: give overwrite=True"):
        model.save(tmp_path / "m")
    model.save(tmp_path / "m", overwrite=True)


def test_a_model_made_of_arrays_is_saved(tmp_path):
    model = charrnn.from_torch(weights_of()[1], LETTERS)
    model.save(tmp_path / "m")
    assert charrnn.load(tmp_path / "m").losses("abc")[1:] == pytest.approx(model.losses("abc")[1:])


@pytest.mark.parametrize("fixture", ["model_file", "bytes_model_file", "records_model"])
def test_losses_are_those_of_each_character(fixture, request, text):
    model = charrnn.load(request.getfixturevalue(fixture))
    some = {"model_file": text[:300], "bytes_model_file": "東京 ça", "records_model": "ab\nb\n"}[
        fixture
    ]
    losses = model.losses(some)
    assert len(losses) == len(model.vocabulary.encode(some))
    assert losses.mean() == pytest.approx(model.loss(some), rel=1e-12)
    after = some[:-1] if fixture != "records_model" else "ab\nb"
    last = "a" if fixture == "bytes_model_file" else "\n"
    key = ord(last) if fixture == "bytes_model_file" else last
    if fixture == "records_model":  # a prime lies within one record
        after = "b"
        losses = model.losses("b\n")
    if fixture == "model_file":
        last = key = some[-1]
    probabilities = model.probabilities(after)
    assert -np.log(probabilities[key]) == pytest.approx(losses[-1], rel=1e-4)
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-9)


def test_what_cannot_be_measured_is_nan_or_an_error(model_file):
    model = charrnn.from_torch(weights_of()[1], LETTERS)
    losses = model.losses("abc")
    assert np.isnan(losses[0]) and np.isfinite(losses[1:]).all()
    assert len(model.losses("")) == 0 and len(charrnn.load(model_file).losses("")) == 0
    assert len(model.probabilities()) == len(LETTERS)
    for method in model.losses, model.probabilities:
        with pytest.raises(UnknownCharacters):
            method("Ж")
