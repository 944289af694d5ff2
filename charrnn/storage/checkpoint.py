"""Model files and state files, in safetensors format, written atomically and verified when read.

A file is a safetensors header and then its arrays. The header's metadata hold one JSON text, under
the key of the file's kind, and a SHA-256 of that text and all arrays. Every number in a file is
checked before it is used or anything is allocated by it.

The writer is our own because the safetensors package writes the metadata in random order
(https://github.com/huggingface/safetensors/issues/584), so equal runs would give different files.
The reader is our own because it must verify files from untrusted sources.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import os
import stat
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from ..config import CELL_SHAPES
from ..errors import CharRNNError, FilePath, display_path, error_reason, escape_unprintable
from ..text.ngrams import NgramTable, check_ngrams
from ..text.vocabulary import Vocabulary, vocabulary_of
from .atomic import write_atomically

# Model files of every version from 1 on can be read.
# Version 2 added the starts of texts, version 3 the n-grams, version 4 the special symbols of
# vocabularies, the id that ends a record, and models that read backwards. A file that does without
# the additions of version 4 is written as version 3.
MODEL_FORMAT_VERSION = 4
# State files of these versions can be read. Version 3 added the n-grams, version 4 records and the
# members of ensembles, version 5 the vocabulary of a run that starts from another model.
OLDEST_STATE_VERSION = 3
STATE_FORMAT_VERSION = 6
ADDED_IN_4 = {"record_end_id": -1, "backward": False}  # to the configuration
MODEL_KEY = "charrnn"
STATE_KEY = "charrnn-state"
KINDS = {MODEL_KEY: "a model", STATE_KEY: "the state of a run"}

# Limits of a header. The worst header within them takes less than a second and 200 MB to read. The
# largest vocabulary needs 15.1 MB, the state of a thousand layers 153,000 items.
MAX_HEADER_BYTES = 1 << 24
MAX_HEADER_ITEMS = 250_000
MAX_DEPTH = 16
MAX_DIMS = 8
MAX_VALUES = 1 << 40  # elements of one array

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
TensorShapes = Callable[[dict[str, Any]], dict[str, tuple[int, ...]]]


class StoredStart(NamedTuple):
    """Where texts start: `id` is read from one of K states.

    states: float32, (layers, states, K, units). recent: int32, (n - 1, K), the ids read before.

    It is not among the tensors, so that these are a `state_dict` of PyTorch and nothing else.
    """

    id: int
    states: Array
    recent: Array


class ModelFile(NamedTuple):
    """The verified content of a model file."""

    tensors: Arrays  # float32
    config: dict[str, Any]
    vocabulary: Vocabulary
    training: dict[str, Any]
    format_version: int
    start: StoredStart | None
    ngrams: NgramTable


class _TensorInfo(NamedTuple):
    """What the header says about one array."""

    begin: int  # byte offset into the body, which follows the header
    end: int
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def save_model(
    path: FilePath,
    tensors: Arrays,
    config: dict[str, Any],
    vocabulary: Vocabulary,
    training: dict[str, Any],
    start: StoredStart | None = None,
    ngrams: NgramTable = (),
) -> None:
    """Write a model file, its tensors as float32. Raises CharRNNError as write_atomically."""
    config = ADDED_IN_4 | config
    version = _version_of(config, vocabulary)
    if version < 4:
        del config["record_end_id"]
    if not config["backward"]:
        del config["backward"]
    content = {
        "config": config,
        "vocabulary": vocabulary.characters,
        "training": training,
        "start": start and _encode_start(start),
        "ngrams": [vocabulary.symbols(ids.reshape(-1)) for ids in ngrams],
    }
    if version > 3:
        content["separator"] = vocabulary.separator
    tensors = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    write_atomically(path, serialize(MODEL_KEY, version, content, tensors))


def _version_of(config: dict[str, Any], vocabulary: Vocabulary) -> int:
    """The oldest format version that can hold a model of this configuration and vocabulary."""
    special = vocabulary.unknown_id >= 0 or vocabulary.separator
    return 4 if special or ADDED_IN_4.items() - config.items() else 3


def load_model(path: FilePath, tensor_shapes: TensorShapes) -> ModelFile:
    """Read a model file. `tensor_shapes(config)` returns the tensors that it must hold.

    Raises CharRNNError unless the file is a complete, valid model of a known format version.
    """
    with _opened(path, "train a model with 'charrnn train CORPUS', or name its file") as file:
        content, tensors = _read(file, MODEL_KEY, _check_model_version)
        config, training = content.get("config"), content.get("training")
        if not (isinstance(config, dict) and isinstance(training, dict)):
            raise corrupt_file("it holds no configuration")
        version = content["format_version"]
        if version < 3:
            config |= {"ngrams": 1, "num_ngrams": 0}
        config = ADDED_IN_4 | config
        _check_tensors(tensors, config, tensor_shapes)
        separator = content.get("separator", "") if version > 3 else ""
        vocabulary = _checked_vocabulary(content.get("vocabulary", ""), separator, config)
        if version < 4 and _version_of(config, vocabulary) > 3:
            raise corrupt_file("it has parts of a later format version")
        ngrams = _checked_ngrams(content.get("ngrams"), config, vocabulary) if version > 2 else ()
        start = _checked_start(content.get("start"), config) if version > 1 else None
        return ModelFile(tensors, config, vocabulary, training, version, start, ngrams)


def save_state(path: FilePath, arrays: Arrays, info: dict[str, Any]) -> None:
    """Write a state file; `info` is a JSON object. Raises CharRNNError as write_atomically."""
    write_atomically(path, serialize(STATE_KEY, STATE_FORMAT_VERSION, {"info": info}, arrays))


def load_state(path: FilePath) -> tuple[Arrays, dict[str, Any]]:
    """Return (arrays, info) as they were given to save_state.

    Raises CharRNNError unless the file is a complete, valid state of a format version that can be
    read.
    """
    with _opened(path, "there is no run to resume") as file:
        content, arrays = _read(file, STATE_KEY, _check_state_version)
        info = content.get("info")
        if not isinstance(info, dict):
            raise corrupt_file("it does not describe a run")
        return arrays, info


def serialize(
    key: str, version: int, content: dict[str, Any], arrays: Arrays
) -> Iterator[bytes | memoryview]:
    """Yield the parts of a safetensors file, in the layout of the safetensors package."""
    text = json.dumps({"format_version": version, **content})
    header: dict[str, Any] = {"__metadata__": {key: text, "sha256": digest(text, arrays)}}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    end = 0
    for name in names:
        begin, end = end, end + arrays[name].nbytes
        header[name] = {**describe_array(arrays[name]), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    yield struct.pack("<Q", len(encoded)) + encoded
    yield from (np.ascontiguousarray(arrays[name]).data for name in names)


def digest(text: str, arrays: Arrays) -> str:
    """Return the SHA-256 of the JSON text and of each array's name, type, shape and bytes."""
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(arrays):
        description = {"name": name, **describe_array(arrays[name])}
        sha256.update(json.dumps(description).encode())
        sha256.update(np.ascontiguousarray(arrays[name]).reshape(-1).data)
    return sha256.hexdigest()


