"""Novelty of a text: the runs of characters that also occur in a corpus.

No hashes are used, so that there are no false matches. After Karp, Miller & Rosenberg 1972: the
windows of one length get names, and equal windows get the same name. The name of a window of up to
twice the length follows from the names of its first and last part, which may overlap. Only windows
of the text have names; a window of the corpus that the text lacks is -1. Each doubling of the
length takes linear time, and windows of the corpus are looked up in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..text.corpus import Corpus
from ..text.vocabulary import Vocabulary, code_points

BLOCK = 1 << 16  # windows of the corpus looked up at a time
TABLE = 1 << 20  # maximum number of pairs of names for which a table is faster than a search

Finder = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Novelty:
    """The common runs of a text and a corpus."""

    length: int  # of the longest common run; 0 if there is none
    start: int  # its first position in the text
    fractions: dict[int, float]  # by minimum length: fraction of the text in common runs


def compare(texts: Sequence[str], corpus: Corpus) -> tuple[Novelty, str]:
    """Compare texts with a corpus; return the result and the longest common run.

    A run lies within one text and one file of the corpus; `start` counts the characters of all
    texts. If the corpus was read as bytes, the texts are bytes decoded as Latin-1.
    """
    unknown = len(corpus.vocabulary)
    encoded = [_encode(text, corpus.vocabulary) for text in texts]
    ids = np.insert(np.concatenate(encoded), np.cumsum(list(map(len, encoded)))[:-1], unknown + 1)
    result = novelty(ids, _separated(corpus, unknown + 2), separator=unknown + 1)
    return result, "".join(texts)[result.start : result.start + result.length]


def _separated(corpus: Corpus, separator: int) -> np.ndarray:
    """The ids of a corpus with an id that no text has between its files."""
    ids: np.ndarray = corpus.ids[:]
    if len(corpus.file_starts) == 1:
        return ids
    ids = ids.astype(np.promote_types(ids.dtype, np.min_scalar_type(separator)), copy=False)
    return np.insert(ids, corpus.file_starts[1:], separator)


def _encode(text: str, vocabulary: Vocabulary) -> np.ndarray:
    """The ids (n,) of a text; the id len(vocabulary) for characters that the vocabulary lacks."""
    known = code_points(vocabulary.symbols(np.arange(len(vocabulary))))
    points = code_points(text)
    ids = np.full(max(known.max(initial=0), points.max(initial=0)) + 1, len(known), np.int32)
    ids[known] = np.arange(len(known))
    found: np.ndarray = ids[points]
    return found


def novelty(
    text: np.ndarray,
    corpus: np.ndarray,
    lengths: tuple[int, ...] = (20, 50, 100),
    separator: int = -1,
) -> Novelty:
    """Compare text (n,) with corpus (N,), arrays of codes from 0, and find their common runs.

    `lengths` are the minimum lengths of runs for which fractions of the text are returned.
    `separator` is a code that the corpus lacks; it is not counted as text.
    The memory needed is 8 bytes per character of the corpus and about 60 per character of the
    text.
    """
    fractions = dict.fromkeys(lengths, 0.0)
    num_chars = np.count_nonzero(text != separator)
    names, width = _Names.of_characters(text, corpus), 1
    if not names.any():
        return Novelty(0, 0, fractions)
    while True:
        for length in lengths:
            if width <= length < 2 * width:
                fractions[length] = (
                    _num_covered(names.copied(length - width), length, len(text)) / num_chars
                )
        doubled = names.joined(width)
        if not doubled.any():
            length, start = _longest(names, width)
            num_separators = int(np.count_nonzero(text[:start] == separator))
            return Novelty(length, start - num_separators, fractions)
        names, width = doubled, 2 * width


def _longest(names: _Names, width: int) -> tuple[int, int]:
    """Length and first start of the longest common run, which is in range(width, 2 * width)."""
    low, high, starts = width, 2 * width, names.copied(0)
    while high - low > 1:
        middle = (low + high) // 2
        copied = names.copied(middle - width)
        if len(copied):
            low, starts = middle, copied
        else:
            high = middle
    return low, int(starts[0])


def _num_covered(starts: np.ndarray, length: int, total: int) -> int:
    """How many of `total` characters lie in windows of `length` from `starts`."""
    edges = np.zeros(total + 1, np.int32)
    edges[starts] += 1
    edges[starts + length] -= 1
    return int(np.count_nonzero(edges.cumsum()))


@dataclass(frozen=True)
class _Names:
    """The names, in range(count), of all windows of one length."""

    text: np.ndarray  # (n,) int32
    corpus: np.ndarray  # (N,) int32, -1 where the text has no such window
    count: int

    @classmethod
    def of_characters(cls, text: np.ndarray, corpus: np.ndarray) -> _Names:
        distinct, names = np.unique(text, return_inverse=True)
        table = np.full(1 + max(text.max(initial=0), corpus.max(initial=0)), -1, np.int32)
        table[distinct] = np.arange(len(distinct))
        in_corpus = np.empty(len(corpus), np.int32)
        for start in range(0, len(corpus), BLOCK):
            in_corpus[start : start + BLOCK] = table[corpus[start : start + BLOCK]]
        return cls(names.astype(np.int32), in_corpus, len(distinct))

    def any(self) -> bool:
        """Whether text and corpus share a window."""
        return bool(self.corpus.max(initial=-1) >= 0)

    def joined(self, shift: int) -> _Names:
        """The names of windows that are `shift` longer; at most, twice as long."""
        pairs, names = self._pairs(shift)
        corpus = np.full(max(len(self.corpus) - shift, 0), -1, np.int32)
        for windows, found in self._occurrences(pairs, shift):
            corpus[windows] = found
        return _Names(names, corpus, len(pairs))

    def copied(self, shift: int) -> np.ndarray:
        """The starts, ascending, of windows of the text, `shift` longer, that the corpus has."""
        pairs, names = self._pairs(shift)
        occurs = np.zeros(len(pairs), bool)
        for _, found in self._occurrences(pairs, shift):
            occurs[found] = True
        return np.flatnonzero(occurs[names])

    def _keys(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        keys: np.ndarray = first * np.int64(self.count) + second
        return keys

    def _pairs(self, shift: int) -> tuple[np.ndarray, np.ndarray]:
        """The sorted distinct pairs of names `shift` apart in the text, and the pair of each."""
        n = max(len(self.text) - shift, 0)
        keys = self._keys(self.text[:n], self.text[shift : shift + n])
        pairs, names = np.unique(keys, return_inverse=True)
        return pairs, names.astype(np.int32)

    def _occurrences(
        self, pairs: np.ndarray, shift: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, in blocks, the windows of the corpus that are among `pairs`, and their pairs."""
        n = max(len(self.corpus) - shift, 0) if len(pairs) else 0
        find = self._finder(pairs)
        for start in range(0, n, BLOCK):
            first = self.corpus[start : min(start + BLOCK, n)]
            second = self.corpus[start + shift : start + shift + len(first)]
            where = np.flatnonzero((first >= 0) & (second >= 0))
            if len(where):
                found = find(first[where], second[where])
                hits = found >= 0
                yield start + where[hits], found[hits]

    def _finder(self, pairs: np.ndarray) -> Finder:
        """Return a function from two arrays of names to the indices of their pairs, -1 for none."""
        if self.count**2 <= TABLE:
            return self._table_finder(pairs)
        return self._search_finder(pairs)

    def _table_finder(self, pairs: np.ndarray) -> Finder:
        table = np.full(self.count**2, -1, np.int32)
        table[pairs] = np.arange(len(pairs))

        def find(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            found: np.ndarray = table[self._keys(first, second)]
            return found

        return find

    def _search_finder(self, pairs: np.ndarray) -> Finder:
        # Most names are followed by only one other. That one is tried first; only the rest are
        # searched.
        ends = np.searchsorted(pairs, np.arange(self.count + 1) * self.count).astype(np.int32)
        guesses = np.where(ends[1:] > ends[:-1], ends[:-1], len(pairs)).astype(np.int32)
        followers = np.append(pairs % self.count, -1).astype(np.int32)
        branching = ends[1:] - ends[:-1] > 1

        def find(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            found: np.ndarray = guesses[first]
            wrong = followers[found] != second
            found[wrong] = -1
            rest = np.flatnonzero(wrong & branching[first])
            keys = self._keys(first[rest], second[rest])
            places = np.searchsorted(pairs, keys)
            places[places == len(pairs)] = 0
            found[rest] = np.where(pairs[places] == keys, places, -1)
            return found

        return find
