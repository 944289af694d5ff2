"""The n-grams that a model knows, as the hash table in which kernels find their rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..text.ngrams import NgramTable
from .kernels.ngrams import EMPTY, find_rows, insert


class NgramIndex:
    """Maps n-grams to rows of the input table: id i has row i, then come the n-grams of `table`.

    The key of an n-gram is r * vocab_size + its last id, where r is the row of its first n - 1 ids.
    `keys` and `rows` are a hash table with open addressing.
    """

    def __init__(self, table: NgramTable, vocab_size: int) -> None:
        self.table, self.vocab_size = table, vocab_size
        self.size = sum(map(len, table))
        capacity = 1 << (2 * self.size + 1).bit_length()  # at most half full
        self.keys = np.full(capacity, EMPTY, np.int64)
        self.rows = np.zeros(capacity, np.int32)
        first_row = vocab_size
        for ngrams in table:
            prefixes = self.rows_of(ngrams[:, :-1]).astype(np.int64)
            insert(prefixes * vocab_size + ngrams[:, -1], first_row, self.keys, self.rows)
            first_row += len(ngrams)

    def rows_of(self, ngrams: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The rows (K,) of n-grams (K, n); -1 for unknown ones."""
        count, n = ngrams.shape
        if n == 1:
            return ngrams[:, 0].astype(np.int32)
        ids = np.full((2 * n - 1, count), -1, np.int32)
        ids[n - 1 :] = ngrams.T
        found = np.empty((n, count, n - 1), np.int32)
        find_rows(ids, self.vocab_size, self.keys, self.rows, found, n, 0, count)
        rows: npt.NDArray[np.int32] = found[-1, :, -1]
        return rows
