"""Where `charrnn sample` writes: a stream of text, lines of JSON, or one file per text."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import BinaryIO

from ..storage.atomic import write_atomically
from .output import stdout

FLUSH_SECONDS = 0.05  # text is buffered no longer than this before it is shown
PLACEHOLDER = "{n}"  # in --output, replaced by the number of the text

Texts = Iterable[Iterable[bytes]]  # each text in pieces


def files_of(output: str, count: int) -> list[str]:
    """Return the files that `count` texts are written to: one, or one per text with {n}."""
    if PLACEHOLDER not in output:
        return [output]
    width = len(str(count))  # equally many digits, so that the names sort like the numbers
    return [output.replace(PLACEHOLDER, f"{i:0{width}}") for i in range(1, count + 1)]


class TextTee:
    """Passes texts on, counts their characters or bytes and, with `record`, retains them."""

    def __init__(self, texts: Texts, record: bool, unit: str) -> None:
        self._texts, self._record, self.unit = texts, record, unit
        self._pieces: list[list[bytes]] = []
        self.progressed: Callable[[int], object] | None = None  # called with numbers of units

    def __iter__(self) -> Iterator[Iterator[bytes]]:
        for pieces in self._texts:
            if self._record:
                self._pieces.append([])
            yield self._pass_on(pieces)

    def _pass_on(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if self._record:
                self._pieces[-1].append(piece)
            if self.progressed is not None:
                self.progressed(len(piece if self.unit == "byte" else piece.decode()))
            yield piece

    def texts(self) -> list[bytes]:
        """Return the recorded texts."""
        return [b"".join(pieces) for pieces in self._pieces]


def write_texts(texts: Texts, output: str, prime: str, separator: str | None, count: int) -> None:
    """Write the texts, each after the prime, to one file each or all to one.

    In one file, the separator follows each text. If it is None, a newline follows on a terminal
    where the text does not end with one.
    """
    start = prime.encode("utf-8", "surrogateescape")
    texts = (chain([start], pieces) for pieces in texts)
    if PLACEHOLDER in output:
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


def write_objects(
    texts: Texts, output: str, prime: str, metadata: Iterable[Mapping[str, object]]
) -> None:
    """Write a JSON object per line: the metadata of a text, the prime and the text.

    Bytes that are not UTF-8 are escaped (surrogateescape), as lone surrogates like \\udce9.
    """
    with _opened(output) as out:
        for pieces, values in zip(texts, metadata, strict=True):
            text = b"".join(pieces).decode("utf-8", "surrogateescape")
            line = json.dumps({**values, "prime": prime, "text": text})
            write_pieces([line.encode() + b"\n"], out)


def write_pieces(pieces: Iterable[bytes], out: BinaryIO) -> bytes:
    """Write pieces as they come and flush every FLUSH_SECONDS. Returns the last byte."""
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
    return nullcontext(stdout().buffer) if output == "-" else open(output, "wb")