def describe_array(array: Array) -> dict[str, Any]:
    """Return an array's type and shape as a safetensors header has them."""
    return {"dtype": DTYPE_NAMES[array.dtype], "shape": list(array.shape)}


@contextlib.contextmanager
def _opened(path: FilePath, if_missing: str) -> Iterator[BinaryIO]:
    """Open a file, and make every error in reading and checking it name the file."""
    name = display_path(path)
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):  # it has no size to check numbers with
            raise OSError("it is a pipe, not a file")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise CharRNNError(f"no such file: {name}; {if_missing}.") from None
    except CharRNNError as error:
        raise CharRNNError(f"{name}: {error}") from None
    except (OSError, ValueError, MemoryError) as error:
        raise CharRNNError(f"cannot read {name}: {error_reason(error)}.") from error


def _read(
    file: BinaryIO, key: str, check_version: Callable[[Any], None]
) -> tuple[dict[str, Any], Arrays]:
    """Return (JSON content, arrays) of a file of the kind `key`, its checksum verified."""
    header, num_bytes = _read_header(file)
    metadata = header.pop("__metadata__", None)
    metadata = metadata if isinstance(metadata, dict) else {}
    text = metadata.get(key)
    if not isinstance(text, str):
        found = next((KINDS[k] for k in KINDS if k in metadata), "a file of another program")
        raise CharRNNError(f"this is {found}, not {KINDS[key]}.")
    content = parse_json(text)
    check_version(content.get("format_version"))
    arrays = {info.name: _read_array(file, info) for info in _tensor_infos(header, num_bytes)}
    if metadata.get("sha256") != digest(text, arrays):
        raise corrupt_file("its checksum is wrong")
    return content, arrays


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return (parsed header, number of bytes that follow it)."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise CharRNNError("the file is empty.")
    num_bytes = int.from_bytes(file.read(8), "little")
    if size < 10 or file.read(1) != b"{":
        raise CharRNNError("this is not a file of charrnn (it is not in safetensors format).")
    if num_bytes > size - 8:
        raise _truncated(size, 8 + num_bytes)
    if not 2 <= num_bytes <= MAX_HEADER_BYTES:
        raise corrupt_file(f"its header has {num_bytes:,} bytes")
    text = b"{" + file.read(num_bytes - 1)
    return parse_json(text.decode("utf-8", "replace")), size - 8 - num_bytes


