"""Models and states as safetensors files: written whole, checked in every bit when read.

A file holds, after the safetensors header, its arrays; the header's metadata hold one JSON text
under MODEL_KEY or STATE_KEY, and a SHA-256 of that text and of all arrays. No number in a file is
believed, and nothing is allocated by it, before it has been checked.
"""

from __future__ import annotations

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

from ..errors import CharRNNError, FilePath, display_path, error_reason, escape_unprintable
from ..text.vocabulary import Vocabulary
from .atomic import write_atomically

FORMAT_VERSION = 1
MODEL_KEY = "charrnn"
STATE_KEY = "charrnn-state"
KINDS = {MODEL_KEY: "a model", STATE_KEY: "the state of a run"}

# Bounds on a header, so that the worst takes less than a second and 200 MB: the largest vocabulary
# needs 15.1 MB, the state of a thousand layers 153,000 items.
MAX_HEADER_BYTES = 1 << 24
MAX_HEADER_ITEMS = 250_000
MAX_DEPTH = 16
MAX_DIMS = 8
MAX_VALUES = 1 << 40  # in one array

DTYPES = {
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

Arrays = dict[str, np.ndarray]
TensorShapes = Callable[[dict[str, Any]], dict[str, tuple[int, ...]]]


class ModelFile(NamedTuple):
    tensors: Arrays  # float32
    config: dict[str, Any]
    vocabulary: Vocabulary
    training: dict[str, Any]
    format_version: int


class _Entry(NamedTuple):
    begin: int  # byte offsets into the body, which follows the header
    end: int
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


def save_model(
    path: FilePath,
    tensors: Arrays,
    config: dict[str, Any],
    vocabulary: Vocabulary,
    training: dict[str, Any],
) -> None:
    """Write a model file; the tensors become float32. Raises CharRNNError as write_atomically."""
    content = {"config": config, "vocabulary": vocabulary.characters, "training": training}
    tensors = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    write_atomically(path, _serialized(MODEL_KEY, content, tensors))


def load_model(path: FilePath, tensor_shapes: TensorShapes) -> ModelFile:
    """Read a model file; `tensor_shapes(config)` says which tensors it must hold.

    Raises CharRNNError for anything but a whole and sound model of a known format version.
    """
    with _opened(path, "train a model with 'charrnn train CORPUS', or name its file") as file:
        content, tensors = _read(file, MODEL_KEY)
        config, training = content.get("config"), content.get("training")
        if not (isinstance(config, dict) and isinstance(training, dict)):
            raise corrupt_file("it holds no configuration")
        _check_tensors(tensors, config, tensor_shapes)
        vocabulary = _vocabulary(content.get("vocabulary", ""), config)
        return ModelFile(tensors, config, vocabulary, training, content["format_version"])


def save_state(path: FilePath, arrays: Arrays, info: dict[str, Any]) -> None:
    """Write what training needs to go on; `info` is JSON. Raises as write_atomically."""
    write_atomically(path, _serialized(STATE_KEY, {"info": info}, arrays))


def load_state(path: FilePath) -> tuple[Arrays, dict[str, Any]]:
    """(arrays, info) as save_state was given them. Raises CharRNNError for anything else."""
    with _opened(path, "there is no run to resume") as file:
        content, arrays = _read(file, STATE_KEY)
        info = content.get("info")
        if not isinstance(info, dict):
            raise corrupt_file("it tells nothing of a run")
        return arrays, info


def _serialized(key: str, content: dict[str, Any], arrays: Arrays) -> Iterator[bytes | np.ndarray]:
    """The parts of a safetensors file, in the layout of safetensors' own serializer.

    That one writes the metadata in random order: the same run would not give the same file.
    """
    text = json.dumps({"format_version": FORMAT_VERSION, **content})
    header = {"__metadata__": {key: text, "sha256": _digest(text, arrays)}}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    end = 0
    for name in names:
        begin, end = end, end + arrays[name].nbytes
        header[name] = {**_description(arrays[name]), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    yield struct.pack("<Q", len(encoded)) + encoded
    yield from (np.ascontiguousarray(arrays[name]) for name in names)


def _digest(text: str, arrays: Arrays) -> str:
    """SHA-256 of the JSON text and of name, type, shape and bytes of each array, by name."""
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(arrays):
        description = {"name": name, **_description(arrays[name])}
        sha256.update(json.dumps(description).encode())
        sha256.update(np.ascontiguousarray(arrays[name]).reshape(-1))
    return sha256.hexdigest()


def _description(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": DTYPE_NAMES[array.dtype], "shape": list(array.shape)}


@contextlib.contextmanager
def _opened(path: FilePath, if_missing: str) -> Iterator[BinaryIO]:
    """The file, open; any error met while it is read and checked becomes one that names it."""
    name = display_path(path)
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):  # has no size to check numbers against
            raise OSError("it is a pipe, not a file")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise CharRNNError(f"no such file: {name}; {if_missing}.") from None
    except CharRNNError as error:
        raise CharRNNError(f"{name}: {error}") from None
    except (OSError, ValueError, MemoryError) as error:
        raise CharRNNError(f"cannot read {name}: {error_reason(error)}.") from error


def _read(file: BinaryIO, key: str) -> tuple[dict[str, Any], Arrays]:
    """(JSON content, arrays) of a file of the kind `key`, checksum and all."""
    header, num_bytes = _header(file)
    metadata = header.pop("__metadata__", None)
    metadata = metadata if isinstance(metadata, dict) else {}
    text = metadata.get(key)
    if not isinstance(text, str):
        found = next((KINDS[k] for k in KINDS if k in metadata), "a file of another program")
        raise CharRNNError(f"this is {found}, not {KINDS[key]}.")
    content = _parsed(text)
    _check_version(content.get("format_version"))
    arrays = {entry.name: _array(file, entry) for entry in _entries(header, num_bytes)}
    if metadata.get("sha256") != _digest(text, arrays):
        raise corrupt_file("its checksum is wrong")
    return content, arrays


def _header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """(parsed header, number of bytes that follow it)."""
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
    return _parsed(text.decode("utf-8", "replace")), size - 8 - num_bytes


def _parsed(text: str) -> dict[str, Any]:
    """The JSON object `text`, of bounded size and depth, no key twice."""
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
        raise ValueError("a key stands twice")
    return value


def _bounded_int(digits: str) -> int:
    if len(digits) > 100:  # the time that int() takes grows with the square
        raise ValueError("a number is too long")
    return int(digits)


def _depth_exceeds(limit: int, value: Any) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    values = value.values() if isinstance(value, dict) else value
    return limit == 0 or any(_depth_exceeds(limit - 1, v) for v in values)


def _check_version(version: Any) -> None:
    if type(version) is not int or version < 1:
        raise corrupt_file("it has no format version")
    if version > FORMAT_VERSION:
        raise CharRNNError(
            f"the file has format version {version}, and this charrnn knows {FORMAT_VERSION} only: "
            "upgrade charrnn."
        )


def _entries(header: dict[str, Any], num_bytes: int) -> list[_Entry]:
    """The arrays in the order of the file, which they fill: `num_bytes`, without a gap."""
    entries = sorted(_entry(name, description) for name, description in header.items())
    end = 0
    for entry in entries:
        if entry.begin != end:
            raise corrupt_file("its arrays overlap or leave a gap")
        end = entry.end
    if end > num_bytes:
        raise _truncated(num_bytes, end)
    if end < num_bytes:
        raise corrupt_file(f"{num_bytes - end:,} bytes follow its arrays")
    return entries


def _entry(name: str, description: Any) -> _Entry:
    try:
        dtype = DTYPES[description["dtype"]]
        shape = tuple(description["shape"])
        begin, end = description["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise corrupt_file(f"it does not describe the array {_quoted(name)}") from None
    sound = all(type(n) is int and n >= 0 for n in (*shape, begin, end)) and len(shape) <= MAX_DIMS
    sound = sound and math.prod(max(n, 1) for n in shape) <= MAX_VALUES
    if not sound or end - begin != math.prod(shape) * dtype.itemsize:
        raise corrupt_file(f"the size of the array {_quoted(name)} is wrong")
    return _Entry(begin, end, name, dtype, shape)


def _array(file: BinaryIO, entry: _Entry) -> np.ndarray:
    count = math.prod(entry.shape)
    values = np.fromfile(file, entry.dtype, count)
    if len(values) < count:
        raise _truncated(len(values) * entry.dtype.itemsize, entry.end - entry.begin)
    return values.reshape(entry.shape)


def _check_tensors(tensors: Arrays, config: dict[str, Any], tensor_shapes: TensorShapes) -> None:
    """Raises CharRNNError unless `tensors` are those that `config` asks for, float32, finite."""
    layers = config.get("num_layers")
    if isinstance(layers, int) and layers > len(tensors):  # or tensor_shapes might not return
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
            raise corrupt_file(f"the tensor {_quoted(name)} is {shapes}")
        if tensors[name].dtype != np.float32:
            raise corrupt_file(f"the tensor {_quoted(name)} is not of float32")
        if not np.isfinite(tensors[name]).all():
            raise corrupt_file(f"the tensor {_quoted(name)} holds values that are not finite")


def _vocabulary(characters: Any, config: dict[str, Any]) -> Vocabulary:
    if not isinstance(characters, str | None):
        raise corrupt_file("its vocabulary is not a string")
    vocabulary = Vocabulary(characters)
    if len(vocabulary) != config.get("vocab_size"):
        raise corrupt_file(
            f"its vocabulary has {len(vocabulary)} characters, its configuration not"
        )
    return vocabulary


def corrupt_file(how: str) -> CharRNNError:
    """The error for a file that says it is charrnn's, but cannot be what charrnn wrote."""
    return CharRNNError(f"the file is damaged ({how}): restore it from a copy or train anew.")


def _truncated(found: int, needed: int) -> CharRNNError:
    return corrupt_file(f"truncated: {found:,} bytes of {needed:,}")


def _quoted(name: str) -> str:
    return f"'{escape_unprintable(name[:80])}'"
