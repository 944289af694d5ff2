"""Text files to one array of ids, its split, and the parallel streams that training reads.

A text is never in memory as a whole: it is read in chunks, twice (once for its vocabulary, once
to encode it), and its ids are kept in a temporary file that has no name, unless they are few.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import itertools
import math
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from ..errors import (
    CharRNNError,
    FilePath,
    UsageError,
    display_path,
    escape_unprintable,
    os_errors_as,
)
from .disk_ids import DiskIds
from .vocabulary import Vocabulary, code_points

CHUNK_BYTES = 1 << 18  # bytes read at a time: what is made of them stays in the second cache
SMALL_BYTES = 1 << 24  # ids, or a copy of standard input, up to this size stay in memory

Ids = np.ndarray | DiskIds
Opener = Callable[[], contextlib.AbstractContextManager[BinaryIO]]


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as ids."""

    ids: Ids  # (n,) of vocabulary.dtype, read-only
    vocabulary: Vocabulary
    fingerprint: str  # hexadecimal SHA-256 of the bytes read and the encoding's name
    encoding: str  # its name, or "bytes"
    names: tuple[str, ...]  # the files, as they were given
    num_bytes: int  # bytes read
    skipped_characters: str = ""  # the unknown characters skipped, each once, sorted


def read_corpus(
    paths: FilePath | Iterable[FilePath],
    *,
    encoding: str = "utf-8",
    as_bytes: bool = False,
    folder: FilePath | None = None,
    vocabulary: Vocabulary | None = None,
    unknown: Literal["error", "skip"] = "error",
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """The files `paths`, joined in order, as ids; "-" is standard input.

    Line ends stay as they are; a byte-order mark at the start of a file is dropped. A given
    `vocabulary` also says whether the text is bytes. Temporary files go to `folder`.
    `progress(done, total)` counts bytes, those of a second pass too.

    Raises CharRNNError for what cannot be read or decoded, an empty text, and a file that changes
    meanwhile; UnknownCharacters for what the given vocabulary lacks, unless `unknown="skip"`.
    """
    paths = [paths] if isinstance(paths, FilePath) else list(paths)
    if vocabulary is None and as_bytes:
        vocabulary = Vocabulary.of_bytes()
    codec = None if vocabulary and vocabulary.is_bytes else _codec_name(encoding)
    with contextlib.ExitStack() as stack:
        inputs = [_input(path, folder, stack) for path in paths]
        reader = _Reader(inputs, codec, num_passes=1 if vocabulary else 2, progress=progress)
        if vocabulary is None:
            # A character missing from the text's own vocabulary means that the text has changed,
            # which the reader reports at the end.
            vocabulary, unknown = _vocabulary_of(reader), "skip"
            if vocabulary is None:
                raise _empty(inputs)
        skipped_characters = set()
        ids = _joined(
            _encoded(reader, vocabulary, unknown, skipped_characters), vocabulary.dtype, folder
        )
    if len(ids) == 0:
        raise _empty(inputs, skipped_characters)
    return Corpus(
        ids=ids,
        vocabulary=vocabulary,
        fingerprint=reader.fingerprint(),
        encoding=codec or "bytes",
        names=tuple(map(os.fsdecode, paths)),
        num_bytes=reader.num_bytes,
        skipped_characters="".join(sorted(skipped_characters)),
    )


def require_varied(corpus: Corpus) -> None:
    """Raises CharRNNError for a text of one repeated character: it holds nothing to learn."""
    ids = corpus.ids
    parts = (ids[i : i + CHUNK_BYTES] for i in range(0, len(ids), CHUNK_BYTES))
    if all((part == ids[0]).all() for part in parts):
        character = escape_unprintable(corpus.vocabulary.decode(ids[:1]))
        raise CharRNNError(
            f"the text is one character, '{character}', {len(ids):,} times: "
            "there is nothing to learn, give another text."
        )


def split(ids: Ids, val_fraction: float) -> tuple[Ids, Ids]:
    """(training ids, validation ids): the last floor(n * val_fraction) ids validate.

    Fewer than 2 ids predict nothing: then all train, and the validation part is empty.
    """
    if not 0 <= val_fraction < 1:
        raise UsageError(f"the validation fraction must be from 0 to below 1, not {val_fraction}.")
    num_val = math.floor(len(ids) * val_fraction)
    end = len(ids) - num_val if num_val >= 2 else len(ids)
    if isinstance(ids, DiskIds):
        return ids.part(0, end), ids.part(end, len(ids))
    return ids[:end], ids[end:]


def clamp_batch_shape(num_train_ids: int, batch_size: int, seq_length: int) -> tuple[int, int]:
    """(batch_size, seq_length), made smaller where a short text needs it.

    An epoch should have 4 chunks or more: first the batch shrinks, to make its streams longer,
    then the sequence. Raises CharRNNError for fewer than 2 ids.
    """
    if num_train_ids < 2:
        raise CharRNNError(
            "the training text is too short: at least 2 characters are needed, "
            f"{num_train_ids} found; give a longer text or a smaller --val-fraction."
        )
    steps = num_train_ids - 1
    batch_size = min(batch_size, max(1, steps // (4 * seq_length)))
    seq_length = min(seq_length, max(1, steps // batch_size // 4))
    return batch_size, seq_length


class BatchStreams:
    """`ids` (n,) cut into B parallel streams, read in chunks of T steps (truncated BPTT).

    Stream b is ids[b*S : b*S + S + 1] with S = (n - 1) // B: chunk k + 1 continues chunk k in
    every stream, each step predicts the id after it, at most B - 1 steps at the end are unused.
    """

    def __init__(self, ids: Ids, batch_size: int, seq_length: int):
        self.batch_size, self.seq_length = batch_size, seq_length
        steps = (len(ids) - 1) // batch_size
        self._ids = ids
        self._streams = [b * steps for b in range(batch_size)]  # where each begins
        self._starts = range(0, steps, seq_length)
        self.num_chunks = len(self._starts)
        self.chars_per_epoch = steps * batch_size

    def chars_in_chunks(self, chunks: int) -> int:
        """How many characters so many chunks have, over all epochs."""
        epochs, k = divmod(chunks, self.num_chunks)
        return epochs * self.chars_per_epoch + k * self.seq_length * self.batch_size

    def chunk(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (T, B) of chunk k, int32; the last chunk may be shorter than T."""
        start = self._starts[k]
        steps = min(self.seq_length, self._starts.stop - start)
        ids = np.empty((steps + 1, self.batch_size), np.int32)
        for b, first in enumerate(self._streams):
            ids[:, b] = self._ids[first + start : first + start + steps + 1]
        return ids[:-1], ids[1:]


class _Input(NamedTuple):
    name: str  # for messages
    num_bytes: int
    open: Opener  # any number of times, at the start each time


class _Reader:
    """The inputs as one text, in pieces; each pass over it must read the same bytes again."""

    def __init__(self, inputs, codec, num_passes, progress):
        self._inputs = inputs
        self._codec = codec  # None: bytes
        self._total = num_passes * sum(i.num_bytes for i in inputs)
        self._progress = progress or (lambda done, total: None)
        self._done = 0
        self._sha256 = None
        self.num_bytes = 0  # of the last pass

    def __iter__(self) -> Iterator[str | bytes]:
        last, self._sha256, self.num_bytes = self._sha256, hashlib.sha256(), 0
        for source in self._inputs:
            chunks = self._count(_chunks(source.name, source.open))
            yield from _decoded(chunks, source.name, self._codec) if self._codec else chunks
        if last and last.digest() != self._sha256.digest():
            raise CharRNNError(
                f"the text changed while it was read: {_listed(self._inputs)}; "
                "start again once nothing writes to it."
            )

    def fingerprint(self) -> str:
        """The digest of the last pass and of what the bytes were taken for."""
        sha256 = self._sha256.copy()
        sha256.update((self._codec or "bytes").encode())
        return sha256.hexdigest()

    def _count(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._sha256.update(chunk)
            self.num_bytes += len(chunk)
            self._done += len(chunk)
            self._progress(self._done, self._total)
            yield chunk


def _input(path: FilePath, folder: FilePath | None, stack: contextlib.ExitStack) -> _Input:
    """What reads `path` as often as needed: a pipe is first copied to a temporary file."""
    if path == "-":
        return _spooled("standard input", _standard_input, folder, stack)
    name = display_path(path)
    with _reading(name):
        status = os.stat(path)
    if stat.S_ISREG(status.st_mode):
        return _Input(name, status.st_size, lambda: open(path, "rb"))
    return _spooled(name, lambda: open(path, "rb"), folder, stack)


def _spooled(
    name: str, open_source: Opener, folder: FilePath | None, stack: contextlib.ExitStack
) -> _Input:
    spool = stack.enter_context(_temporary_file(folder))
    for chunk in _chunks(name, open_source):
        with _storing(folder):
            spool.write(chunk)

    def reopen():
        spool.seek(0)
        return contextlib.nullcontext(spool)

    return _Input(name, spool.tell(), reopen)


def _standard_input() -> contextlib.AbstractContextManager[BinaryIO]:
    if sys.stdin is None:
        raise OSError("it is closed")
    return contextlib.nullcontext(sys.stdin.buffer)


def _chunks(name: str, open_source: Opener) -> Iterator[bytes]:
    with _reading(name), open_source() as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _decoded(chunks: Iterable[bytes], name: str, codec: str) -> Iterator[str]:
    """The text of `chunks`, in pieces, without the byte-order mark at its start."""
    decoder = codecs.getincrementaldecoder(codec)()
    num_bytes = 0
    mark = "" if codec in ("utf-16", "utf-32") else "\ufeff"  # these two drop it themselves
    for chunk in itertools.chain(chunks, [b""]):
        num_bytes += len(chunk)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeError as error:
            raise _undecodable(name, codec, error, num_bytes) from None
        if text:
            yield text.removeprefix(mark)
            mark = ""


def _vocabulary_of(pieces: Iterable[str]) -> Vocabulary | None:
    """The characters of a text, sorted; None when it has none."""
    seen = np.zeros(sys.maxunicode + 1, bool)
    for text in pieces:
        new = (~seen[:256]).tobytes()  # 1 for what has not been seen
        if text.isascii() and 1 not in text.encode().translate(new):
            continue  # quickly, as with most of a text
        counts = np.bincount(code_points(text))
        seen[: len(counts)] |= counts > 0
    characters = "".join(map(chr, np.flatnonzero(seen)))
    return Vocabulary(characters) if characters else None


def _encoded(
    pieces: Iterable[str | bytes],
    vocabulary: Vocabulary,
    unknown: str,
    skipped_characters: set[str],
) -> Iterator[np.ndarray]:
    """The ids of each piece; the characters skipped are added to `skipped_characters`."""
    for text in pieces:
        ids = vocabulary.encode(text, unknown)
        if len(ids) < len(text):
            skipped_characters.update(vocabulary.unknown(text))
        yield ids


def _joined(arrays: Iterable[np.ndarray], dtype: np.dtype, folder: FilePath | None) -> Ids:
    """The arrays as one, read-only: in memory if small, else in a file without a name."""
    with _temporary_file(folder) as file:
        for ids in arrays:
            with _storing(folder):
                file.write(ids)
        with _storing(folder):
            file.flush()
        if file.tell() > SMALL_BYTES:
            return DiskIds(file, dtype)
        file.seek(0)
        return np.frombuffer(file.read(), dtype)


def _temporary_file(folder: FilePath | None) -> BinaryIO:
    """A file without a name, in memory until it is larger than SMALL_BYTES."""
    return tempfile.SpooledTemporaryFile(SMALL_BYTES, dir=folder)


def _codec_name(encoding: str) -> str:
    """Python's own name of a text encoding, the same for all its spellings."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)  # refuses codecs that are not of text
        codecs.getincrementaldecoder(encoding)
    except (LookupError, ValueError):
        raise UsageError(
            f"unknown encoding '{escape_unprintable(encoding)}': "
            "utf-8, utf-16, latin-1 and cp1252 are some."
        ) from None
    # utf-8-sig is utf-8 here: the mark is dropped anyway.
    return codecs.lookup(encoding).name.removesuffix("-sig")


def _reading(name: str) -> contextlib.AbstractContextManager[None]:
    return os_errors_as(f"cannot read {name}")


def _storing(folder: FilePath | None) -> contextlib.AbstractContextManager[None]:
    where = display_path(folder) if folder else "the folder that TMPDIR names"
    return os_errors_as(f"cannot keep temporary files in {where}")


def _undecodable(name: str, codec: str, error: UnicodeError, num_bytes: int) -> CharRNNError:
    """The error for bytes that are no text, the last `num_bytes` read so far included."""
    advice = "name its encoding with --encoding, or model its bytes with --bytes."
    if not isinstance(error, UnicodeDecodeError):  # such as a missing byte-order mark
        return CharRNNError(f"{name} is not {codec}: {escape_unprintable(str(error))}; {advice}")
    # The codec saw the last chunk, preceded by bytes it had held back from the one before.
    offset = num_bytes - len(error.object) + error.start
    found = error.object[error.start : error.end][:8].hex(" ")
    return CharRNNError(
        f"{name} is not {codec}: {error.reason} at byte offset {offset}, found {found}; {advice}"
    )


def _empty(inputs: list[_Input], skipped_characters: Iterable[str] = ()) -> CharRNNError:
    if skipped_characters:
        return CharRNNError(f"the model knows no character of {_listed(inputs)}.")
    return CharRNNError(f"no text: {_listed(inputs)} is empty.")


def _listed(inputs: list[_Input]) -> str:
    more = f" and {len(inputs) - 1} more" if len(inputs) > 1 else ""
    return f"{inputs[0].name}{more}" if inputs else "the list of files"
