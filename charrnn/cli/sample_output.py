"""Where `charrnn sample` writes: a stream of text, lines of JSON, or one file per text."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import BinaryIO, TypeVar

from ..storage.atomic import write_atomically
from .output import stdout

FLUSH_SECONDS = 0.05  # text is buffered no longer than this before it is shown
PLACEHOLDER = "{n}"  # in --output, replaced by the number of the text

Item = TypeVar("Item")


def files_of(output: str, count: int) -> list[str]:
    """Return the files that `count` texts are written to: one, or one per text with {n}."""
    if PLACEHOLDER not in output:
        return [output]
    width = len(str(count))  # equally many digits, so that the names sort like the numbers
    return [output.replace(PLACEHOLDER, f"{i:0{width}}") for i in range(1, count + 1)]


@dataclass(frozen=True)
class Answer:
    """A text that is written: a prime and the pieces of the text after it.

    metadata: what a JSON object tells beside them. backward: whether the text precedes the prime.
    """

    prime: str
    pieces: Iterable[bytes]
    metadata: Mapping[str, object] = field(default_factory=dict)
    backward: bool = False

    @property
    def prime_data(self) -> bytes:
        return self.prime.encode("utf-8", "surrogateescape")


class TextTee:
    """Passes texts on, counts their characters or bytes and, with `record`, retains them.

    with_prime: whether it retains the prime, too.
    """

    def __init__(
        self, answers: Iterable[Answer], record: bool, unit: str, with_prime: bool = False
    ) -> None:
        self._answers, self._record, self.unit = answers, record, unit
        self._with_prime = with_prime
        self._pieces: list[list[bytes]] = []
        self.progressed: Callable[[int], object] | None = None  # called with numbers of units

    def __iter__(self) -> Iterator[Answer]:
        for answer in self._answers:
            prime = [answer.prime_data] if self._record and self._with_prime else []
            if self._record:
                self._pieces.append([] if answer.backward else prime)
            yield replace(answer, pieces=self._pass_on(answer.pieces))
            if self._record and answer.backward:
                self._pieces[-1] += prime

    def _pass_on(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if self._record:
                self._pieces[-1].append(piece)
            if self.progressed is not None:
                self.progressed(len(piece if self.unit == "byte" else piece.decode()))
            yield piece

    def texts(self) -> list[bytes]:
        """Return the retained texts."""
        return [b"".join(pieces) for pieces in self._pieces]


def write_texts(
    answers: Iterable[Answer], output: str, separator: bytes | None, count: int, omit_prime: bool
) -> None:
    """Write up to `count` texts to one file each, or any number to one, each after its prime.

    In one file, the separator follows each text. If it is None, a newline follows on a terminal
    where the text does not end with one.
    """
    texts: Iterator[Iterable[bytes]] = (_whole(answer, omit_prime) for answer in answers)
    if PLACEHOLDER in output:
        for pieces, file in zip(texts, files_of(output, count), strict=False):
            write_atomically(file, pieces)
        return
    end = [] if separator is None else [separator]
    texts = _begun(texts)
    with _opened(output) as out:
        for pieces in texts:
            last = write_pieces(chain(pieces, end), out)
            if separator is None and out.isatty() and last != b"\n":
                out.write(b"\n")
                out.flush()


def _whole(answer: Answer, omit_prime: bool) -> Iterable[bytes]:
    prime = [] if omit_prime else [answer.prime_data]
    return chain(answer.pieces, prime) if answer.backward else chain(prime, answer.pieces)


def write_objects(answers: Iterable[Answer], output: str) -> None:
    """Write a JSON object per line: the metadata of a text, the prime and the text.

    Bytes that are not UTF-8 are escaped (surrogateescape), as lone surrogates like \\udce9.
    """
    answers = _begun(answers)
    with _opened(output) as out:
        for answer in answers:
            text = b"".join(answer.pieces).decode("utf-8", "surrogateescape")
            line = json.dumps({**answer.metadata, "prime": answer.prime, "text": text})
            write_pieces([line.encode() + b"\n"], out)


def _begun(items: Iterable[Item]) -> Iterator[Item]:
    """Take the first item now: an error that comes before it leaves the output as it was."""
    items = iter(items)
    return chain(list(islice(items, 1)), items)


def write_pieces(pieces: Iterable[bytes], out: BinaryIO) -> bytes:
    """Write pieces as they come; flush every FLUSH_SECONDS and at the end. Return the last byte."""
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
