"""State files: what is saved is read back, and invalid files are refused in one sentence."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import result_of, started, stopped_after, trained

from charrnn.errors import CharRNNError
from charrnn.storage.atomic import write_atomically
from charrnn.storage.checkpoint import STATE_KEY, load_state, save_state, serialize
from charrnn.training.state import ADDED_IN_4, ADDED_IN_5, ADDED_IN_6, read_state

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def state_file(corpus_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("state")
    stopped_after(started(corpus_file, folder / "m", steps=9, optimizer="rmsprop"), 4)
    return folder / "m.state.safetensors"


@pytest.fixture
def forged(state_file, tmp_path):
    """Write a changed copy of the state file, with a valid checksum; returns the run's output."""

    def forge(change):
        arrays, info = load_state(state_file)
        change(arrays, info)
        save_state(tmp_path / "m.state.safetensors", arrays, info)
        return tmp_path / "m"

    return forge


def refused(corpus_file, output, match=None):
    state = output.with_name("m.state.safetensors")
    before = state.read_bytes()
    with pytest.raises(CharRNNError, match=match) as caught:
        started(corpus_file, output, resume=True)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 600
    assert str(state) in message
    # Nothing was written, and the lock is released.
    assert [path.name for path in output.parent.iterdir()] == [state.name]
    assert state.read_bytes() == before
    return message


def test_a_saved_state_is_read_back(corpus_file, state_file, forged):
    state = read_state(state_file)
    assert (state.progress.step, state.encoding, len(state.progress.history)) == (4, "utf-8", 4)
    assert state.members[0].flat_arrays.keys() == {"weights", "mean_square"}
    output = forged(lambda arrays, info: None)
    assert output.with_name("m.state.safetensors").read_bytes() == state_file.read_bytes()
    assert started(corpus_file, output, resume=True).summary.resumed_step == 4


def test_the_bytes_of_a_state_do_not_depend_on_time_or_place(corpus_file, state_file, tmp_path):
    stopped_after(started(corpus_file, tmp_path / "m", steps=9, optimizer="rmsprop"), 4)
    assert (tmp_path / "m.state.safetensors").read_bytes() == state_file.read_bytes()


def test_state_tensors_have_the_names_and_shapes_of_the_model(state_file):
    arrays, info = load_state(state_file)
    vocab_size = info["config"]["vocab_size"]
    assert arrays["0.weights.output.weight"].shape == (vocab_size, 8)
    assert arrays["0.mean_square.rnn.weight_hh_l0"].shape == (32, 8)
    assert arrays["hidden"].shape == (1, 2, 8, 8)
    num_ngrams = info["config"]["num_ngrams"]
    assert arrays["0.weights.rnn.weight_ih_l0"].shape == (32, vocab_size + num_ngrams)
    assert arrays["0.mean_square.rnn.weight_ih_l0"].shape == (32, vocab_size)
    assert arrays["recent"].shape == (2, 8)
    assert len(arrays["2-grams"]) + len(arrays["3-grams"]) == num_ngrams > 0
    assert arrays["0.ngram_last_step"].shape == (num_ngrams,)
    assert arrays["0.ngram_mean_square"].shape[0] == num_ngrams
    assert len(arrays) == 2 * 6 + 6


def set_in(*path):
    """Return a change that sets info[path[0]][path[1]]... to a value."""

    def at(value):
        def change(arrays, info):
            place = info
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value

        return change

    return at


VALUES = [None, True, -1, 1.5, 2**70, float("nan"), float("inf"), "\x1b[31m" * 99, [], {}, [[]] * 9]
PLACES = {
    "config": VALUES,
    "options": VALUES,
    "requested": VALUES,
    "progress": VALUES,
    "rng": VALUES,
    "fingerprint": [None, 1, []],
    "encoding": [None, 1, []],
}


@pytest.mark.parametrize("name", PLACES)
def test_parts_of_the_wrong_type_are_refused(corpus_file, forged, name):
    for value in PLACES[name]:
        refused(corpus_file, forged(set_in(name)(value)), "damaged")
    refused(corpus_file, forged(lambda arrays, info: info.pop(name)), "damaged")
    refused(corpus_file, forged(set_in("more")(1)), "damaged")


