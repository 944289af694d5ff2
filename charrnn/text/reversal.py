"""Texts read from their end to their beginning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FilePath
from .disk_ids import Ids, JoinedIds, store_ids
from .vocabulary import IdArray

Values = npt.NDArray[Any]
PIECE = 1 << 17  # ids reversed at a time


def reading_order(backward: bool) -> slice:
    """The slice that puts what a model reads or writes into the order in which people read it."""
    return slice(None, None, -1 if backward else 1)


def in_reading_order(values: Values, ids: Ids, record_end_id: int = -1) -> Values:
    """Values (n,) of what `reversed_ids(ids, record_end_id)` returns, in the order of `ids`."""
    if record_end_id < 0:
        return values[::-1]
    ordered = np.concatenate([values[:-1][::-1], values[-1:]])
    ends = np.asarray(ids) == record_end_id
    ordered[ends] = np.roll(ordered[ends], 1)  # each end stood after another record
    return ordered


def reversed_ids(ids: Ids, record_end_id: int = -1, folder: FilePath | None = None) -> Ids:
    """The ids of a text in reverse order, in a file of `folder` if there are many.

    Of records laid end to end, each still ends with `record_end_id`: the last record comes first.
    """
    if isinstance(ids, JoinedIds):
        size = len(ids.ids)
        parts = [(size - b, size - a) for a, b in reversed(ids.parts)]
        return JoinedIds(reversed_ids(ids.ids, record_end_id, folder), parts)
    return store_ids(_pieces(ids, record_end_id), ids.dtype, folder)


def _pieces(ids: Ids, record_end_id: int) -> Iterator[IdArray]:
    has_end = record_end_id >= 0 and len(ids) > 0
    for end in range(len(ids) - has_end, 0, -PIECE):
        yield np.ascontiguousarray(ids[max(0, end - PIECE) : end][::-1])
    if has_end:
        yield np.array([record_end_id], ids.dtype)
