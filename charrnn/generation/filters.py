"""Which texts of many are wanted: new ones, those that match, those that are long enough."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import warnings
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from io import BytesIO
from math import inf
from pathlib import Path

from ..errors import (
    CharRNNError,
    FilePath,
    UsageError,
    display_path,
    escape_unprintable,
    os_errors_as,
)
from ..text.vocabulary import Vocabulary

MAX_REJECTED = 100_000  # texts in a row, after which the search for another one ends


class TextSet:
    """A set of texts in 16 to 32 bytes each: a table of 64-bit hashes, by open addressing.

    Of 10^9 texts, one more is taken for one of them with a probability of 10^-10.
    """

    def __init__(self, texts: Iterable[bytes] = ()) -> None:
        self._table, self._size = array("Q", [0]) * 8, 0  # 0: empty
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return self._size

    def __contains__(self, text: bytes) -> bool:
        key = _hash(text)
        return self._table[self._place(key)] == key

    def add(self, text: bytes) -> bool:
        """Add a text; return whether it is new."""
        key = _hash(text)
        at = self._place(key)
        if self._table[at] == key:
            return False
        self._table[at] = key
        self._size += 1
        if 2 * self._size > len(self._table):
            self._grow()
        return True

    def _place(self, key: int) -> int:
        """Where a hash is, or belongs."""
        table, mask = self._table, len(self._table) - 1
        at = key & mask
        while table[at] and table[at] != key:
            at = (at + 1) & mask
        return at

    def _grow(self) -> None:
        before, self._table = self._table, array("Q", [0]) * (2 * len(self._table))
        for key in filter(None, before):
            self._table[self._place(key)] = key


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") or 1


class KnownTexts:
    """The texts that stand in a file, whose content is `data`.

    A text of one line stands there if it is one of the lines; a text of several lines if they
    occur anywhere. The newline at the end of a text does not count.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data.replace(b"\r\n", b"\n")
        self._lines = TextSet(line.removesuffix(b"\n") for line in BytesIO(self._data))

    def __contains__(self, text: bytes) -> bool:
        text = text.replace(b"\r\n", b"\n").removesuffix(b"\n")
        return text in self._data if b"\n" in text else text in self._lines


def read_known_texts(
    path: FilePath, vocabulary: Vocabulary, record_end: bytes = b""
) -> KnownTexts | TextSet:
    """Read a file in UTF-8, for a vocabulary of bytes any file; "-" is standard input.

    With `record_end`, the texts are its records, not its lines. Raises CharRNNError if it cannot
    be read.
    """
    name = display_path(path)
    with os_errors_as(f"cannot read {name}"):
        data = _read_stdin() if path == "-" else Path(os.fsdecode(path)).read_bytes()
    try:
        data = vocabulary.from_utf8(data).encode("utf-8", "surrogateescape")
    except UnicodeDecodeError as error:
        raise CharRNNError(f"{name} is not UTF-8: invalid byte at {error.start}.") from None
    return TextSet(_records(data, record_end)) if record_end else KnownTexts(data)


def _records(data: bytes, end: bytes) -> Iterator[bytes]:
    """Yield the records of a text, without their ends, as RecordFilter reads them."""
    start = 0
    while start < len(data):
        stop = data.find(end, start)
        record = data[start:] if stop < 0 else data[start:stop]
        yield record.rstrip(b"\r") if end == b"\n" else record
        start += len(record) + len(end)


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise OSError("it is closed")
    return sys.stdin.buffer.read()


class TextFilter:
    """Accepts the texts that are wanted, and counts the others in `rejected`, by reason.

    unique: none that was accepted before.
    known: none that stands there.
    match: only texts in which this regular expression is found.
    min_length, max_length: only texts of so many characters (bytes, for a model of bytes).
    record_end: only records: neither empty, nor without their end, nor with this inside.
    all_alike: whether every text is the same, so that one that is rejected is the last.

    Raises UsageError for a wrong expression.
    """

    def __init__(
        self,
        unique: bool = False,
        known: KnownTexts | TextSet | None = None,
        match: str | None = None,
        min_length: int = 0,
        max_length: int | None = None,
        record_end: bytes = b"",
        all_alike: bool = False,
    ) -> None:
        self._accepted = TextSet() if unique else None
        self._known, self._record_end = known, record_end
        self._min_length, self._max_length = min_length, inf if max_length is None else max_length
        self._pattern = None if match is None else compiled(match)
        self._max_rejected = 1 if all_alike else MAX_REJECTED
        self.rejected: Counter[str] = Counter()
        self._in_a_row = 0

    def accepts(self, text: bytes, length: int, stopped: bool = True) -> bool:
        """Whether a text, UTF-8 or raw bytes, is wanted; `length` is that of its new part.

        stopped: whether a stop, or the end of a record, ended the text.

        Raises CharRNNError after MAX_REJECTED texts in a row; after one if all are alike.
        """
        reason = self._reason(text, length, stopped)
        if reason is None:
            self._in_a_row = 0
            return True
        self.rejected[reason] += 1
        self._in_a_row += 1
        if self._in_a_row >= self._max_rejected:
            raise self._error()
        return False

    def _error(self) -> CharRNNError:
        limit = "--length" if self._max_length == inf else "--max-length"
        longer = f"raise {limit}, " if "too long" in self.rejected else ""
        if self._max_rejected == 1:
            return CharRNNError(
                f"the most likely text is rejected ({self.describe()}): {longer}"
                "sample at a higher temperature, or omit a condition."
            )
        return CharRNNError(
            f"nothing new was found: {self._max_rejected:,} texts in a row were rejected "
            f"({self.describe()} in all); {longer}ask for fewer texts, or omit a condition."
        )

    def _reason(self, text: bytes, length: int, stopped: bool) -> str | None:
        """Why a text is not wanted, None if it is."""
        if self._record_end and not stopped:
            return "too long"
        if self._record_end and not text:
            return "empty"
        if self._record_end and self._record_end in text:
            return "with a separator inside"
        if length < self._min_length:
            return "too short"
        if length > self._max_length:
            return "too long"
        if self._pattern and not self._pattern.search(text.decode("utf-8", "surrogateescape")):
            return "without a match"
        if self._known is not None and text in self._known:
            return "known"
        if self._accepted is not None and not self._accepted.add(text):
            return "repeated"
        return None

    def log_rejected(self) -> None:
        """Tell the log how many texts were rejected, if any were."""
        if self.rejected:
            logging.getLogger("charrnn").info("texts rejected: %s.", self.describe())

    def describe(self) -> str:
        """The numbers of rejected texts: "12 repeated, 3 known"."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.rejected.items())


def compiled(match: str) -> re.Pattern[str]:
    """Compile a regular expression; UsageError if it is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(match)
    except (re.error, OverflowError, RecursionError) as error:
        shown = escape_unprintable(match[:60])
        raise UsageError(f"the regular expression '{shown}' is wrong: {error}.") from None