NUMBERS = {
    ("config", "vocab_size"): VALUES,
    ("config", "hidden_size"): [*VALUES, 9, 65536],
    ("config", "num_layers"): [*VALUES, 2, 1000, 10**18],
    ("config", "embedding_size"): [*VALUES, 65536],
    ("config", "cell"): [*VALUES, "gru"],
    ("config", "ngrams"): [*VALUES, 0, 1, 2, 4, 5],
    ("config", "num_ngrams"): [*VALUES, 0, 1, 2**24],
    ("config", "record_end_id"): [v for v in VALUES if v != -1],
    ("config", "dropout"): [*(v for v in VALUES if v != 1.5), 1.0],
    ("options", "seq_length"): VALUES,
    ("options", "batch_size"): [*VALUES, 1, 10**18],
    ("options", "steps"): [*VALUES, 3],
    ("requested", "epochs"): [True, -1, 2.0, float("nan"), float("inf"), "1", []],
    ("requested", "hidden_size"): [True, -1, 0, float("nan"), "1", []],
    ("options", "optimizer"): [*VALUES, "adam"],
    ("options", "learning_rate"): [None, True, -1, float("nan"), float("inf"), "1", []],
    ("options", "val_fraction"): [*VALUES, 0.999999],
    ("progress", "step"): [*VALUES, 0, 10, 10**18],
    ("progress", "total_steps"): [*VALUES, 0, 10, 10**18],
    ("progress", "deadline"): [True, float("nan"), float("inf"), "1", []],
    ("progress", "replanned_step"): [*VALUES, 10**18],
    ("progress", "replanned_fraction"): [None, True, -1, 2, float("nan"), "1", []],
    ("progress", "recoveries"): [*VALUES, 10**18],
    ("progress", "chunk_offset"): VALUES,
    ("progress", "last_recovery_step"): [*VALUES, 10**18],
    ("progress", "loss_sum"): [None, True, float("nan"), float("inf"), "1", []],
    ("progress", "loss_count"): VALUES,
    ("progress", "first_loss"): [None, True, float("nan"), float("inf"), "1", []],
    ("progress", "best_val_loss"): [None, True, float("nan"), "1", []],
    ("progress", "val_loss"): [None, True, float("nan"), float("-inf"), "1", []],
    ("progress", "history"): [None, {}, [1], [[1]], [[1, 2]], [[0, 1.0, 1.0]], [[1, "x", 1.0]]],
    ("rng", "bit_generator"): [*VALUES, "MT19937"],
    ("rng", "state"): VALUES,
    ("rng", "has_uint32"): [None, "x", [], 2**70],
}  # fmt: skip


@pytest.mark.parametrize("place", NUMBERS, ids=".".join)
def test_values_of_the_wrong_type_or_size_are_refused(corpus_file, forged, place):
    for value in NUMBERS[place]:
        refused(corpus_file, forged(set_in(*place)(value)))


@pytest.mark.parametrize("part", ["config", "options", "requested", "progress", "rng"])
def test_a_part_with_a_value_missing_or_too_many_is_refused(corpus_file, forged, state_file, part):
    _, info = load_state(state_file)
    for name in info[part]:
        refused(corpus_file, forged(lambda a, i, name=name: i[part].pop(name)), "damaged")
    if part != "rng":
        refused(corpus_file, forged(set_in(part, "\x1b[31m")(1)), "damaged")


def forget_ngrams(arrays, info):
    """Make the state one of a model that knows no n-grams."""
    info["config"] |= {"ngrams": 1, "num_ngrams": 0}
    table = arrays["0.weights.rnn.weight_ih_l0"]
    arrays["0.weights.rnn.weight_ih_l0"] = table[:, : info["config"]["vocab_size"]]
    arrays["recent"] = arrays["recent"][:0]
    for name in "0.ngram_mean_square", "0.ngram_last_step":
        arrays[name] = arrays[name][:0]
    del arrays["2-grams"], arrays["3-grams"]


def test_a_state_with_a_smaller_vocabulary_than_the_text_is_refused(corpus_file, forged):
    """Ids beyond the arrays would read other memory."""

    def shrink(arrays, info):
        info["config"]["vocab_size"] = 3
        for name, array in arrays.items():
            if "output" in name:
                arrays[name] = array[:3]
            if "weight_ih_l0" in name:
                arrays[name] = array[:, :3]
        forget_ngrams(arrays, info)

    refused(corpus_file, forged(shrink), "does not fit its text")


