"""Model and state files: exact round trips; damaged, forged and foreign files are refused."""

import json
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from charrnn.config import ModelConfig
from charrnn.config import tensor_shapes as strict_shapes
from charrnn.errors import CharRNNError, display_path
from charrnn.storage import checkpoint
from charrnn.storage.atomic import write_atomically
from charrnn.storage.checkpoint import load_model, load_state, save_model, save_state
from charrnn.text.vocabulary import SEPARATOR, UNKNOWN, ByteVocabulary, CharVocabulary

SIZES = {"cell": "rnn", "vocab_size": 5, "hidden_size": 3, "num_layers": 1}
CONFIG = SIZES | {"ngrams": 1, "num_ngrams": 0, "record_end_id": -1, "backward": False}
VOCABULARY = CharVocabulary("\n\x00é🙂\x7f")
GOLDEN = Path(__file__).parents[1] / "golden"
TRAINING = {"names": ["\udcff.txt"], "val_loss": 1.25, "best": float("inf"), "steps": 10**30}


def tensor_shapes(config):
    vocab_size, hidden_size = config["vocab_size"], config["hidden_size"]
    if not type(vocab_size) is type(hidden_size) is int:
        raise TypeError("a size is not a whole number")
    shapes = {"output.weight": (vocab_size, hidden_size), "output.bias": (vocab_size,)}
    for k in range(config["num_layers"]):
        shapes[f"rnn.weight_hh_l{k}"] = (hidden_size, hidden_size)
    return shapes


def tensors_of(config=CONFIG, tensor_shapes=tensor_shapes):
    rng = np.random.default_rng(1)
    shapes = tensor_shapes(config).items()
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, tensors_of(), CONFIG, VOCABULARY, TRAINING)
    return path


def refused(path, match=None):
    """Return the message that refuses the model `path`: one short line that names it."""
    with pytest.raises(CharRNNError, match=match) as caught:
        load_model(path, tensor_shapes)
    message = str(caught.value)
    assert type(caught.value) is CharRNNError
    assert display_path(path) in message
    assert message.isprintable()
    assert len(message) < 600
    return message


