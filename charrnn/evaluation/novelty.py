"""Does a text copy another? Runs that stand in both, found without hashes: a match is a match.

After Karp, Miller & Rosenberg 1972: windows of one length are named, equal windows alike. A window
of twice the length, or of any length in between, is named by the pair of names of its first and
last half, which may overlap. Only what the text holds has a name; a window of the corpus that the
text lacks is -1. Each doubling is linear, and the corpus is looked up in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 16  # windows of the corpus looked up at a time
TABLE = 1 << 20  # pairs of names up to which a table is faster than a search


@dataclass(frozen=True)
class Novelty:
    """What a text has in common with a corpus."""

    length: int  # of the longest run that stands in both; 0: none
    start: int  # where in the text it first begins
    shares: dict[int, float]  # for each length, the share of the text in common runs so long


def novelty(
    text: np.ndarray, corpus: np.ndarray, lengths: tuple[int, ...] = (20, 50, 100)
) -> Novelty:
    """Compare text (n,) with corpus (N,), arrays of whole numbers from 0 that code them alike.

    Memory: 8 bytes a character of the corpus, about 60 a character of the text.
    """
    shares = dict.fromkeys(lengths, 0.0)
    names, width = _Names.of_characters(text, corpus), 1
    if not names.any():
        return Novelty(0, 0, shares)
    while True:
        for length in lengths:
            if width <= length < 2 * width:
                shares[length] = _share(names.copied(length - width), length, len(text))
        following = names.joined(width)
        if not following.any():
            return Novelty(*_longest(names, width), shares)
        names, width = following, 2 * width


def _longest(names: _Names, width: int) -> tuple[int, int]:
    """Length and start of the longest common run, known to be from width to below 2 width."""
    low, high, starts = width, 2 * width, names.copied(0)
    while high - low > 1:
        middle = (low + high) // 2
        copied = names.copied(middle - width)
        if len(copied):
            low, starts = middle, copied
        else:
            high = middle
    return low, int(starts[0])


def _share(starts: np.ndarray, length: int, total: int) -> float:
    """The share of `total` characters that lie in windows of `length` from `starts`."""
    edges = np.zeros(total + 1, np.int32)
    edges[starts] += 1
    edges[starts + length] -= 1
    return float(np.count_nonzero(edges.cumsum()) / total)


@dataclass(frozen=True)
class _Names:
    """The names, from 0 to below `count`, of all windows of one length."""

    text: np.ndarray  # (n,) int32
    corpus: np.ndarray  # (N,) int32, -1 where the text has no such window
    count: int

    @classmethod
    def of_characters(cls, text: np.ndarray, corpus: np.ndarray) -> _Names:
        found, names = np.unique(text, return_inverse=True)
        table = np.full(1 + max(text.max(initial=0), corpus.max(initial=0)), -1, np.int32)
        table[found] = np.arange(len(found))
        in_corpus = np.empty(len(corpus), np.int32)
        for start in range(0, len(corpus), BLOCK):
            in_corpus[start : start + BLOCK] = table[corpus[start : start + BLOCK]]
        return cls(names.astype(np.int32), in_corpus, len(found))

    def any(self) -> bool:
        """Whether text and corpus share a window."""
        return self.corpus.max(initial=-1) >= 0

    def joined(self, shift: int) -> _Names:
        """The names of windows longer by `shift`, at most their length."""
        pairs, names = self._pairs(shift)
        corpus = np.full(max(len(self.corpus) - shift, 0), -1, np.int32)
        for where, found in self._found(pairs, shift):
            corpus[where] = found
        return _Names(names, corpus, len(pairs))

    def copied(self, shift: int) -> np.ndarray:
        """Where in the text windows longer by `shift` begin that the corpus holds, ascending."""
        pairs, names = self._pairs(shift)
        held = np.zeros(len(pairs), bool)
        for _, found in self._found(pairs, shift):
            held[found] = True
        return np.flatnonzero(held[names])

    def _keys(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return first * np.int64(self.count) + second

    def _pairs(self, shift: int) -> tuple[np.ndarray, np.ndarray]:
        """The distinct pairs of names `shift` apart in the text, sorted, and which stands where."""
        n = max(len(self.text) - shift, 0)
        keys = self._keys(self.text[:n], self.text[shift : shift + n])
        pairs, names = np.unique(keys, return_inverse=True)
        return pairs, names.astype(np.int32)

    def _found(self, pairs: np.ndarray, shift: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Which windows of the corpus are among `pairs`, and which pairs they are, in blocks."""
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

    def _finder(self, pairs: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """A function of two arrays of names to the numbers of their pairs, -1 for none."""
        if self.count**2 <= TABLE:
            table = np.full(self.count**2, -1, np.int32)
            table[pairs] = np.arange(len(pairs))
            return lambda first, second: table[self._keys(first, second)]
        # Most names are followed by one other: it is tried first, a search is for the rest.
        ends = np.searchsorted(pairs, np.arange(self.count + 1) * self.count).astype(np.int32)
        guesses = np.where(ends[1:] > ends[:-1], ends[:-1], len(pairs)).astype(np.int32)
        followers = np.append(pairs % self.count, -1).astype(np.int32)
        branching = ends[1:] - ends[:-1] > 1

        def find(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            found = guesses[first]
            wrong = followers[found] != second
            found[wrong] = -1
            rest = np.flatnonzero(wrong & branching[first])
            keys = self._keys(first[rest], second[rest])
            places = np.searchsorted(pairs, keys)
            places[places == len(pairs)] = 0
            found[rest] = np.where(pairs[places] == keys, places, -1)
            return found

        return find
