"""The training and the validation text of a corpus."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..errors import CharRNNError, FilePath
from .corpus import Corpus
from .disk_ids import Ids, JoinedIds
from .records import RecordSplit, count_copies, hash_records, require_different, split_records
from .reversal import reversed_ids
from .shuffling import shuffled
from .streams import check_fraction, cut, split

MAX_MOVED = 256  # ids by which a validation text begins earlier, to begin with a line


class TextSplit(NamedTuple):
    """The training and the validation text, and of records, their numbers."""

    train_ids: Ids
    val_ids: Ids
    records: RecordSplit | None = None

    def reversed(self, record_end_id: int, folder: FilePath | None = None) -> TextSplit:
        """Both texts from their end to their beginning, see `reversed_ids`."""
        train_ids, val_ids, records = self
        return TextSplit(
            reversed_ids(train_ids, record_end_id, folder),
            reversed_ids(val_ids, record_end_id, folder),
            records,
        )


def split_corpus(
    corpus: Corpus,
    val_fraction: float,
    seed: int = 0,
    first_val_file: int | None = None,
    folder: FilePath | None = None,
) -> TextSplit:
    """Split a corpus. The files from number `first_val_file` on validate, if it is given.

    Otherwise `val_fraction` of the text validates: of records, some that `seed` chooses at random;
    of other texts, the end of each file, as JoinedIds if there are several. Temporary files go to
    `folder`. Raises CharRNNError for an empty side and for records that are all the same.
    """
    check_fraction(val_fraction)
    if corpus.record_end_id >= 0:
        return _split_records(corpus, val_fraction, seed, first_val_file, folder)
    if first_val_file is not None:
        return TextSplit(*_cut_before(corpus, first_val_file))
    if len(corpus.file_starts) == 1:
        return TextSplit(*split(corpus.ids, val_fraction))
    return TextSplit(*_split_files(corpus, val_fraction))


def _split_records(
    corpus: Corpus,
    val_fraction: float,
    seed: int,
    first_val_file: int | None,
    folder: FilePath | None,
) -> TextSplit:
    end_id = corpus.record_end_id
    if first_val_file is None:
        found = split_records(corpus.ids, end_id, val_fraction, seed, folder)
    else:
        train_ids, val_ids = _cut_before(corpus, first_val_file)
        hashes, val_hashes = (hash_records(i, end_id, seed, folder) for i in (train_ids, val_ids))
        require_different(hashes)
        counts = len(hashes), len(val_hashes), count_copies(hashes)
        found = RecordSplit(train_ids, val_ids, *counts)
    # Where validation reads a part of the text only, its beginning, this has to be a random one.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, 0)))
    return TextSplit(found.train_ids, shuffled(found.val_ids, end_id, rng, folder), found)


def _cut_before(corpus: Corpus, first_val_file: int) -> tuple[Ids, Ids]:
    """The ids of the files before `first_val_file`, and of the others."""
    end = [*corpus.file_starts, len(corpus.ids)][first_val_file]
    train_ids, val_ids = cut(corpus.ids, end)
    contents = "record" if corpus.record_end_id >= 0 else "text"
    for ids, name in (train_ids, "training"), (val_ids, "validation"):
        if len(ids) == 0:
            raise CharRNNError(f"there is no {contents} in the {name} file: give another file.")
    return train_ids, val_ids


def _split_files(corpus: Corpus, val_fraction: float) -> tuple[Ids, Ids]:
    """Cut off the end of each file, about `val_fraction` of it, where a line begins if possible."""
    train, val = [], []
    for start, end in pairwise([*corpus.file_starts, len(corpus.ids)]):
        num_val = math.floor((end - start) * val_fraction)
        place = end - num_val
        if num_val:
            place = _line_start(corpus, place, min(num_val, MAX_MOVED, place - start - 1))
        train.append((start, place))
        val.append((place, end))
    val_ids = JoinedIds(corpus.ids, val)
    if len(val_ids) < 2:  # it predicts nothing
        return corpus.ids, val_ids[:0]
    return JoinedIds(corpus.ids, train), val_ids


def _line_start(corpus: Corpus, place: int, limit: int) -> int:
    """The last start of a line among the `limit` ids before `place`, else `place`."""
    first = place - limit
    ends = np.flatnonzero(corpus.ids[first:place] == corpus.vocabulary.newline_id)
    return first + int(ends[-1]) + 1 if len(ends) else place