@pytest.mark.parametrize(
    "change",
    [
        lambda array: None,
        lambda array: array.astype(np.float64),
        lambda array: array.astype(np.int64),
        lambda array: array[..., :-1],
        lambda array: array[None],
        lambda array: array.reshape(-1)[:0],
        lambda array: np.float32(1)[...],
    ],
)
def test_arrays_of_the_wrong_shape_or_type_are_refused(corpus_file, forged, state_file, change):
    for name in load_state(state_file)[0]:

        def put(arrays, info, name=name):
            array = change(arrays.pop(name))
            arrays |= {} if array is None else {name: array}

        refused(corpus_file, forged(put), "damaged")


@pytest.mark.parametrize(
    "name",
    [
        "more",
        "0.weights.more",
        "0.more.output.bias",
        "1.weights.output.bias",
        "",
        "hidden.",
        "0.",
        ".",
    ],
)
def test_an_additional_array_is_refused(corpus_file, forged, name):
    refused(corpus_file, forged(set_array(name)), "damaged")


def set_array(name):
    def change(arrays, info):
        arrays[name] = arrays["0.weights.output.bias"]

    return change


def test_a_state_with_another_number_of_members_is_refused(corpus_file, forged):
    refused(corpus_file, forged(set_in("options", "ensemble")(2)), "damaged")

    def double(arrays, info):
        info["options"]["ensemble"] = 2
        arrays["hidden"] = arrays["hidden"].repeat(2, -1)

    refused(corpus_file, forged(double), "not of as many models as it trains")


def test_a_state_without_arrays_is_refused(corpus_file, forged):
    refused(corpus_file, forged(lambda arrays, info: arrays.clear()), "damaged")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_arrays_with_values_that_are_not_finite_are_refused(corpus_file, forged, state_file, value):
    arrays, _ = load_state(state_file)
    for name in (name for name, array in arrays.items() if array.dtype == np.float32):

        def poison(arrays, info, name=name):
            arrays[name].reshape(-1)[-1] = value

        refused(corpus_file, forged(poison), "finite")


def test_a_hidden_state_of_another_batch_size_is_refused(corpus_file, forged):
    def widen(arrays, info):
        arrays["hidden"] = np.zeros((1, 2, 9, 8), np.float32)
        arrays["recent"] = np.zeros((2, 9), np.int32)

    refused(corpus_file, forged(widen), "does not fit its text")


def set_element(name, value, at=-1):
    """A change of one element of an array, in the order of its memory."""

    def change(arrays, info):
        arrays[name].reshape(-1)[at] = value

    return change


SQUARES = "0.ngram_mean_square"
NGRAM_CHANGES = {
    "recent above the vocabulary": set_element("recent", 99),
    "recent below -1": set_element("recent", -2),
    "an id above the vocabulary": set_element("2-grams", 99),
    "an id below 0": set_element("3-grams", -1),
    "last step in the future": set_element("0.ngram_last_step", 5),
    "last step below 0": set_element("0.ngram_last_step", -1),
    "unsorted": lambda a, i: a.update({"2-grams": a["2-grams"][::-1].copy()}),
    "a pair twice": lambda a, i: a["2-grams"].__setitem__(1, a["2-grams"][0]),
    "a triple twice": lambda a, i: a["3-grams"].__setitem__(1, a["3-grams"][0]),
    "exchanged": lambda a, i: a.update({"2-grams": a["3-grams"], "3-grams": a["2-grams"]}),
    "one fewer": lambda a, i: a.update({"3-grams": a["3-grams"][:-1]}),
    "one more": lambda a, i: i["config"].update(num_ngrams=i["config"]["num_ngrams"] + 1),
    "of 64 bits": lambda a, i: a.update({"2-grams": a["2-grams"].astype(np.int64)}),
    "an unknown beginning": lambda a, i: a.update(
        {"2-grams": a["2-grams"][1:], "3-grams": np.concatenate([a["2-grams"][:1].repeat(1, 0),
         a["2-grams"][:1, :1]], 1)}
    ),
    "a last step for each of two": lambda a, i: a.update(
        {"0.ngram_last_step": a["0.ngram_last_step"].repeat(2)}
    ),
    "squares of fewer": lambda a, i: a.update({SQUARES: a[SQUARES][1:]}),
    "narrower squares": lambda a, i: a.update({SQUARES: a[SQUARES][:, 1:]}),
}  # fmt: skip


@pytest.mark.parametrize("name", NGRAM_CHANGES)
def test_damaged_ngrams_are_refused(corpus_file, forged, name):
    refused(corpus_file, forged(NGRAM_CHANGES[name]), "damaged")