def forged(path, header, body=b""):
    """Write a file with any header, a JSON value or bytes."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)
    return path


def resealed(path, *, content=None, tensors=None):
    """Write a model file whose checksum is right, but whose content charrnn would not write."""
    values = {"config": CONFIG, "vocabulary": VOCABULARY.characters, "training": {}}
    values.update(content or {})
    tensors = tensors_of() if tensors is None else tensors
    write_atomically(path, checkpoint.serialize("charrnn", 1, values, tensors))
    return path


def header_of(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


# --- Round trips


def test_a_model_is_read_as_it_was_written(model):
    loaded = load_model(model, tensor_shapes)
    assert loaded.config == CONFIG
    assert loaded.vocabulary == VOCABULARY
    assert loaded.training == TRAINING
    assert loaded.format_version == 3
    assert loaded.tensors.keys() == tensors_of().keys()
    for name, tensor in tensors_of().items():
        assert loaded.tensors[name].dtype == np.float32
        assert np.array_equal(loaded.tensors[name], tensor)
        loaded.tensors[name] += 1  # the caller may change them


def test_a_model_of_bytes_is_read_as_it_was_written(tmp_path):
    config = {**CONFIG, "vocab_size": 256}
    path = tmp_path / "m"
    save_model(path, tensors_of(config), config, ByteVocabulary(), {})
    assert load_model(path, tensor_shapes).vocabulary.is_bytes


def test_the_largest_vocabulary_is_read_as_it_was_written(tmp_path):
    everything = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    config = {**CONFIG, "vocab_size": len(everything), "hidden_size": 1}
    save_model(tmp_path / "m", tensors_of(config), config, CharVocabulary(everything), {})
    assert load_model(tmp_path / "m", tensor_shapes).vocabulary.characters == everything


def test_views_and_float64_tensors_are_written_as_float32(tmp_path):
    tensors = {name: np.asfortranarray(t.astype(float)) for name, t in tensors_of().items()}
    save_model(tmp_path / "m", tensors, CONFIG, VOCABULARY, {})
    loaded = load_model(tmp_path / "m", tensor_shapes)
    assert all(np.array_equal(loaded.tensors[name], t) for name, t in tensors_of().items())


def test_the_safetensors_package_reads_a_model(model):
    loaded = safetensors.numpy.load_file(model)
    assert loaded.keys() == tensors_of().keys()
    assert all(np.array_equal(loaded[name], t) for name, t in tensors_of().items())
    with safetensors.safe_open(model, "numpy") as file:
        content = json.loads(file.metadata()["charrnn"])
    assert content["format_version"] == 3
    assert content["vocabulary"] == VOCABULARY.characters


@pytest.mark.parametrize("dtypes", ["f", "dfe", "lqihb", "LIHB", "?fl"])
def test_files_have_the_layout_of_the_safetensors_package(tmp_path, dtypes):
    arrays = {f"{i}{d}": np.arange(i).astype(d) for d in set(dtypes) for i in (0, 3, 2)}
    save_state(tmp_path / "s", arrays, {})
    with safetensors.safe_open(tmp_path / "s", "numpy") as file:
        metadata = file.metadata()
    theirs = safetensors.numpy.save(arrays, metadata)
    ours = (tmp_path / "s").read_bytes()
    assert len(ours) == len(theirs)
    assert struct.unpack("<Q", ours[:8])[0] % 8 == 0
    (tmp_path / "theirs").write_bytes(theirs)
    # The order of the metadata, and of types of equal size, may differ; load_state reads both.
    loaded, _ = load_state(tmp_path / "theirs")
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert np.array_equal(loaded[name], array)


def test_equal_models_give_equal_files(tmp_path):
    names = [tmp_path / str(i) for i in range(8)]
    for name in names:
        save_model(name, tensors_of(), CONFIG, VOCABULARY, TRAINING)
    assert len({name.read_bytes() for name in names}) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**128), 2**128) | st.floats(allow_nan=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
any_array = np_st.arrays(
    st.sampled_from(list(checkpoint.DTYPES.values())), np_st.array_shapes(min_dims=0, min_side=0)
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(), any_array, max_size=4), json_values)
def test_any_state_is_read_as_it_was_written(tmp_path_factory, arrays, info):
    path = tmp_path_factory.getbasetemp() / "state"
    save_state(path, arrays, {"any": info})
    loaded, loaded_info = load_state(path)
    assert loaded_info == {"any": info}
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()


# --- Files that are refused


def test_a_missing_model_is_refused_with_advice_to_train_one(tmp_path):
    assert "charrnn train" in refused(tmp_path / "m")
    with pytest.raises(CharRNNError, match="no run to resume"):
        load_state(tmp_path / "s")


def test_folders_and_pipes_are_refused(tmp_path):
    assert "directory" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "pipe" in refused(tmp_path / "pipe")
    assert "null" in refused("a\0b")


def test_files_of_another_kind_are_refused(tmp_path, model):
    path = tmp_path / "m"
    path.write_bytes(b"")
    refused(path, "is empty")
    for other in (b"x", b"{", b"\x02" + bytes(7), b"Once upon a time\n" * 9, b"PK\x03\x04" * 99):
        path.write_bytes(other)
        refused(path, "not a file of charrnn")
    path.write_bytes(safetensors.numpy.save(tensors_of()))
    refused(path, "a file of another program, not a model")
    path.write_bytes(safetensors.numpy.save(tensors_of(), {"format": "pt"}))
    refused(path, "a file of another program, not a model")
    save_state(path, {}, {})
    refused(path, "the state of a run, not a model")
    with pytest.raises(CharRNNError, match="a model, not the state of a run"):
        load_state(model)


def test_any_file_name_is_shown_printable(tmp_path):
    for name in (b"new\nline", b"quote'\"", b"\xff\xfe", b"\x1b[31m", "é🙂".encode()):
        path = os.fsencode(tmp_path) + b"/" + name
        refused(path)
        save_model(path, tensors_of(), CONFIG, VOCABULARY, {})
        load_model(path, tensor_shapes)
        Path(os.fsdecode(path)).write_bytes(b"")
        refused(path, "is empty")


def test_every_truncation_is_refused(model):
    data = model.read_bytes()
    for length in (*range(64), *range(64, len(data), 5), len(data) - 1):
        model.write_bytes(data[:length])
        message = refused(model)
        assert length < 10 or "truncated" in message
    model.write_bytes(data + b"\0")
    refused(model, "1 bytes follow")


def test_every_flipped_bit_is_refused(tmp_path, model):
    files = [model, tmp_path / "state"]
    save_state(files[1], {"a": np.arange(40), "b": np.zeros((3, 0), bool)}, {"step": [1, "é"]})
    choose = random.Random(1)
    for path, load in zip(files, (lambda p: load_model(p, tensor_shapes), load_state), strict=True):
        data = path.read_bytes()
        bits = {*range(8 * 72), *choose.sample(range(8 * len(data)), 500)}
        for bit in bits:
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(CharRNNError):
                load(path)


def test_a_wrong_header_length_is_refused(tmp_path, model):
    data = model.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    for wrong in (
        0,
        1,
        2,
        length - 1,
        length + 1,
        len(data) - 8,
        len(data),
        2**31,
        2**63,
        2**64 - 1,
    ):
        model.write_bytes(struct.pack("<Q", wrong) + data[8:])
        refused(model, "damaged")


def test_a_header_of_half_a_terabyte_is_refused(tmp_path):
    path = tmp_path / "m"
    with open(path, "wb") as file:  # a sparse file, which takes no disk space
        file.write(struct.pack("<Q", 1 << 39) + b"{")
        file.truncate(1 << 40)
    refused(path, "header has")


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(b'{"a":' + b"[" * 500_000, id="depth"),
        pytest.param(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}", id="depth within Python's limit"),
        pytest.param(b'{"a":[' + b"{}," * 5_000_000 + b"{}]}", id="items"),
        pytest.param(b'{"a":' + b"9" * 20_000_000 + b"}", id="integer"),
        pytest.param(b'{"a":' + b"9" * 20_000_000 + b".5e5}", id="float"),
        pytest.param(b'{"a":1e99999999999999999999}', id="infinity"),
        pytest.param(b"{" + b" " * 20_000_000, id="spaces"),
        pytest.param(b'{"a":1,"a":1}', id="key twice"),
        pytest.param(b'{"\xff":1}', id="not UTF-8"),
        pytest.param(b"{}{}", id="two values"),
    ],
)
def test_json_bombs_are_refused(tmp_path, bomb):
    refused(forged(tmp_path / "m", bomb))
    metadata = {"charrnn": bomb.decode("latin-1"), "sha256": ""}
    refused(forged(tmp_path / "m", {"__metadata__": metadata}))


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        "F32",
        {},
        {"dtype": "F32", "shape": [1]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": {"0": 0, "4": 4}},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4.0]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [2**64], "data_offsets": [0, 2**66]},
        {"dtype": "F32", "shape": [0, 2**80], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [0, *[2**20] * 6], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [10**99] * 100_000, "data_offsets": [0, 4]},
        {"dtype": "O", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
    ],
)
def test_wrong_array_descriptions_are_refused(tmp_path, entry):
    metadata = {"charrnn": '{"format_version":1}', "charrnn-state": '{"format_version":4}'}
    for num_bytes in (0, 4):
        path = forged(tmp_path / "m", {"__metadata__": metadata, "a": entry}, bytes(num_bytes))
        refused(path, "damaged")
        with pytest.raises(CharRNNError, match="damaged"):
            load_state(path)


def test_an_array_that_occurs_twice_is_refused(model):
    data = model.read_bytes()
    header, body = header_of(model)
    entry = b',"output.bias":' + json.dumps(header["output.bias"]).encode()
    end = data.rindex(b"}}", 0, len(data) - len(body)) + 1
    load_model(forged(model, data[8:end] + b"}", body), tensor_shapes)
    refused(forged(model, data[8:end] + entry + b"}", body), "not valid JSON")


def test_arrays_that_overlap_or_leave_a_gap_are_refused(model):
    header, body = header_of(model)
    offsets = header["output.bias"]["data_offsets"]
    header["output.weight"]["data_offsets"] = [
        o - 4 for o in header["output.weight"]["data_offsets"]
    ]
    refused(forged(model, header, body), "overlap")
    assert offsets == [0, 20]
    header["output.bias"]["data_offsets"] = [4, 24]
    refused(forged(model, header, body), "overlap or leave a gap")


def test_metadata_of_the_wrong_kind_are_refused(model):
    header, body = header_of(model)
    for metadata in (None, [], "charrnn", {"charrnn": 1}, {"charrnn": None}):
        refused(forged(model, {**header, "__metadata__": metadata}, body), "not a model")
    for text in ("", "null", "[]", '"x"', "{", "{}", '{"format_version":true}'):
        metadata = {"charrnn": text, "sha256": "0" * 64}
        refused(forged(model, {**header, "__metadata__": metadata}, body), "damaged")
    without = {"charrnn": header["__metadata__"]["charrnn"]}
    refused(forged(model, {**header, "__metadata__": without}, body), "checksum")


def test_exchanged_arrays_are_refused(model):
    header, body = header_of(model)
    names = ["output.bias", "output.weight"]
    header[names[0]], header[names[1]] = header[names[1]], header[names[0]]
    refused(forged(model, header, body), "checksum")


def test_a_model_of_a_newer_format_asks_for_an_upgrade(tmp_path):
    path = resealed(tmp_path / "m", content={"format_version": 5, "config": "unheard of"})
    refused(path, "format version 5, and this charrnn knows 4 only: upgrade")


def test_a_state_of_a_newer_format_asks_for_an_upgrade(tmp_path, monkeypatch):
    newer = checkpoint.STATE_FORMAT_VERSION + 1
    monkeypatch.setattr(checkpoint, "STATE_FORMAT_VERSION", newer)
    save_state(tmp_path / "s", {}, {})
    monkeypatch.undo()
    with pytest.raises(CharRNNError, match=f"format version {newer}, .* knows {newer - 1} only"):
        load_state(tmp_path / "s")


@pytest.mark.parametrize("version", [1, 2])
def test_a_state_of_an_earlier_format_is_refused_with_advice(version):
    path = GOLDEN / f"format-{version}-state.safetensors"
    with pytest.raises(CharRNNError) as caught:
        load_state(path)
    message = str(caught.value)
    expected = f"{path}: the run was saved by an earlier charrnn, in format version {version}"
    assert message.startswith(expected)
    for advice in "finish the run with that charrnn", "train anew with --overwrite", "another -o":
        assert advice in message
    assert message.isprintable() and message.count(". ") == 0


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "2", None])
def test_a_state_without_a_format_version_is_damaged(tmp_path, version):
    content = {"format_version": version, "info": {}}
    write_atomically(tmp_path / "s", checkpoint.serialize("charrnn-state", 2, content, {}))
    with pytest.raises(CharRNNError, match="it has no format version"):
        load_state(tmp_path / "s")


def test_models_and_states_have_versions_of_their_own(tmp_path, model):
    save_state(tmp_path / "s", {}, {})
    for path, key, version in (model, "charrnn", 3), (tmp_path / "s", "charrnn-state", 6):
        content = json.loads(header_of(path)[0]["__metadata__"][key])
        assert content["format_version"] == version


@pytest.mark.parametrize("cell, states", [("rnn", 1), ("lstm", 2)])
def test_starts_of_texts_are_read_as_written(tmp_path, cell, states):
    config = CONFIG | {"cell": cell, "num_layers": 2}
    rng = np.random.default_rng(1)
    for ngrams, table in (1, ()), (3, NGRAMS):
        config |= {"ngrams": ngrams, "num_ngrams": sum(map(len, table))}
        recent = rng.integers(-1, 5, (ngrams - 1, 7), np.int32)
        start = checkpoint.StoredStart(4, rng.normal(size=(2, states, 7, 3)), recent)
        save_model(tmp_path / "m", tensors_of(config), config, VOCABULARY, {}, start, table)
        found = load_model(tmp_path / "m", tensor_shapes).start
        assert found.id == 4 and found.states.dtype == np.float32
        np.testing.assert_array_equal(found.states, start.states.astype(np.float32))
        assert found.recent.dtype == np.int32
        np.testing.assert_array_equal(found.recent, recent)


def ngrams_of(*tables):
    return tuple(np.array(ngrams, np.int32).reshape(-1, n) for n, ngrams in enumerate(tables, 2))


NGRAMS = ngrams_of([(0, 3), (3, 3), (3, 4)], [(0, 3, 4), (3, 3, 0)])
WITH_NGRAMS = CONFIG | {"ngrams": 3, "num_ngrams": 5}


def test_ngrams_are_read_as_written(tmp_path):
    """As strings of their characters, also those that JSON escapes."""
    start = checkpoint.StoredStart(1, np.zeros((1, 1, 2, 3)), np.array([[-1, 4], [2, 0]], np.int32))
    save_model(tmp_path / "m", tensors_of(WITH_NGRAMS), WITH_NGRAMS, VOCABULARY, {}, start, NGRAMS)
    found = load_model(tmp_path / "m", tensor_shapes)
    assert found.config == WITH_NGRAMS and len(found.ngrams) == 2
    for ngrams, expected in zip(found.ngrams, NGRAMS, strict=True):
        assert ngrams.dtype == np.int32
        np.testing.assert_array_equal(ngrams, expected)
    content = json.loads(header_of(tmp_path / "m")[0]["__metadata__"]["charrnn"])
    assert content["ngrams"] == ["\n🙂🙂🙂🙂\x7f", "\n🙂\x7f🙂🙂\n"]


def test_ngrams_of_bytes_are_read_as_written(tmp_path):
    config = CONFIG | {"vocab_size": 256, "ngrams": 2, "num_ngrams": 3}
    table = ngrams_of([(0, 255), (10, 10), (195, 164)])
    save_model(tmp_path / "m", tensors_of(config), config, ByteVocabulary(), {}, None, table)
    found = load_model(tmp_path / "m", tensor_shapes).ngrams
    np.testing.assert_array_equal(found[0], table[0])


@pytest.mark.parametrize("version", [1, 2])
def test_a_model_of_an_earlier_version_has_no_ngrams(tmp_path, version):
    content = {"format_version": version, "config": SIZES, "ngrams": ["ab"]}
    found = load_model(resealed(tmp_path / "m", content=content), tensor_shapes)
    assert found.ngrams == () and found.config == CONFIG


# The characters of VOCABULARY by number: \n, \x00, é, 🙂, \x7f.
PAIRS, TRIPLES = "\n🙂🙂🙂🙂\x7f", "\n🙂\x7f🙂🙂\n"
DAMAGED_NGRAMS = {
    "missing": None,
    "no list": PAIRS + TRIPLES,
    "a length missing": [PAIRS],
    "a length too many": [PAIRS, TRIPLES, ""],
    "no strings": [[0, 3], TRIPLES],
    "numbers": [5, TRIPLES],
    "a character too many": [PAIRS + "\n", TRIPLES],
    "a character too few": [PAIRS, TRIPLES[:-1]],
    "too few": [PAIRS, TRIPLES[:3]],
    "too many": [PAIRS, TRIPLES + "🙂🙂é"],
    "none": ["", ""],
    "an unknown character": ["\n🙂🙂🙂🙂x", TRIPLES],
    "unknown and wide": ["\n🙂🙂🙂🙂\U0010ffff", TRIPLES],
    "half a surrogate pair": ["\n🙂🙂🙂🙂\ud83d", TRIPLES],
    "the other half": [PAIRS, "\n🙂\x7f🙂🙂\ude42"],
    "unsorted": ["🙂🙂\n🙂🙂\x7f", TRIPLES],
    "unsorted triples": [PAIRS, "🙂🙂\n\n🙂\x7f"],
    "twice": ["\n🙂🙂🙂🙂🙂", TRIPLES],
    "a triple twice": [PAIRS, "\n🙂\x7f\n🙂\x7f"],
    "an unknown beginning": [PAIRS, "\n\n🙂\n🙂\x7f"],
    "exchanged": [TRIPLES, PAIRS],
}


@pytest.mark.parametrize("name", DAMAGED_NGRAMS)
def test_damaged_ngrams_are_refused(tmp_path, name):
    content = {"format_version": 3, "config": WITH_NGRAMS, "ngrams": DAMAGED_NGRAMS[name]}
    if name == "missing":
        del content["ngrams"]
    path = resealed(tmp_path / "m", content=content, tensors=tensors_of(WITH_NGRAMS))
    assert "n-grams" in refused(path, "damaged")
    load_model(
        resealed(path, content=content | {"ngrams": [PAIRS, TRIPLES]}), tensor_shapes
    )  # valid but for this


def test_a_model_of_records_is_read_as_it_was_written(tmp_path):
    for end in 0, 4:
        config = CONFIG | {"record_end_id": end}
        save_model(tmp_path / "m", tensors_of(), config, VOCABULARY, {})
        loaded = load_model(tmp_path / "m", tensor_shapes)
        assert loaded.config == config and loaded.format_version == 4


def test_a_model_without_records_is_written_as_before(model):
    """So that a charrnn that knows no records reads it."""
    content = json.loads(header_of(model)[0]["__metadata__"]["charrnn"])
    assert content["format_version"] == 3 and "record_end_id" not in content["config"]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_records_in_a_file_of_an_earlier_format_are_refused(tmp_path, version):
    content = {"format_version": version, "config": CONFIG | {"record_end_id": 0}, "ngrams": []}
    refused(resealed(tmp_path / "m", content=content), "damaged")
    content["format_version"] = 4
    load_model(resealed(tmp_path / "m", content=content), tensor_shapes)


@pytest.mark.parametrize("value", [-2, 5, 2**40, True, 1.0, None, "0", [], {}])
def test_impossible_ends_of_records_are_refused(tmp_path, value):
    config = vars(ModelConfig(5, "rnn", 3, 1))
    content = {"format_version": 4, "config": config | {"record_end_id": value}, "ngrams": []}
    tensors = tensors_of(config, strict_shapes)
    path = resealed(tmp_path / "m", content=content, tensors=tensors)
    with pytest.raises(CharRNNError, match="damaged.*record end id"):
        load_model(path, strict_shapes)
    content["config"]["record_end_id"] = 4
    load_model(resealed(path, content=content, tensors=tensors), strict_shapes)


def test_ngrams_over_the_end_of_a_record_are_refused(tmp_path):
    """Some of PAIRS and TRIPLES have 🙂, \\x7f or \\n after the first character."""
    content = {"format_version": 4, "ngrams": [PAIRS, TRIPLES]}
    for end, is_valid in (0, False), (1, True), (2, True), (3, False), (4, False):
        content["config"] = WITH_NGRAMS | {"record_end_id": end}
        path = resealed(tmp_path / "m", content=content, tensors=tensors_of(WITH_NGRAMS))
        if is_valid:
            load_model(path, tensor_shapes)
        else:
            refused(path, "damaged.*over the end of a record")


@pytest.mark.parametrize(
    "recent",
    [
        None, [], [[0, 0]], [[0, 0]] * 3, [[0], [0]], [[0, 0], [0]], [[0, 0], [0, 0, 0]], "abcd",
        [[0, 5], [0, 0]], [[-2, 0], [0, 0]], [[True, 0], [0, 0]], [[0, 1.0], [0, 0]],
        [[None, 0], [0, 0]], [["0", 0], [0, 0]], [[2**40, 0], [0, 0]], {"0": [0, 0]}, 7,
        [[[0], 0], [0, 0]],
    ],
    ids=str,
)  # fmt: skip
def test_impossible_ids_before_the_starts_are_refused(tmp_path, recent):
    start = {"id": 0, "states": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "recent": recent}
    content = {"format_version": 3, "config": WITH_NGRAMS, "ngrams": [PAIRS, TRIPLES]}
    refused(resealed(tmp_path / "m", content=content | {"start": start}), "damaged")
    del start["recent"]
    refused(resealed(tmp_path / "m", content=content | {"start": start}), "damaged")
    start["recent"] = [[-1, 4], [0, 2]]
    load_model(resealed(tmp_path / "m", content=content | {"start": start}), tensor_shapes)


def test_a_model_of_version_1_has_no_starts(tmp_path):
    start = {"id": 0, "states": "AAAAAAAAAAAAAAAA"}
    for version, expected in (1, None), (2, np.zeros((1, 1, 1, 3))):
        path = resealed(tmp_path / "m", content={"format_version": version, "start": start})
        found = load_model(path, tensor_shapes).start
        assert expected is None if found is None else np.array_equal(found.states, expected)


@pytest.mark.parametrize(
    "start",
    [
        {},
        [],
        "AAAA",
        7,
        False,
        {"id": 0},
        {"states": "AAAAAAAAAAAAAAAA"},
        {"id": 0, "states": ""},
        {"id": 0, "states": None},
        {"id": 0, "states": "AAAAAAAAAAAAAAA"},  # not base64
        {"id": 0, "states": "AAAAAAAAAAAAAAA\u00e9"},
        {"id": 0, "states": "AAAA AAAAAAAAAAAA"},
        {"id": 0, "states": "AAAAAAAAAAA="},  # two values for three units
        {"id": 0, "states": "AADAfwAAwH8AAMB/"},  # NaN
        {"id": 0, "states": "AACAfwAAgH8AAIB/"},  # infinity
        {"id": 5, "states": "AAAAAAAAAAAAAAAA"},
        {"id": -1, "states": "AAAAAAAAAAAAAAAA"},
        {"id": True, "states": "AAAAAAAAAAAAAAAA"},
        {"id": 1.0, "states": "AAAAAAAAAAAAAAAA"},
        {"id": None, "states": "AAAAAAAAAAAAAAAA"},
    ],
    ids=str,
)
def test_impossible_starts_of_texts_are_refused(tmp_path, start):
    refused(resealed(tmp_path / "m", content={"format_version": 2, "start": start}), "damaged")


def test_models_of_every_version_up_to_the_current_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MODEL_FORMAT_VERSION", 5)
    for version in 1, 2, 3, 4, 5:
        path = resealed(tmp_path / "m", content={"format_version": version, "ngrams": []})
        assert load_model(path, tensor_shapes).format_version == version


SPECIAL = CharVocabulary(f"\n{SEPARATOR}é🙂{UNKNOWN}", "%%\n")


def test_special_symbols_make_a_newer_file_that_older_readers_refuse(tmp_path, monkeypatch, model):
    path = tmp_path / "special.safetensors"
    ngrams = (np.array([[1, 4], [4, 1]], np.int32),)
    config = CONFIG | {"ngrams": 2, "num_ngrams": 2}
    save_model(path, tensors_of(), config, SPECIAL, TRAINING, None, ngrams)
    file = load_model(path, tensor_shapes)
    assert file.vocabulary == SPECIAL
    assert file.vocabulary.unknown_id == 4
    assert file.vocabulary.decode([0, 1, 4]) == "\n%%\n\ufffd"
    assert file.ngrams[0].tolist() == [[1, 4], [4, 1]]
    assert (file.format_version, load_model(model, tensor_shapes).format_version) == (4, 3)
    assert "separator" not in json.loads(header_of(model)[0]["__metadata__"]["charrnn"])
    monkeypatch.setattr(checkpoint, "MODEL_FORMAT_VERSION", 3)
    refused(path, "format version 4, and this charrnn knows 3 only: upgrade charrnn")


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 3},
        {"separator": ""},
        {"separator": None},
        {"separator": ["%%"]},
        {"separator": "%"},
        {"separator": "%" * 1001},
        {"separator": "%\ud800"},
        {"separator": UNKNOWN * 2},
        {"vocabulary": "\nabé🙂"},
        {"vocabulary": f"\n{SEPARATOR}\udffdé🙂"},
        {"vocabulary": f"\n{SEPARATOR}{SEPARATOR}é🙂"},
        {"vocabulary": None},
        {"config": CONFIG | {"record_end_id": 4}},
    ],
    ids=ascii,
)
def test_impossible_special_symbols_are_refused(tmp_path, change):
    sound = {
        "format_version": 4,
        "vocabulary": SPECIAL.characters,
        "separator": "%%\n",
        "ngrams": [],
    }
    assert load_model(resealed(tmp_path / "m", content=sound), tensor_shapes).vocabulary == SPECIAL
    refused(resealed(tmp_path / "m", content=sound | change))


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 6},
        {"vocab_size": 5.0},
        {"hidden_size": 2**62},
        {"hidden_size": -3},
        {"hidden_size": None},
        {"num_layers": 0},
        {"num_layers": 2},
        {"num_layers": 10**18},
        {"num_layers": "1"},
        {"num_layers": [[]]},
        {"num_layers": float("inf")},
    ],
)
def test_impossible_configurations_are_refused(tmp_path, change):
    refused(resealed(tmp_path / "m", content={"config": {**CONFIG, **change}}), "damaged")


def test_an_error_in_the_configuration_names_the_file(tmp_path):
    def refusing(config):
        raise CharRNNError("no such cell\n" + "x" * 10_000)

    with pytest.raises(CharRNNError, match="configuration is impossible: no such cell") as caught:
        load_model(resealed(tmp_path / "m"), refusing)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        {"config": None},
        {"config": []},
        {"config": {}},
        {"training": None},
        {"training": [1]},
        {"training": {"deep": json.loads("[" * 20 + "]" * 20)}},
        {"format_version": 0},
        {"format_version": 1.0},
        {"format_version": 10**200},
    ],
)
def test_content_of_the_wrong_kind_is_refused(tmp_path, content):
    refused(resealed(tmp_path / "m", content=content), "damaged")


@pytest.mark.parametrize(
    "vocabulary",
    ["", "abcd", "abcdef", "abcda", "abcd\ud800", None, 5, ["a", "b", "c", "d", "e"], "ab" * 10**6],
)
def test_impossible_vocabularies_are_refused(tmp_path, vocabulary):
    refused(resealed(tmp_path / "m", content={"vocabulary": vocabulary}), "vocabulary")


def test_tensors_that_the_configuration_does_not_require_are_refused(tmp_path):
    path, tensors = tmp_path / "m", tensors_of()
    refused(resealed(path, tensors={**tensors, "x\x1b" * 999: tensors["output.bias"]}), r"'x\\x1b")
    missing = {name: t for name, t in tensors.items() if name != "output.bias"}
    refused(resealed(path, tensors=missing), "'output.bias' is missing")
    refused(resealed(path, tensors={}), "0 tensors for 1 layers")
    weight = tensors["output.weight"]
    refused(resealed(path, tensors={**tensors, "output.weight": weight.T}), r"\(3, 5\) instead of")
    for dtype in (np.float64, np.float16, np.int32):
        changed = {**tensors, "output.weight": weight.astype(dtype)}
        refused(resealed(path, tensors=changed), "'output.weight' is not of float32")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    tensors = tensors_of()
    tensors["output.weight"][4, 2] = value
    refused(resealed(tmp_path / "m", tensors=tensors), "'output.weight' .* not finite")


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.booleans())
def test_noise_is_refused(tmp_path_factory, noise, with_length):
    path = tmp_path_factory.getbasetemp() / "noise"
    prefix = struct.pack("<Q", len(noise)) if with_length else b""
    path.write_bytes(prefix + noise)
    refused(path)
