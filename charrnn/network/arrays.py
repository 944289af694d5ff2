"""Aligned arrays, and memory that several stacks share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

CACHE_LINE = 64  # bytes


def zeros(shape: Shape, dtype: npt.DTypeLike) -> Array:
    """np.zeros, aligned to a cache line: a vector load across two lines costs two."""
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.zeros(num_bytes + CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE
    array: Array = buffer[start : start + num_bytes].view(dtype).reshape(shape)
    return array


class Workspace:
    """Memory for arrays that a stack needs within one call, shared by stacks that take turns.

    The first stack decides its size. Every stack lays out its arrays from the start, so each one
    overwrites what the others left there.
    """

    def __init__(self, dtype: npt.DTypeLike = np.float32) -> None:
        self._buffer = zeros((0,), dtype)

    @property
    def nbytes(self) -> int:
        return self._buffer.nbytes

    def arrays(self, *shapes: Shape) -> list[Array]:
        """An uninitialised array per shape, laid out end to end; see the class.

        An array for which the workspace is too small gets memory of its own.
        """
        if not self._buffer.size:
            self._buffer = zeros((sum(map(math.prod, shapes)),), self._buffer.dtype)
        arrays, start = [], 0
        for shape in shapes:
            end = start + math.prod(shape)
            if end > self._buffer.size:
                arrays.append(zeros(shape, self._buffer.dtype))
            else:
                arrays.append(self._buffer[start:end].reshape(shape))
                start = end
        return arrays