def parse_json(text: str) -> dict[str, Any]:
    """Parse a JSON object of limited size and depth in which no key occurs twice."""
    if sum(map(text.count, "[{,")) > MAX_HEADER_ITEMS:
        raise corrupt_file("its header is too large")
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_int=_bounded_int)
    except (ValueError, RecursionError):
        raise corrupt_file("its header is not valid JSON") from None
    if not isinstance(value, dict) or _depth_exceeds(MAX_DEPTH, value):
        raise corrupt_file("its header is not a plain JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _bounded_int(digits: str) -> int:
    if len(digits) > 100:  # the time of int() grows with the square of the length
        raise ValueError("a number is too long")
    return int(digits)


def _depth_exceeds(limit: int, value: Any) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    values = value.values() if isinstance(value, dict) else value
    return limit == 0 or any(_depth_exceeds(limit - 1, v) for v in values)


def _check_model_version(version: Any) -> None:
    _check_version(version, MODEL_FORMAT_VERSION)


def _check_state_version(version: Any) -> None:
    _check_version(version, STATE_FORMAT_VERSION)
    if version < OLDEST_STATE_VERSION:
        raise CharRNNError(
            f"the run was saved by an earlier charrnn, in format version {version}, which this "
            "charrnn cannot resume: finish the run with that charrnn, or train anew with "
            "--overwrite or another -o."
        )


def _check_version(version: Any, newest: int) -> None:
    if type(version) is not int or version < 1:
        raise corrupt_file("it has no format version")
    if version > newest:
        raise CharRNNError(
            f"the file has format version {version}, and this charrnn knows {newest} only: "
            "upgrade charrnn."
        )


def _tensor_infos(header: dict[str, Any], num_bytes: int) -> list[_TensorInfo]:
    """Return the arrays in the order of the body, whose `num_bytes` they fill without a gap."""
    infos = sorted(_tensor_info(name, description) for name, description in header.items())
    end = 0
    for info in infos:
        if info.begin != end:
            raise corrupt_file("its arrays overlap or leave a gap")
        end = info.end
    if end > num_bytes:
        raise _truncated(num_bytes, end)
    if end < num_bytes:
        raise corrupt_file(f"{num_bytes - end:,} bytes follow its arrays")
    return infos


def _tensor_info(name: str, description: Any) -> _TensorInfo:
    try:
        dtype = DTYPES[description["dtype"]]
        shape = tuple(description["shape"])
        begin, end = description["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise corrupt_file(f"it does not describe the array {_quote_name(name)}") from None
    valid = all(type(n) is int and n >= 0 for n in (*shape, begin, end)) and len(shape) <= MAX_DIMS
    valid = valid and math.prod(max(n, 1) for n in shape) <= MAX_VALUES
    if not valid or end - begin != math.prod(shape) * dtype.itemsize:
        raise corrupt_file(f"the size of the array {_quote_name(name)} is wrong")
    return _TensorInfo(begin, end, name, dtype, shape)


def _read_array(file: BinaryIO, info: _TensorInfo) -> Array:
    count = math.prod(info.shape)
    values = np.fromfile(file, info.dtype, count)
    if len(values) < count:
        raise _truncated(len(values) * info.dtype.itemsize, info.end - info.begin)
    return values.reshape(info.shape)


def _check_tensors(tensors: Arrays, config: dict[str, Any], tensor_shapes: TensorShapes) -> None:
    """Raise CharRNNError unless `tensors` are as `config` requires, float32 and finite."""
    layers = config.get("num_layers")
    if isinstance(layers, int) and layers > len(tensors):  # tensor_shapes could take for ever
        raise corrupt_file(f"it has {len(tensors)} tensors for {layers} layers")
    try:
        expected = {name: tuple(shape) for name, shape in tensor_shapes(config).items()}
    except (CharRNNError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise corrupt_file(
            f"its configuration is impossible: {escape_unprintable(str(error)[:200].rstrip('.'))}"
        ) from None
    found = {name: tensor.shape for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            shapes = f"{found.get(name, 'missing')} instead of {expected.get(name, 'missing')}"
            raise corrupt_file(f"the tensor {_quote_name(name)} is {shapes}")
        if tensors[name].dtype != np.float32:
            raise corrupt_file(f"the tensor {_quote_name(name)} is not of float32")
        if not np.isfinite(tensors[name]).all():
            raise corrupt_file(f"the tensor {_quote_name(name)} holds values that are not finite")


def _checked_vocabulary(characters: Any, separator: Any, config: dict[str, Any]) -> Vocabulary:
    if not isinstance(characters, str | None) or not isinstance(separator, str):
        raise corrupt_file("its vocabulary is not a string")
    vocabulary = vocabulary_of(characters, separator)
    if len(vocabulary) != config.get("vocab_size"):
        raise corrupt_file(
            f"its vocabulary has {len(vocabulary)} characters, its configuration has another number"
        )
    if config["record_end_id"] == vocabulary.unknown_id >= 0:
        raise corrupt_file("its records end with the symbol of unknown characters")
    return vocabulary


def _checked_ngrams(value: Any, config: dict[str, Any], vocabulary: Vocabulary) -> NgramTable:
    """Read the n-grams of 2, 3, ... characters, one str each, for a `config` that is checked."""
    lengths = range(2, config["ngrams"] + 1)
    if not isinstance(value, list) or len(value) != len(lengths):
        raise corrupt_file("it does not have the n-grams of its configuration")
    for n, symbols in zip(lengths, value, strict=True):
        if not isinstance(symbols, str) or len(symbols) % n:
            raise corrupt_file("its n-grams are not strings of the right length")
    counts = (len(symbols) // n for n, symbols in zip(lengths, value, strict=True))
    if sum(counts) != config["num_ngrams"]:
        raise corrupt_file("it has other n-grams than its configuration")
    try:
        table = [vocabulary.look_up(symbols).astype(np.int32) for symbols in value]
    except UnicodeEncodeError:
        raise corrupt_file("its n-grams hold half a surrogate pair") from None
    table = [ids.reshape(-1, n) for n, ids in zip(lengths, table, strict=True)]
    return checked_ngrams(table, len(vocabulary), config["record_end_id"])


def checked_ngrams(arrays: list[Array], vocab_size: int, record_end_id: int) -> NgramTable:
    """The table of n-grams of a file. Raises CharRNNError unless it is a valid one."""
    table = tuple(arrays)
    try:
        check_ngrams(table, vocab_size, record_end_id)
    except ValueError as error:
        raise corrupt_file(str(error)) from None
    return table


def _encode_start(start: StoredStart) -> dict[str, Any]:
    states = np.ascontiguousarray(start.states, "<f4")
    return {
        "id": start.id,
        "states": base64.b64encode(states.tobytes()).decode(),
        "recent": start.recent.tolist(),
    }


def _checked_start(value: Any, config: dict[str, Any]) -> StoredStart | None:
    """Read what _encode_start wrote, for a `config` that has been checked."""
    if value is None:
        return None
    try:
        i, encoded = value["id"], base64.b64decode(value["states"], validate=True)
        shape = config["num_layers"], CELL_SHAPES[config["cell"]].states, -1, config["hidden_size"]
        states = np.frombuffer(encoded, "<f4").reshape(shape)
        recent = _checked_recent(value.get("recent", []), config, states.shape[2])
    except (KeyError, TypeError, ValueError):
        raise corrupt_file("it does not describe the starts of texts") from None
    if type(i) is not int or not 0 <= i < config["vocab_size"] or not states.size:
        raise corrupt_file("the starts of its texts do not fit its configuration")
    if not np.isfinite(states).all():
        raise corrupt_file("the starts of its texts hold values that are not finite")
    return StoredStart(i, states, recent)


def _checked_recent(value: Any, config: dict[str, Any], rows: int) -> Array:
    """Read the ids before the starts, (n - 1, rows). Raises ValueError unless they are valid."""
    valid = isinstance(value, list) and len(value) == config["ngrams"] - 1
    for ids in value if valid else ():
        valid = valid and isinstance(ids, list) and len(ids) == rows
        valid = valid and all(type(i) is int and -1 <= i < config["vocab_size"] for i in ids)
    if not valid:
        raise ValueError
    return np.array(value, np.int32).reshape(-1, rows)


def corrupt_file(how: str) -> CharRNNError:
    """Return the error for a file of charrnn's whose content charrnn cannot have written.

    `how` names the damage in a few words.
    """
    return CharRNNError(f"the file is damaged ({how}): restore it from a copy or train anew.")


def _truncated(found: int, needed: int) -> CharRNNError:
    return corrupt_file(f"truncated: {found:,} bytes of {needed:,}")


def _quote_name(name: str) -> str:
    return f"'{escape_unprintable(name[:80])}'"
