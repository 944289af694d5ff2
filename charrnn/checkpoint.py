"""The files of a run: safetensors, written atomically, checked in every bit when read.

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
import secrets
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .errors import CharRNNError, printable
from .vocab import Vocabulary

FORMAT_VERSION = 1
MODEL_KEY = "charrnn"
STATE_KEY = "charrnn-state"
KINDS = {MODEL_KEY: "a model", STATE_KEY: "the state of a run"}

# Bounds on what a header may claim; the largest vocabulary needs 16 MB.
MAX_HEADER_BYTES = 1 << 25
MAX_HEADER_ITEMS = 1_000_000
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

FilePath = str | bytes | os.PathLike
Arrays = dict[str, np.ndarray]
TensorShapes = Callable[[dict[str, Any]], dict[str, tuple[int, ...]]]


class RunFiles(NamedTuple):
    model: Path
    state: Path
    log: Path


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


def paths(output: FilePath) -> RunFiles:
    """The files of a run: the model is `output` itself, the others have its name without ending."""
    output = os.fsdecode(output)
    stem = output.removesuffix(".safetensors")
    return RunFiles(Path(output), Path(f"{stem}.state.safetensors"), Path(f"{stem}.log.jsonl"))


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
            raise _damaged("it holds no configuration")
        _check_tensors(tensors, config, tensor_shapes)
        vocabulary = _vocabulary(content.get("vocabulary", ""), config)
        return ModelFile(tensors, config, vocabulary, training, content["format_version"])


def save_state(path: FilePath, arrays: Arrays, info: Any) -> None:
    """Write what training needs to go on; `info` is any JSON value. Raises as write_atomically."""
    write_atomically(path, _serialized(STATE_KEY, {"info": info}, arrays))


def load_state(path: FilePath) -> tuple[Arrays, Any]:
    """(arrays, info) as save_state was given them. Raises CharRNNError for anything else."""
    with _opened(path, "there is no run to resume") as file:
        content, arrays = _read(file, STATE_KEY)
        return arrays, content.get("info")


def write_atomically(path: FilePath, chunks: Iterable[bytes | np.ndarray]) -> None:
    """Replace the file `path` by one with the bytes of `chunks`, or else leave it as it is.

    When this returns the bytes are on the disk; no error leaves a temporary file. A symbolic link
    stays, its target is replaced. Raises CharRNNError when the file cannot be written.
    """
    with _explained(f"cannot write {_shown(path)}"):
        target = _target(path)
        with _temporary_beside(target) as temporary:
            with open(temporary, "xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        _flush_folder(os.path.dirname(target))


def require_writable(path: FilePath) -> None:
    """Raises CharRNNError when write_atomically could not write `path`: to know it in time."""
    failure = f"cannot write {_shown(path)}"
    with _explained(failure), _temporary_beside(_target(path)) as temporary:
        open(temporary, "xb").close()


def _target(path: FilePath) -> str:
    """The file that `path` stands for, which is a regular one or none yet."""
    target = os.path.realpath(os.fsdecode(path))
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {printable(folder)}")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(target).st_mode):  # never replace a device
            raise OSError("it is a folder or a device, not a file")
    return target


@contextlib.contextmanager
def _temporary_beside(target: str) -> Iterator[str]:
    """A name for a temporary file in the folder of `target`; no such file is left at the end."""
    folder, name = os.path.split(target)
    # Shortened, so that it is within the limit of 255 bytes if `name` is.
    temporary = os.path.join(folder, f".{name[:50]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has become the target
            os.unlink(temporary)


def _flush_folder(folder: str) -> None:
    """Put the new name on the disk, too, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _serialized(key: str, content: dict[str, Any], arrays: Arrays) -> Iterator[bytes | np.ndarray]:
    """The parts of a safetensors file, in the layout of safetensors' own serializer.

    That one writes the metadata in random order: the same run would not give the same file.
    """
    text = json.dumps({"format_version": FORMAT_VERSION, **content})
    arrays = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()}
    header = {"__metadata__": {key: text, "sha256": _digest(text, arrays)}}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    end = 0
    for name in names:
        begin, end = end, end + arrays[name].nbytes
        header[name] = {**_description(arrays[name]), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    yield struct.pack("<Q", len(encoded)) + encoded
    yield from (arrays[name] for name in names)


def _digest(text: str, arrays: Arrays) -> str:
    """SHA-256 of the JSON text and of name, type, shape and bytes of each array, by name."""
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(arrays):
        description = {"name": name, **_description(arrays[name])}
        sha256.update(json.dumps(description).encode())
        sha256.update(arrays[name].reshape(-1))
    return sha256.hexdigest()


def _description(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": DTYPE_NAMES[array.dtype], "shape": list(array.shape)}


@contextlib.contextmanager
def _opened(path: FilePath, if_missing: str) -> Iterator[BinaryIO]:
    """The file, open; any error met while it is read and checked becomes one that names it."""
    shown = _shown(path)
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):  # has no size to check numbers against
            raise OSError("it is a pipe, not a file")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise CharRNNError(f"no such file: {shown}; {if_missing}.") from None
    except CharRNNError as error:
        raise CharRNNError(f"{shown}: {error}") from None
    except (OSError, ValueError, MemoryError) as error:
        raise CharRNNError(f"cannot read {shown}: {_reason(error)}.") from error


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
        raise _damaged("its checksum is wrong")
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
        raise _damaged(f"its header has {num_bytes:,} bytes")
    text = b"{" + file.read(num_bytes - 1)
    return _parsed(text.decode("utf-8", "replace")), size - 8 - num_bytes


def _parsed(text: str) -> dict[str, Any]:
    """The JSON object `text`, of bounded size and depth, no key twice."""
    if sum(map(text.count, "[{,")) > MAX_HEADER_ITEMS:
        raise _damaged("its header is too large")
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_int=_bounded_int)
    except (ValueError, RecursionError):
        raise _damaged("its header is not valid JSON") from None
    if not isinstance(value, dict) or _depth_exceeds(MAX_DEPTH, value):
        raise _damaged("its header is not a plain JSON object")
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
        raise _damaged("it has no format version")
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
            raise _damaged("its arrays overlap or leave a gap")
        end = entry.end
    if end > num_bytes:
        raise _truncated(num_bytes, end)
    if end < num_bytes:
        raise _damaged(f"{num_bytes - end:,} bytes follow its arrays")
    return entries


