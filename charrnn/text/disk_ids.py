"""Ids in a file, read part by part: a text of any length takes no memory. Parts read as one."""

from __future__ import annotations

import copy
import errno
import os
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..errors import FilePath, os_errors_as
from . import spool
from .vocabulary import IdArray

READ_BYTES = 1 << 24  # bytes per read; Linux reads at most 2 GB at a time


class DiskIds:
    """Ids (n,) of `dtype` in a file that stays open while this object or a part of it exists.

    `ids[a:b]` reads an array. The file is not memory-mapped: a map takes as much address space as
    the text is long, which `ulimit -v` may forbid, and a disk error under it kills the process
    without a message.
    """

    def __init__(self, file: IO[bytes], dtype: npt.DTypeLike) -> None:
        self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        self.dtype = np.dtype(dtype)
        self._start, self._count = 0, os.fstat(self._file).st_size // self.dtype.itemsize
        self._owner: DiskIds | None = None  # keeps the file open while a part exists

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int | slice) -> Any:
        """Read one id, or a slice of step 1 as an array.

        Raises CharRNNError when the file cannot be read.
        """
        if not isinstance(index, slice):
            return self[index : index + 1 or None][0]
        start, end, _ = index.indices(self._count)
        ids = np.empty(max(end - start, 0), self.dtype)
        with os_errors_as("cannot read back the text, which is in a temporary file"):
            _read_into(ids, self._file, (self._start + start) * self.dtype.itemsize)
        return ids

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> IdArray:
        ids: IdArray = self[:]
        return ids.astype(dtype or self.dtype, copy=False)

    def part(self, start: int, end: int) -> DiskIds:
        """Return `ids[start:end]` without reading it."""
        part = copy.copy(self)
        part._start, part._count = self._start + start, end - start
        part._owner = self
        return part


class JoinedIds:
    """The ids `ids[a:b]` for each (a, b) of `parts`, end to end, without reading them."""

    def __init__(self, ids: Ids, parts: Sequence[tuple[int, int]]) -> None:
        self.ids, self.parts = ids, [(a, b) for a, b in parts if a < b]
        self._starts = [0, *accumulate(b - a for a, b in self.parts)]  # of the parts, and the end
        self.dtype: np.dtype[Any] = ids.dtype

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int | slice) -> Any:
        """Read one id, or a slice of step 1 as an array."""
        if not isinstance(index, slice):
            return self[index : index + 1 or None][0]
        start, end, _ = index.indices(len(self))
        found = [np.empty(0, self.dtype)]
        k = bisect_right(self._starts, start) - 1
        while start < end:
            (a, _), first = self.parts[k], self._starts[k]
            stop = min(end, self._starts[k + 1])
            found.append(self.ids[a + start - first : a + stop - first])
            start, k = stop, k + 1
        return np.concatenate(found[1:] or found)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> IdArray:
        ids: IdArray = self[:]
        return ids.astype(dtype or self.dtype, copy=False)


Ids = IdArray | DiskIds | JoinedIds  # the ids of a text, in memory or in a file


def store_ids(arrays: Iterable[IdArray], dtype: np.dtype[Any], folder: FilePath | None) -> Ids:
    """Join arrays of ids of `dtype` into one, read-only, in a file of `folder` if it is large."""
    with spool.spooled((ids.data for ids in arrays), folder) as file:
        if file.tell() > spool.SMALL_BYTES:
            return DiskIds(file, dtype)
        file.seek(0)
        return np.frombuffer(file.read(), dtype)


def _read_into(array: IdArray, descriptor: int, offset: int) -> None:
    """Fill `array` with the bytes of the file from `offset` on."""
    buffer = array.view(np.uint8).data
    while buffer:
        data = os.pread(descriptor, min(len(buffer), READ_BYTES), offset)
        if not data:
            raise OSError(errno.EIO, "it ends too soon")
        buffer[: len(data)] = data
        buffer, offset = buffer[len(data) :], offset + len(data)
