"""Text files read in chunks, any number of times, decoded, counted and checked for changes."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, NamedTuple, TypeVar

from ..errors import (
    CharRNNError,
    FilePath,
    UsageError,
    display_path,
    escape_unprintable,
    os_errors_as,
)
from .spool import spooled

CHUNK_BYTES = 1 << 18  # bytes per read; the decoded chunk and its ids fit the L2 cache

Opener = Callable[[], contextlib.AbstractContextManager[IO[bytes]]]
Chunk = TypeVar("Chunk", str, bytes)


class TextInput(NamedTuple):
    """A file, or the copy of a pipe, that can be read from its start any number of times."""

    name: str  # for messages
    num_bytes: int
    open: Opener


class TextReader:
    """Several inputs read as one text. Every pass over them must read the same bytes.

    `progress(done, total)` counts bytes over `num_passes` passes.
    """

    def __init__(
        self,
        inputs: Sequence[TextInput],
        num_passes: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._inputs = inputs
        self._progress = progress
        self._total = num_passes * sum(i.num_bytes for i in inputs)
        self._done = 0
        self._sha256 = hashlib.sha256()
        self._previous_digest = b""  # of the pass before the current one
        self.num_bytes = 0  # read in the last pass

    def byte_chunks(self) -> Iterator[bytes]:
        """Make one pass, without decoding."""
        return self._one_pass(lambda chunks, name: chunks)

    def text_chunks(self, codec: str) -> Iterator[str]:
        """Make one pass, decoding with `codec`, a name that `codec_name` returned.

        Raises CharRNNError, with the byte offset, for bytes that cannot be decoded.
        """
        return self._one_pass(lambda chunks, name: _decoded(chunks, name, codec))

    def fingerprint(self, encoding: str) -> str:
        """Return the hexadecimal SHA-256 of the last pass's bytes and the encoding's name."""
        sha256 = self._sha256.copy()
        sha256.update(encoding.encode())
        return sha256.hexdigest()

    def _one_pass(
        self, convert: Callable[[Iterator[bytes], str], Iterator[Chunk]]
    ) -> Iterator[Chunk]:
        self._sha256, self.num_bytes = hashlib.sha256(), 0
        for source in self._inputs:
            yield from convert(self._counted(_read_chunks(source.name, source.open)), source.name)
        digest = self._sha256.digest()
        if self._previous_digest not in (b"", digest):
            raise CharRNNError(
                f"the text changed while it was read: {names_of(self._inputs)}; "
                "start again once nothing writes to it."
            )
        self._previous_digest = digest

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._sha256.update(chunk)
            self.num_bytes += len(chunk)
            self._done += len(chunk)
            if self._progress is not None:
                self._progress(self._done, self._total)
            yield chunk


def open_input(path: FilePath, folder: FilePath | None, stack: contextlib.ExitStack) -> TextInput:
    """Prepare a file, a pipe or standard input ("-") for reading.

    Pipes and standard input can be read only once, so they are copied to a temporary file in
    `folder`, which `stack` closes. Raises CharRNNError when `path` cannot be read.
    """
    if path == "-":
        return _spooled_input("standard input", _standard_input, folder, stack)
    name = display_path(path)
    with os_errors_as(f"cannot read {name}"):
        status = os.stat(path)
    if stat.S_ISREG(status.st_mode):
        return TextInput(name, status.st_size, lambda: open(path, "rb"))
    return _spooled_input(name, lambda: open(path, "rb"), folder, stack)


def names_of(inputs: Sequence[TextInput]) -> str:
    """Name the inputs in a message: the first, and how many more."""
    more = f" and {len(inputs) - 1} more" if len(inputs) > 1 else ""
    return f"{inputs[0].name}{more}" if inputs else "the list of files"


def codec_name(encoding: str) -> str:
    """Return Python's name of a text encoding, the same for all spellings of it.

    Raises UsageError for an encoding that does not exist or is not one of text.
    """
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)  # refuses codecs such as hex
        codecs.getincrementaldecoder(encoding)
    except (LookupError, ValueError):
        raise UsageError(
            f"unknown encoding '{escape_unprintable(encoding)}': "
            "utf-8, utf-16, latin-1 and cp1252 are some."
        ) from None
    # The byte-order mark is always dropped, so utf-8-sig and utf-8 are the same here.
    return codecs.lookup(encoding).name.removesuffix("-sig")


def _spooled_input(
    name: str, open_source: Opener, folder: FilePath | None, stack: contextlib.ExitStack
) -> TextInput:
    spool = stack.enter_context(spooled(_read_chunks(name, open_source), folder))

    def reopen() -> contextlib.AbstractContextManager[IO[bytes]]:
        spool.seek(0)
        return contextlib.nullcontext(spool)

    return TextInput(name, spool.tell(), reopen)


def _standard_input() -> contextlib.AbstractContextManager[IO[bytes]]:
    if sys.stdin is None:
        raise OSError("it is closed")
    return contextlib.nullcontext(sys.stdin.buffer)


def _read_chunks(name: str, open_source: Opener) -> Iterator[bytes]:
    with os_errors_as(f"cannot read {name}"), open_source() as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _decoded(chunks: Iterable[bytes], name: str, codec: str) -> Iterator[str]:
    """Decode the chunks of one input, without the byte-order mark at its start."""
    decoder = codecs.getincrementaldecoder(codec)()
    num_bytes = 0
    mark = "" if codec in ("utf-16", "utf-32") else "\ufeff"  # these two codecs drop it
    for chunk in itertools.chain(chunks, [b""]):
        num_bytes += len(chunk)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeError as error:
            raise _undecodable(name, codec, error, num_bytes) from None
        if text:
            yield text.removeprefix(mark)
            mark = ""


def _undecodable(name: str, codec: str, error: UnicodeError, num_bytes: int) -> CharRNNError:
    """Return the error for undecodable bytes among the first `num_bytes` of an input."""
    advice = "name its encoding with --encoding, or model its bytes with --bytes."
    if not isinstance(error, UnicodeDecodeError):  # such as a missing byte-order mark
        return CharRNNError(f"{name} is not {codec}: {escape_unprintable(str(error))}; {advice}")
    # The codec saw the last chunk, preceded by the bytes that it buffered before.
    offset = num_bytes - len(error.object) + error.start
    found = error.object[error.start : error.end][:8].hex(" ")
    return CharRNNError(
        f"{name} is not {codec}: {error.reason} at byte offset {offset}, found {found}; {advice}"
    )