def _entry(name: str, description: Any) -> _Entry:
    try:
        dtype = DTYPES[description["dtype"]]
        shape = tuple(description["shape"])
        begin, end = description["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _damaged(f"it does not describe the array {_quoted(name)}") from None
    sound = all(type(n) is int and n >= 0 for n in (*shape, begin, end)) and len(shape) <= MAX_DIMS
    sound = sound and math.prod(max(n, 1) for n in shape) <= MAX_VALUES
    if not sound or end - begin != math.prod(shape) * dtype.itemsize:
        raise _damaged(f"the size of the array {_quoted(name)} is wrong")
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
        raise _damaged(f"it has {len(tensors)} tensors for {layers} layers")
    try:
        expected = {name: tuple(shape) for name, shape in tensor_shapes(config).items()}
    except (CharRNNError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(
            f"its configuration is impossible: {printable(str(error)[:200].rstrip('.'))}"
        ) from None
    found = {name: tensor.shape for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            shapes = f"{found.get(name, 'missing')} instead of {expected.get(name, 'missing')}"
            raise _damaged(f"the tensor {_quoted(name)} is {shapes}")
        if tensors[name].dtype != np.float32:
            raise _damaged(f"the tensor {_quoted(name)} is not of float32")
        if not np.isfinite(tensors[name]).all():
            raise _damaged(f"the tensor {_quoted(name)} holds values that are not finite")


def _vocabulary(characters: Any, config: dict[str, Any]) -> Vocabulary:
    if not isinstance(characters, str | None):
        raise _damaged("its vocabulary is not a string")
    vocabulary = Vocabulary(characters)
    if len(vocabulary) != config.get("vocab_size"):
        raise _damaged(f"its vocabulary has {len(vocabulary)} characters, its configuration not")
    return vocabulary


def _damaged(how: str) -> CharRNNError:
    return CharRNNError(f"the file is damaged ({how}): restore it from a copy or train anew.")


def _truncated(found: int, needed: int) -> CharRNNError:
    return _damaged(f"truncated: {found:,} bytes of {needed:,}")


@contextlib.contextmanager
def _explained(failure: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in a name
        raise CharRNNError(f"{failure}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _shown(path: FilePath) -> str:
    return printable(os.fsdecode(path))


def _quoted(name: str) -> str:
    return f"'{printable(name[:80])}'"
