"""Text files read in chunks, any number of times, decoded, counted and checked for changes."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import itertools
import logging
import os
import stat
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Literal, NamedTuple, TypeVar

from ..errors import (
    CharRNNError,
    FilePath,
    UsageError,
    display_path,
    escape_unprintable,
    os_errors_as,
)
from .encodings import HEAD_BYTES, likely_encodings, unmarked_unicode
from .joining import LineJoiner, Seam
from .spool import spooled

CHUNK_BYTES = 1 << 18  # bytes per read; the decoded chunk and its ids fit the L2 cache

MAX_ENCODINGS = 4  # named in a message

OnUndecodable = Literal["strict", "replace"]  # as `errors` of bytes.decode
Opener = Callable[[], contextlib.AbstractContextManager[IO[bytes]]]
Chunk = TypeVar("Chunk", str, bytes)

_log = logging.getLogger("charrnn")


class TextInput(NamedTuple):
    """A file, or the copy of a pipe, that can be read from its start any number of times."""

    name: str  # for messages
    num_bytes: int
    open: Opener


class EncodingOptions(NamedTuple):
    """Options that messages name: the encoding, reading as bytes, replacing what is no text."""

    encoding: str = "--encoding"
    as_bytes: str | None = None
    errors: str | None = None


class _CountingReplacer(threading.local):
    """An error handler of codecs: replaces bytes by U+FFFD and counts them."""

    num_bytes = 0

    def __call__(self, error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        self.num_bytes += error.end - error.start
        return "\ufffd", error.end


_replacer = _CountingReplacer()
_HANDLERS = {"strict": "strict", "replace": "charrnn.replace"}
codecs.register_error(_HANDLERS["replace"], _replacer)


def fingerprint_of_start(path: FilePath, num_bytes: int, encoding: str) -> str:
    """Return TextReader.fingerprint of a text of the first `num_bytes` of the file `path`."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while num_bytes and (data := file.read(min(num_bytes, CHUNK_BYTES))):
            sha256.update(data)
            num_bytes -= len(data)
    sha256.update(encoding.encode())
    return sha256.hexdigest()


