"""The texts that `charrnn sample` continues: one prime, or one on each line of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import cast

from ..errors import CharRNNError, display_path
from ..text.vocabulary import UnknownCharacters, Vocabulary
from .output import read_stdin, warn_unknown
from .sample_request import SampleRequest

CHUNK_BYTES = 1 << 16  # most bytes of stdin whose primes are continued together
BATCH = 1 << 14  # primes of a file that are continued together


def read_prime(request: SampleRequest, vocabulary: Vocabulary) -> str:
    """Return the prime, without the characters that --unknown skips."""
    prime = request.prime
    if request.prime_file:
        prime = _read_prime_file(request.prime_file, vocabulary)
    if request.unknown == "error":
        return prime
    skipped_characters = vocabulary.unknown(prime)
    warn_unknown(skipped_characters)
    return _without(skipped_characters, prime)


def _without(characters: str, prime: str) -> str:
    return prime.translate(dict.fromkeys(map(ord, characters)))


def _read_prime_file(path: str, vocabulary: Vocabulary) -> str:
    """Read the prime from a file. For a byte model, bytes that are not UTF-8 become surrogates."""
    data = read_stdin() if path == "-" else Path(path).read_bytes()
    try:
        return vocabulary.from_utf8(data)
    except UnicodeDecodeError as error:
        raise CharRNNError(
            f"{path}: the prime is not UTF-8: invalid byte at {error.start}."
        ) from None


def prime_batches(
    request: SampleRequest, vocabulary: Vocabulary, record_end: bytes = b""
) -> Iterable[Sequence[str]]:
    """Return the primes on the lines of --primes, in lists of those that are continued together.

    All primes of a file are read and checked here. Those of stdin are read when a list is asked
    for, as far as they have arrived. `record_end` is as of LanguageModel.
    """
    path = request.primes or ""
    lines = _PrimeLines(request, vocabulary, record_end)
    if path == "-":
        return lines.batches(_lines_of_stdin())
    [primes] = lines.batches([_lines(Path(path).read_bytes())])
    return [primes[i : i + BATCH] for i in range(0, len(primes), BATCH)]


def _lines(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _lines_of_stdin() -> Iterator[list[bytes]]:
    """Yield the complete lines that have arrived, at least one; the last may lack its end."""
    if sys.stdin is None:
        return
    stdin, unfinished = cast(BufferedReader, sys.stdin.buffer), list[bytes]()
    while chunk := stdin.read1(CHUNK_BYTES):
        unfinished.append(chunk)
        if b"\n" in chunk:
            *lines, rest = b"".join(unfinished).split(b"\n")
            unfinished = [rest]
            yield lines
    if rest := b"".join(unfinished):
        yield [rest]


class _PrimeLines:
    """Turns lines into primes. An error tells the number of the line."""

    def __init__(self, request: SampleRequest, vocabulary: Vocabulary, record_end: bytes) -> None:
        self._request, self._vocabulary, self._record_end = request, vocabulary, record_end
        self._number = 0
        self._skipped = ""  # unknown characters that were named before

    def batches(self, batches: Iterable[Sequence[bytes]]) -> Iterator[list[str]]:
        """Yield the primes of each batch, those before an error, too."""
        for lines in batches:
            primes: list[str] = []
            try:
                primes.extend(map(self._prime, lines))
            except CharRNNError:
                yield primes
                raise
            yield primes

    def _prime(self, line: bytes) -> str:
        self._number += 1
        if self._record_end and self._record_end in line:
            raise self._error("it already ends the record: leave the separator out of it.")
        try:
            prime = self._vocabulary.from_utf8(line.removesuffix(b"\r"))
        except UnicodeDecodeError as error:
            raise self._error(f"it is not UTF-8: invalid byte at {error.start}.") from None
        if unknown := self._vocabulary.unknown(prime):
            if self._request.unknown == "error":
                raise self._error(str(UnknownCharacters(unknown, self._vocabulary, prime)))
            warn_unknown("".join(c for c in unknown if c not in self._skipped))
            self._skipped += unknown
            prime = _without(unknown, prime)
        if self._request.mid_line and not prime:
            raise self._error("there is no line to continue: omit the prime, or omit --mid-line.")
        return prime

    def _error(self, reason: str) -> CharRNNError:
        path = self._request.primes or ""
        name = "stdin" if path == "-" else display_path(path)
        return CharRNNError(f"prime {self._number:,} of {name}: {reason}")
