"""Where `charrnn sample` writes: a stream of text, lines of JSON, a file a text."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import BinaryIO

from ..errors import CharRNNError
from ..storage.atomic import write_atomically

FLUSH_SECONDS = 0.05  # text waits no longer than this before it is shown
NUMBER = "{n}"  # in the name of an output: a file a text

Texts = Iterable[Iterable[bytes]]


def files_of(output: str, count: int) -> list[str]:
    """The files that `count` texts go to: all to one, or with {n} in its name one a text."""
    if NUMBER not in output:
        return [output]
    width = len(str(count))  # as many digits in each, so that names sort as the numbers do
    return [output.replace(NUMBER, f"{i:0{width}}") for i in range(1, count + 1)]


class Written:
    """Texts that are counted as they are written and, with `kept`, kept."""

    def __init__(self, texts: Texts, kept: bool) -> None:
        self._texts, self._kept = texts, [] if kept else None
        self.progressed: Callable[[int], object] | None = None  # called with new characters

    def __iter__(self) -> Iterator[Iterator[bytes]]:
        for pieces in self._texts:
            if self._kept is not None:
                self._kept.append([])
            yield self._passed(pieces)

    def _passed(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if self._kept is not None:
                self._kept[-1].append(piece)
            if self.progressed is not None:
                self.progressed(len(piece.decode("utf-8", "replace")))
            yield piece

    def texts(self) -> list[bytes]:
        """What was kept."""
        return [b"".join(pieces) for pieces in self._kept]


def write_texts(texts: Texts, output: str, prime: str, separator: str | None, count: int) -> None:
    """The texts, each after the prime: into files of their own, or into one.

    In one each is followed by the separator; without one, by a newline if a terminal needs it.
    """
    start = prime.encode("utf-8", "surrogateescape")
    texts = (chain([start], pieces) for pieces in texts)
    if NUMBER in output:
        for pieces, file in zip(texts, files_of(output, count), strict=True):
            write_atomically(file, pieces)
        return
    with _opened(output) as out:
        for pieces in texts:
            end = write_pieces(pieces, out)
            if separator is not None:
                out.write(separator.encode("utf-8", "surrogateescape"))
            elif out.isatty() and end != b"\n":
                out.write(b"\n")
        out.flush()


def write_objects(texts: Texts, output: str, prime: str, facts: Iterable[dict]) -> None:
    """A line of JSON a text: what `facts` says of it, the prime, the text. Not UTF-8: U+FFFD."""
    prime = prime.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    with _opened(output) as out:
        for pieces, values in zip(texts, facts, strict=True):
            text = b"".join(pieces).decode("utf-8", "replace")
            line = json.dumps({**values, "prime": prime, "text": text})
            write_pieces([line.encode() + b"\n"], out)


def write_pieces(pieces: Iterable[bytes], out: BinaryIO) -> bytes:
    """Write as the pieces come, showing them at once or nearly so. Returns the last byte."""
    end = b""
    shown = -FLUSH_SECONDS
    for piece in pieces:
        out.write(piece)
        end = piece[-1:] or end
        if (now := time.monotonic()) - shown >= FLUSH_SECONDS:
            out.flush()
            shown = now
    out.flush()
    return end


def _opened(output: str) -> AbstractContextManager[BinaryIO]:
    if output != "-":
        return open(output, "wb")
    if sys.stdout is None:
        raise CharRNNError("there is nowhere to write: stdout is closed.")
    return nullcontext(sys.stdout.buffer)
