"""The frequent n-grams of a training text, which a model looks up beside the single characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..arithmetic import ceil_div
from .disk_ids import Ids
from .vocabulary import IdArray

# The known n-grams of 2, 3, ... ids, an array (K, n) each. The first n - 1 ids of a known n-gram
# are a known n-gram, too.
NgramTable = tuple[npt.NDArray[np.int32], ...]

# An n-gram is known if the training text has it this often: its weights must be learned from these
# places, and a longer one shares its work with the shorter ones in it (tests/bench/LOG.md).
MIN_COUNTS = {2: 2, 3: 10, 4: 30}
MAX_NGRAMS = 1 << 14  # of one length
MAX_ORDER = max(MIN_COUNTS)  # ids of the longest n-grams
MAX_COUNTED = 1 << 23  # ids that are read, spread over a longer text
PIECE = 1 << 19  # ids counted at once
MAX_DISTINCT = 1 << 21  # different n-grams in memory; of more, the rarest are dropped


def count_ngrams(ids: Ids, vocab_size: int, order: int, record_end_id: int = -1) -> NgramTable:
    """Find the n-grams of 2 to `order` ids that `ids` (n,) has at least MIN_COUNTS times.

    Of each length, the MAX_NGRAMS most frequent are kept at most, in the order of their ids.
    None contains `record_end_id` but as its first id: it would reach over the end of a record.
    """
    levels: list[IdArray] = []  # of each length, the codes of its n-grams, see `_codes`; sorted
    table: list[npt.NDArray[np.int32]] = []
    prefixes = np.arange(vocab_size, dtype=np.int32)[:, None]
    for n in range(2, order + 1):
        codes, counts = _count(ids, n, levels, vocab_size, record_end_id)
        frequent = np.flatnonzero(counts >= MIN_COUNTS[n])
        order_of_counts = np.argsort(-counts[frequent], kind="stable")[:MAX_NGRAMS]
        codes = codes[np.sort(frequent[order_of_counts])]
        known = np.column_stack([prefixes[codes // vocab_size], codes % vocab_size])
        prefixes = known.astype(np.int32)
        levels.append(codes)
        table.append(prefixes)
    return tuple(table)


def check_ngrams(table: NgramTable, vocab_size: int, record_end_id: int = -1) -> None:
    """Raise ValueError for n-grams that `count_ngrams` cannot have returned."""
    if any((ngrams[:, 1:] == record_end_id).any() for ngrams in table):
        raise ValueError("one of its n-grams reaches over the end of a record")
    levels: list[IdArray] = []
    for ngrams in table:
        places = ngrams[:, 0].astype(np.int64)
        for n, level in enumerate(levels, 1):
            places = _places(places * vocab_size + ngrams[:, n], level)
        codes = places * vocab_size + ngrams[:, -1]
        valid = (ngrams >= 0).all() and (ngrams < vocab_size).all() and (places >= 0).all()
        if not valid or (np.diff(codes) <= 0).any():
            raise ValueError("its n-grams are not in order, or the beginning of one is unknown")
        levels.append(codes)


def _count(
    ids: Ids, n: int, levels: Sequence[IdArray], vocab_size: int, record_end_id: int
) -> tuple[IdArray, IdArray]:
    """The different codes of n-grams in `ids`, sorted, and how often each occurs."""
    codes, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for piece in _pieces(ids, n):
        found = _codes(piece, levels, vocab_size)[n - 1 :]
        within = piece[n - 1 :] != record_end_id  # the ids before are those of a known n-gram
        found, new = np.unique(found[(found >= 0) & within], return_counts=True)
        codes, places = np.unique(np.concatenate([codes, found]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([counts, new]), len(codes)).astype(np.int64)
        if len(codes) > MAX_DISTINCT:
            kept = np.sort(np.argsort(-counts, kind="stable")[: MAX_DISTINCT // 2])
            codes, counts = codes[kept], counts[kept]
    return codes, counts


def _pieces(ids: Ids, n: int) -> Iterator[IdArray]:
    """Parts of `ids` in order, MAX_COUNTED ids in all; each repeats the n - 1 ids before it."""
    num_pieces = ceil_div(len(ids), PIECE)
    num_read = min(num_pieces, MAX_COUNTED // PIECE)
    for k in range(num_read):
        start = k * num_pieces // num_read * PIECE
        yield np.asarray(ids[max(0, start - n + 1) : start + PIECE], np.int64)


def _codes(ids: IdArray, levels: Sequence[IdArray], vocab_size: int) -> IdArray:
    """The code of the n-gram that ends at each of `ids`, n = len(levels) + 2; -1 if its first
    n - 1 ids are not a known n-gram.

    The code of an n-gram is p * vocab_size + its last id. p is the place of its first n - 1 ids in
    `levels`, where single ids have their own number.
    """
    places = ids
    for level in levels:
        places = _places(_extended(places, ids, vocab_size), level)
    return _extended(places, ids, vocab_size)


def _places(codes: IdArray, level: IdArray) -> IdArray:
    """The place of each of `codes` in `level`, which is sorted; -1 for those missing there."""
    if not len(level):
        return np.full(len(codes), -1)
    places = np.minimum(np.searchsorted(level, codes), len(level) - 1)
    return np.where(level[places] == codes, places, -1)


def _extended(places: IdArray, ids: IdArray, vocab_size: int) -> IdArray:
    """The codes of the n-grams at `places`, each extended by the id after it; -1 where unknown."""
    before = np.concatenate([[-1], places[:-1]])
    return np.where(before >= 0, before * vocab_size + ids, -1)