def test_a_state_without_ngrams_is_read(forged):
    """As a run with --ngrams 1 saves it."""
    state = read_state(forged(forget_ngrams).with_name("m.state.safetensors"))
    assert state.ngrams == () and state.recent.shape == (0, 8)


def test_the_arrays_of_another_optimizer_are_refused(corpus_file, forged):
    def rename(arrays, info):
        for name in [n for n in arrays if n.startswith("0.mean_square")]:
            arrays[name.replace("mean_square", "velocity")] = arrays.pop(name)

    refused(corpus_file, forged(rename), "does not fit its options")


def test_a_model_file_in_place_of_a_state_is_refused(corpus_file, state_file, tmp_path):
    model = state_file.with_name("m").read_bytes()
    (tmp_path / "m.state.safetensors").write_bytes(model)
    refused(corpus_file, tmp_path / "m", "a model, not the state of a run")


def test_a_truncated_state_is_refused(corpus_file, state_file, tmp_path):
    data = state_file.read_bytes()
    for length in 0, 1, 8, 100, len(data) // 2, len(data) - 1:
        (tmp_path / "m.state.safetensors").write_bytes(data[:length])
        refused(corpus_file, tmp_path / "m")


@pytest.mark.parametrize("best", [-1e9, 1e9, None])
def test_a_state_with_any_best_loss_resumes_and_writes_a_model(corpus_file, forged, best):
    def set_best(arrays, info):
        info["progress"]["best_val_loss"] = best
        if best is None:
            info["progress"]["val_loss"] = None

    output = forged(set_best)
    trained(corpus_file, output, resume=True)
    assert output.exists()


@pytest.mark.parametrize("version", [1, 2])
def test_a_state_of_an_earlier_format_version_is_refused(invoke, tmp_path, corpus_file, version):
    """The run has to be trained again: version 1 has other names, version 2 no n-grams."""
    golden = GOLDEN / f"format-{version}-state.safetensors"
    shutil.copy(golden, tmp_path / "m.state.safetensors")
    result = invoke("train", corpus_file, "--output", tmp_path / "m", "--resume")
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert "m.state.safetensors" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.state.safetensors"]


def as_version_3(path):
    """Write a state of one model as version 3 did: without members and later options."""
    arrays, info = load_state(path)
    del info["characters"], info["num_bytes"], info["ranks"]
    for added in ADDED_IN_4, ADDED_IN_5, ADDED_IN_6:
        for part, names in added.items():
            for name in names:
                del info[part][name]
    arrays = {name.removeprefix("0."): array for name, array in arrays.items()}
    write_atomically(path, serialize(STATE_KEY, 3, {"info": info}, arrays))


def as_version_5(path):
    arrays, info = load_state(path)
    del info["ranks"], info["options"]["local_steps"], info["requested"]["local_steps"]
    write_atomically(path, serialize(STATE_KEY, 5, {"info": info}, arrays))


@pytest.mark.parametrize("earlier", [as_version_3, as_version_5])
def test_a_run_of_an_earlier_version_goes_on_without_a_note(corpus_file, tmp_path, earlier):
    """Such a state does not tell the number of processes."""
    stopped_after(started(corpus_file, tmp_path / "m", steps=4), 2)
    earlier(tmp_path / "m.state.safetensors")
    run = trained(corpus_file, tmp_path / "m", resume=True)
    assert run.finished and "until now" not in " ".join(run.summary.notes)


@pytest.mark.parametrize("ngrams", [1, 3])
def test_a_run_of_version_3_is_resumed_exactly(corpus_file, tmp_path, ngrams):
    settings = {"steps": 60, "ngrams": ngrams, "recurrent_dropout": 0.2}
    trained(corpus_file, tmp_path / "a", **settings)
    stopped_after(started(corpus_file, tmp_path / "b", **settings), 25)
    as_version_3(tmp_path / "b.state.safetensors")
    run = trained(corpus_file, tmp_path / "b", resume=True)
    assert run.summary.resumed_step == 25
    expected, found = result_of(tmp_path / "a"), result_of(tmp_path / "b")
    assert found["model"] == expected["model"] and found["log"] == expected["log"]
    for name in "ab":
        as_version_3(tmp_path / f"{name}.state.safetensors")
    assert result_of(tmp_path / "a")["state"] == result_of(tmp_path / "b")["state"]
