"""Ids that are kept in a file and read part by part: a text of any length, in no memory."""

from __future__ import annotations

import copy
import errno
import os
import weakref
from typing import BinaryIO

import numpy as np

from ..errors import os_errors_as


class DiskIds:
    """Ids (n,) of `dtype` in a file, which stays open as long as they: `ids[a:b]` reads an array.

    They are not mapped: a map takes as much address space as the text is long, more than
    `ulimit -v` may allow, and a disk that fails under it ends the process without a word.
    """

    def __init__(self, file: BinaryIO, dtype: np.dtype) -> None:
        self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        self.dtype = np.dtype(dtype)
        self._start, self._count = 0, os.fstat(self._file).st_size // self.dtype.itemsize

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int | slice) -> np.ndarray:
        """The part as an array; steps other than 1 are not known. Raises CharRNNError."""
        if not isinstance(index, slice):
            return self[index : index + 1 or None][0]
        start, end, _ = index.indices(self._count)
        ids = np.empty(max(end - start, 0), self.dtype)
        with os_errors_as("cannot read back the text, which is kept in a temporary file"):
            _read_into(ids, self._file, (self._start + start) * self.dtype.itemsize)
        return ids

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def part(self, start: int, end: int) -> DiskIds:
        """The same as `ids[start:end]`, but nothing is read."""
        part = copy.copy(self)
        part._start, part._count = self._start + start, end - start
        part._whole = self  # which keeps the file open
        return part


def _read_into(array: np.ndarray, descriptor: int, offset: int) -> None:
    """Fill the array from there on."""
    left = memoryview(array).cast("B") if array.size else b""
    while left:
        data = os.pread(descriptor, min(len(left), 2**24), offset)
        if not data:
            raise OSError(errno.EIO, "it ends too soon")
        left[: len(data)] = data
        left, offset = left[len(data) :], offset + len(data)
