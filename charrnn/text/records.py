"""Records: texts that do not depend on each other, laid end to end, each followed by one end id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import CharRNNError, FilePath, UsageError, escape_unprintable
from .disk_ids import Ids, store_ids
from .vocabulary import MAX_SEPARATOR, SEPARATOR, IdArray, Vocabulary

NEWLINE = "\n"  # the usual separator
PIECE = 1 << 17  # ids read at a time; they and their hashes fit the L2 cache
MAX_COUNTED = 1 << 22  # hashes that are compared to count copies; of more, a part is compared

Hashes = npt.NDArray[np.uint64]

_RETURNS = re.compile("\r+\n")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.?))", re.DOTALL)


def parse_separator(text: str) -> str:
    r"""Return the separator that a user typed: \n, \r, \t, \0, \\, \xHH and \uHHHH are escapes.

    Raises UsageError for an empty one and for another escape.
    """

    def character(match: re.Match[str]) -> str:
        digits = match[1] or match[2]
        if digits is None and match[3] not in _ESCAPES:
            raise UsageError(
                f"the separator has an unknown escape, {escape_unprintable(match[0])}: give "
                r"\n, \r, \t, \0, \\, \xHH or \uHHHH."
            )
        return chr(int(digits, 16)) if digits else _ESCAPES[match[3]]

    if not text:
        raise UsageError("an empty separator would end a record before it begins.")
    return _ESCAPE.sub(character, text)


def check_separator(separator: str, as_bytes: bool) -> None:
    """Raise UsageError for a separator that cannot be one id."""
    if as_bytes and not (len(separator) == 1 and separator < "\u0100"):
        raise UsageError(
            f"a separator of bytes is one byte, not '{escape_unprintable(separator)}': give one "
            r"such as \n, \0 or \xff."
        )
    if len(separator) > MAX_SEPARATOR:
        raise UsageError(f"a separator has at most {MAX_SEPARATOR:,} characters.")


def end_id_of(vocabulary: Vocabulary, separator: str) -> int:
    """The id of `separator`; -1 if the vocabulary has none."""
    symbol = separator if len(separator) == 1 else SEPARATOR
    return int(vocabulary.look_up(symbol)[0])


def separator_of(vocabulary: Vocabulary, end_id: int) -> str:
    """The string that ends the records of a model, whose end id is `end_id`."""
    symbol = vocabulary.symbols([end_id])
    return vocabulary.separator if symbol == SEPARATOR else symbol


class RecordFilter:
    """Takes the chunks of a text; returns the same records, each followed by `separator`.

    Empty records are left out unless `keep_empty`; `num_empty` counts them. The last record of a
    file may lack its separator. With line feeds as separators, carriage returns before one are left
    out. No chunk that is returned ends within a separator.
    """

    def __init__(self, separator: str, keep_empty: bool = False) -> None:
        self._separator, self._keep_empty = separator, keep_empty
        self._held = ""  # the end of the text so far, which may be a part of a separator
        self._is_open = False  # whether a part of the current record has been returned
        self.num_empty = 0

    def feed(self, chunk: str) -> str:
        """Return what is certain after the next chunk; it may be empty."""
        text = self._held + chunk
        if self._separator == NEWLINE and "\r\n" in text:
            text = _RETURNS.sub(NEWLINE, text)
        *records, rest = text.split(self._separator)
        if "" in records and not self._keep_empty:
            records = self._without_empty(records)
        end = len(rest) - self._held_length(rest)
        self._is_open = end > 0 or (self._is_open and self._separator not in text)
        self._held = rest[end:]
        return self._separator.join([*records, rest[:end]])

    def finish(self) -> str:
        """Return the end of the last record of a file: what is held back, and its separator."""
        rest, self._held = self._held, ""
        if self._separator == NEWLINE:
            rest = rest.rstrip("\r")
        is_open, self._is_open = self._is_open or bool(rest), False
        return rest + self._separator if is_open else ""

    def _without_empty(self, records: list[str]) -> list[str]:
        """The records but the empty ones; the first may be the end of an open record."""
        first = records[:1] if self._is_open else []
        kept = first + [record for record in records[len(first) :] if record]
        self.num_empty += len(records) - len(kept)
        return kept

    def _held_length(self, rest: str) -> int:
        """The length of the end of `rest` that may be the beginning of a separator."""
        if self._separator == NEWLINE:
            return len(rest) - len(rest.rstrip("\r"))
        lengths = range(min(len(self._separator) - 1, len(rest)), 0, -1)
        return next((n for n in lengths if rest.endswith(self._separator[:n])), 0)


def filter_text_files(
    files: Iterable[Iterable[str]], records: RecordFilter
) -> Iterator[Iterator[str]]:
    """The files as chunks that hold whole separators and no empty record."""
    for chunks in files:
        yield filter(None, _filtered(chunks, records))


def filter_byte_files(
    files: Iterable[Iterable[bytes]], records: RecordFilter
) -> Iterator[Iterator[bytes]]:
    """The same for bytes."""
    for chunks in files:
        texts = _filtered((str(chunk, "latin-1") for chunk in chunks), records)
        yield (text.encode("latin-1") for text in texts if text)


def _filtered(chunks: Iterable[str], records: RecordFilter) -> Iterator[str]:
    for chunk in chunks:
        yield records.feed(chunk)
    yield records.finish()


def whole_records(text: str | bytes, separator: str) -> str | bytes:
    """The records of a text that are not empty, each with its separator."""
    records = RecordFilter(separator)
    if isinstance(text, bytes):
        return b"".join(*filter_byte_files([[text]], records))
    return records.feed(text) + records.finish()


class RecordSplit(NamedTuple):
    """Records of which some are held out; both parts are ids laid end to end."""

    train_ids: Ids
    val_ids: Ids
    num_train: int  # records
    num_val: int
    num_copies: int  # records that repeat an earlier one; an estimate for more than MAX_COUNTED


def split_records(
    ids: Ids, end_id: int, val_fraction: float, seed: int, folder: FilePath | None
) -> RecordSplit:
    """Hold out about `val_fraction` of the different records of `ids`, chosen at random by `seed`.

    Copies of a record are on the same side. With a fraction above 0, at least one record is held
    out and one is not. The order stays. Temporary files go to `folder`. Raises CharRNNError unless
    two records differ.
    """
    hashes = hash_records(ids, end_id, seed, folder)
    limit = _limit(hashes, val_fraction)
    train_ids, val_ids = (
        store_ids(_selected(ids, end_id, hashes, is_val, limit), ids.dtype, folder)
        for is_val in (False, True)
    )
    num_val = sum(int(np.count_nonzero(part < limit)) for part in _parts(hashes))
    return RecordSplit(train_ids, val_ids, len(hashes) - num_val, num_val, count_copies(hashes))


def hash_records(ids: Ids, end_id: int, seed: int, folder: FilePath | None) -> Ids:
    """Return a hash (R,) uint64 of each record of `ids`, which is uniform over the seeds."""
    pieces = record_pieces(ids, end_id)
    hashes = (record_hashes(piece, ends, seed) for piece, ends in pieces)
    return store_ids(hashes, np.dtype(np.uint64), folder)


def require_different(hashes: Ids) -> None:
    """Raise CharRNNError unless two of the records with these `hashes` differ."""
    if all((part == hashes[0]).all() for part in _parts(hashes)):
        if len(hashes) == 1:
            raise CharRNNError(
                "the text is a single record: give more records, or name what ends one with "
                "--separator."
            )
        raise CharRNNError(
            f"the {len(hashes):,} records are all the same: there is nothing to learn, give "
            "another text."
        )


def count_copies(hashes: Ids) -> int:
    """Count the records that repeat an earlier one; estimated from a part of very many."""
    num_parts = 1 << max(0, (len(hashes) - 1) // MAX_COUNTED).bit_length()
    limit = np.uint64((1 << 64) // num_parts - 1)
    part = np.concatenate([part[part <= limit] for part in _parts(hashes)])
    part.sort()  # np.unique is ten times as slow
    return num_parts * int(np.count_nonzero(part[1:] == part[:-1]))


def record_pieces(ids: Ids, end_id: int, size: int = PIECE) -> Iterator[tuple[IdArray, IdArray]]:
    """Cut `ids`, which end with `end_id`, into pieces (n,) of whole records, of about `size` ids.

    Each comes with the positions (R,) after the ends of its records.
    """
    start = 0
    while start < len(ids):
        length = size
        while True:  # a long record needs a longer piece
            piece = np.asarray(ids[start : start + length])
            ends = np.flatnonzero(piece == end_id) + 1
            if len(ends):
                break
            length *= 2
        yield piece[: ends[-1]], ends
        start += int(ends[-1])


def record_hashes(ids: IdArray, ends: IdArray, seed: int) -> Hashes:
    """The hashes (R,) of records that end before positions `ends` (R,) of `ids`.

    A hash is the sum of a random number for each id and its position in the record.
    """
    starts = np.concatenate([[0], ends[:-1]])
    positions = np.arange(len(ids)) - np.repeat(starts, ends - starts)
    key = mix(np.array([seed % (1 << 64)], np.uint64) + _STEP)
    values = positions.astype(np.uint64) * _STEP + key
    values ^= ids.astype(np.uint64) << np.uint64(40)
    return mix(np.add.reduceat(mix(values), starts))


# SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators").
_STEP = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def mix(values: Hashes) -> Hashes:
    for shift, factor in _ROUNDS:
        values = values ^ (values >> np.uint64(shift))
        values *= np.uint64(factor)
    return values


def _limit(hashes: Ids, fraction: float) -> np.uint64:
    """The limit below which hashes are of records that are held out."""
    require_different(hashes)
    least = min(int(part.min()) for part in _parts(hashes))
    most = max(int(part.max()) for part in _parts(hashes))
    limit = int(fraction * 2.0**64)
    return np.uint64(min(max(limit, least + 1), most) if fraction else 0)


def _selected(
    ids: Ids, end_id: int, hashes: Ids, is_val: bool, limit: np.uint64
) -> Iterator[IdArray]:
    """The ids of the records whose hash is below `limit`, or of the others."""
    done = 0
    for piece, ends in record_pieces(ids, end_id):
        chosen = (hashes[done : done + len(ends)] < limit) == is_val
        yield piece[np.repeat(chosen, np.diff(ends, prepend=0))]
        done += len(ends)


def _parts(hashes: Ids) -> Iterator[Hashes]:
    return (hashes[start : start + PIECE] for start in range(0, len(hashes), PIECE))
