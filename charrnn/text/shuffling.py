"""Records in random order, in memory that does not grow with the text."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np

from ..arithmetic import ceil_div
from ..errors import FilePath, os_errors_as
from . import spool
from .disk_ids import DiskIds, Ids, store_ids
from .records import PIECE, record_pieces
from .vocabulary import IdArray

BUCKET_BYTES = 1 << 22  # of ids that are shuffled in memory
MAX_BUCKETS = 256  # files that are open at a time; the buckets of a very long text are larger


def shuffled(ids: Ids, end_id: int, rng: np.random.Generator, folder: FilePath | None) -> Ids:
    """Return the records of `ids`, which end with `end_id`, in an order that `rng` draws.

    A long text goes to temporary files in `folder`: each record to a random one of several, which
    are then shuffled one by one. Every order is as likely as any other.
    """
    num_bytes = len(ids) * ids.dtype.itemsize
    if num_bytes <= spool.SMALL_BYTES:
        return store_ids(_permuted(np.asarray(ids), end_id, rng), ids.dtype, folder)
    num_buckets = min(MAX_BUCKETS, ceil_div(num_bytes, BUCKET_BYTES))
    with contextlib.ExitStack() as stack, os_errors_as("cannot shuffle the records"):
        name = os.fsdecode(folder) if folder else None
        files = [stack.enter_context(tempfile.TemporaryFile(dir=name)) for _ in range(num_buckets)]
        _deal(ids, end_id, rng, files)
        buckets = (DiskIds(file, ids.dtype)[:] for file in files)
        parts = (part for bucket in buckets for part in _permuted(bucket, end_id, rng))
        return store_ids(parts, ids.dtype, folder)


def _deal(ids: Ids, end_id: int, rng: np.random.Generator, files: Sequence[IO[bytes]]) -> None:
    """Write each record to a random one of `files`."""
    for piece, ends in record_pieces(ids, end_id, size=8 * PIECE):
        places = rng.integers(len(files), size=len(ends))
        order = np.argsort(places, kind="stable")
        dealt = np.concatenate(list(_gathered(piece, ends, order)))
        sizes = np.bincount(places, np.diff(ends, prepend=0), len(files)).astype(int)
        for file, part in zip(files, np.split(dealt, np.cumsum(sizes)[:-1]), strict=True):
            file.write(part.data)
    for file in files:
        file.flush()


def _permuted(ids: IdArray, end_id: int, rng: np.random.Generator) -> Iterator[IdArray]:
    """The records of `ids` in random order, in parts."""
    ends = np.flatnonzero(ids == end_id) + 1
    return _gathered(ids, ends, rng.permutation(len(ends)))


def _gathered(ids: IdArray, ends: IdArray, order: IdArray) -> Iterator[IdArray]:
    """The records that end before positions `ends` (R,) of `ids`, in `order` (R,), in parts."""
    starts = np.concatenate([[0], ends[:-1]])
    at_once = max(1, PIECE * len(ends) // max(1, len(ids)))  # records
    for first in range(0, len(order), at_once):
        chosen = order[first : first + at_once]
        sizes = ends[chosen] - starts[chosen]
        before = np.cumsum(sizes) - sizes
        places = np.arange(sizes.sum()) + np.repeat(starts[chosen] - before, sizes)
        yield ids[places]