class TextReader:
    """Several inputs read as one text. Every pass over them must read the same bytes.

    With `join`, a line end separates a file from the one before it if that does not end with one,
    but not input number `apart_from`. With `errors="replace"`, U+FFFD replaces bytes that cannot be
    decoded; `num_replaced` counts them by input in the last pass. `progress(done, total)` counts
    bytes over `num_passes` passes. Messages name the `options`.
    """

    def __init__(
        self,
        inputs: Sequence[TextInput],
        num_passes: int,
        progress: Callable[[int, int], None] | None = None,
        *,
        join: bool = True,
        apart_from: int | None = None,
        errors: OnUndecodable = "strict",
        options: EncodingOptions = EncodingOptions(),  # noqa: B008  # immutable
    ) -> None:
        self._inputs = inputs
        self._progress = progress
        self._join, self._apart_from = join, apart_from
        self._errors, self._options = errors, options
        self._warned = False
        self.seams: list[Seam] = []  # where the last pass put a line end
        self._total = num_passes * sum(i.num_bytes for i in inputs)
        self._done = 0
        self._sha256 = hashlib.sha256()
        self._previous_digest = b""  # of the pass before the current one
        self.num_bytes = 0  # read in the last pass
        self.num_replaced: Counter[str] = Counter()

    def byte_files(self) -> Iterator[Iterator[bytes]]:
        """Make one pass, without decoding: the chunks of each input."""
        return self._one_pass(lambda chunks, source: chunks)

    def text_files(self, codecs: Sequence[str]) -> Iterator[Iterator[str]]:
        """Make one pass, decoding each input with its codec, a name that `codec_name` returned.

        Raises CharRNNError, with the byte offset, for bytes that cannot be decoded.
        """
        codec = iter(codecs)
        return self._one_pass(lambda chunks, source: self._decoded(chunks, source, next(codec)))

    def fingerprint(self, encoding: str, with_seams: bool = True) -> str:
        """Return the hexadecimal SHA-256 of the last pass's bytes and the encoding's name.

        It depends on the line ends that were put between files, too, unless not `with_seams`.
        """
        sha256 = self._sha256.copy()
        sha256.update(encoding.encode())
        for seam in self.seams if with_seams else []:
            sha256.update(f"\n{seam.offset}".encode())
        return sha256.hexdigest()

    def _one_pass(
        self, convert: Callable[[Iterator[bytes], TextInput], Iterator[Chunk]]
    ) -> Iterator[Iterator[Chunk]]:
        self._sha256, self.num_bytes, self.seams = hashlib.sha256(), 0, []
        self.num_replaced.clear()
        joiner = LineJoiner()
        for i, source in enumerate(self._inputs):
            if i == self._apart_from:
                joiner = LineJoiner()
            chunks = convert(self._counted(_read_chunks(source.name, source.open)), source)
            yield self._joined(joiner, chunks, source) if self._join else chunks
        digest = self._sha256.digest()
        if self._previous_digest not in (b"", digest):
            raise CharRNNError(
                f"the text changed while it was read: {names_of(self._inputs)}; "
                "start again once nothing writes to it."
            )
        self._previous_digest = digest

    def _joined(
        self, joiner: LineJoiner, chunks: Iterator[Chunk], source: TextInput
    ) -> Iterator[Chunk]:
        start = self.num_bytes
        first = next(chunks, None)
        if first and (line_end := joiner.line_end_before(first)):
            self.seams.append(Seam(joiner.name, start))
            yield line_end
        for chunk in itertools.chain([first] if first else [], chunks):
            joiner.feed(chunk)
            yield chunk
        if first:
            joiner.name = source.name

    def _decoded(self, chunks: Iterable[bytes], source: TextInput, codec: str) -> Iterator[str]:
        """Decode the chunks of one input, without the byte-order mark at its start."""
        decoder = codecs.getincrementaldecoder(codec)(_HANDLERS[self._errors])
        num_bytes = 0
        mark = "" if codec in ("utf-16", "utf-32") else "\ufeff"  # these two codecs drop it
        for chunk in itertools.chain(chunks, [b""]):
            if num_bytes == 0:
                self._warn_of_unmarked(chunk[:HEAD_BYTES], source.name, codec)
            num_bytes += len(chunk)
            replaced_before = _replacer.num_bytes
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeError as error:
                raise _undecodable(source, codec, error, num_bytes, self._options) from None
            if replaced := _replacer.num_bytes - replaced_before:
                self.num_replaced[source.name] += replaced
            if text:
                text, mark = text.removeprefix(mark), ""
            if text:
                yield text

    def _warn_of_unmarked(self, head: bytes, name: str, codec: str) -> None:
        """Warn once if the beginning of an input looks like UTF-16 without its mark."""
        if not self._warned and (likely := unmarked_unicode(head, codec)):
            self._warned = True
            _log.warning(
                "%s looks like %s without a byte-order mark, not like %s: to read it as that, "
                "give %s %s",
                *(name, likely.upper(), codec, self._options.encoding, likely),
            )

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


def is_utf8(source: TextInput) -> bool:
    """Whether an input is UTF-8 and not plain ASCII."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_ascii = True
    try:
        for chunk in itertools.chain(_read_chunks(source.name, source.open), [b""]):
            decoder.decode(chunk, final=not chunk)
            is_ascii = is_ascii and chunk.isascii()
    except UnicodeDecodeError:
        return False
    return not is_ascii


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


def _undecodable(
    source: TextInput, codec: str, error: UnicodeError, num_bytes: int, options: EncodingOptions
) -> CharRNNError:
    """Return the error for undecodable bytes among the first `num_bytes` of an input."""
    if isinstance(error, UnicodeDecodeError):
        # The codec saw the last chunk, preceded by the bytes that it buffered before.
        offset = num_bytes - len(error.object) + error.start
        found = error.object[error.start : error.end][:8].hex(" ")
        reason = f"{error.reason} at byte offset {offset}, found {found}"
    else:  # such as a missing byte-order mark
        reason = escape_unprintable(str(error))
    encodings = likely_encodings(lambda: _read_chunks(source.name, source.open))[:MAX_ENCODINGS]
    decodes = f" (it decodes as {', '.join(encodings)}, the likeliest first)" if encodings else ""
    advice = [f"name its encoding with {options.encoding}{decodes}"]
    advice += [f"replace such bytes with {options.errors}"] if options.errors else []
    advice += [f"model its bytes with {options.as_bytes}"] if options.as_bytes else []
    advice[1:] = [*advice[1:-1], f"or {advice[-1]}"] if len(advice) > 1 else []
    return CharRNNError(f"{source.name} is not {codec}: {reason}; {', '.join(advice)}.")
