"""Novelty of a list: how many of its records stand in a corpus, and how many stand there twice.

Records are compared by hashes of 64 bits, of which only those of the list are in memory: a list of
a million records finds a false match among ten million with a probability of 10^-6.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np

from ..text.corpus import Corpus

BLOCK = 1 << 16  # records compared, or characters split, at a time
SHORT = 20  # characters: shorter records hold no run that `novelty` counts
MIN_RECORDS = 10  # of a text that is taken for a list
NUM_EXAMINED = 10_000  # first records by which a text is taken for a list


@dataclass(frozen=True)
class RecordNovelty:
    """Counts of the records of a list."""

    records: int
    different: int  # the number of different ones
    repeated: int  # those that stand more than once in the list
    in_corpus: int  # those that stand in the corpus


def compare_records(records: Iterable[str], corpus: Iterable[str]) -> RecordNovelty:
    """Compare the records of a list with those of a corpus."""
    blocks = [np.empty(0, np.int64), *_hashes(records)]
    found, counts = np.unique(np.concatenate(blocks), return_counts=True)
    is_copied = np.zeros(len(found) + 1, bool)  # the last is for hashes above all of the list
    for block in _hashes(corpus):
        places = np.searchsorted(found, block)
        hits = np.append(found, 0)[places] == block
        is_copied[places[hits]] = True
    return RecordNovelty(
        records=int(counts.sum()),
        different=len(found),
        repeated=int(counts[counts > 1].sum()),
        in_corpus=int(counts[is_copied[:-1]].sum()),
    )


def corpus_records(corpus: Corpus, separator: str = "\n") -> Iterator[str]:
    """Yield the records of each file of a corpus as symbols, see `split_records`."""
    separator = corpus.vocabulary.to_symbols(separator)
    for start, end in pairwise((*corpus.file_starts, len(corpus.ids))):
        places = range(start, end, BLOCK)
        pieces = (corpus.vocabulary.symbols(corpus.ids[i : min(i + BLOCK, end)]) for i in places)
        yield from split_records(pieces, separator)


def split_records(pieces: Iterable[str], separator: str = "\n") -> Iterator[str]:
    """Yield the records of a text that arrives in pieces, without `separator` and empty ones.

    A carriage return before a newline belongs to the line end.
    """
    for record in _split(iter(pieces), separator):
        record = record.removesuffix("\r") if separator == "\n" else record
        if record:
            yield record


def is_list(records: Iterable[str]) -> bool:
    """Whether a text is a list of short records, judged by the first ones."""
    lengths = [len(record) for record in islice(records, NUM_EXAMINED)]
    return len(lengths) >= MIN_RECORDS and sorted(lengths)[len(lengths) // 2] < SHORT


def _split(pieces: Iterator[str], separator: str) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        missing, parts = len(rest), [rest, piece]
        while missing > 0 and (more := next(pieces, "")):  # so that a long record takes linear time
            parts.append(more)
            missing -= len(more)
        *records, rest = "".join(parts).split(separator)
        yield from records
    yield rest


def _hashes(records: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield the hashes of records in blocks; they differ from process to process."""
    records = iter(records)
    while block := list(islice(records, BLOCK)):
        yield np.fromiter(map(hash, block), np.int64, len(block))
