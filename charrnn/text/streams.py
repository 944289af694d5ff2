"""Ids prepared for training: the validation split, the batch shape, the parallel streams."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..errors import CharRNNError, FilePath, UsageError
from .disk_ids import DiskIds, Ids
from .shuffling import shuffled
from .vocabulary import IdArray

MIN_CHUNKS = 4  # chunks that an epoch should have


def split(ids: Ids, val_fraction: float) -> tuple[Ids, Ids]:
    """Return (training ids, validation ids): the last floor(n * val_fraction) ids validate.

    A validation part of fewer than 2 ids predicts nothing: all ids are then for training. Raises
    UsageError for an impossible fraction.
    """
    check_fraction(val_fraction)
    num_val = math.floor(len(ids) * val_fraction)
    return cut(ids, len(ids) - num_val if num_val >= 2 else len(ids))


def check_fraction(val_fraction: float) -> None:
    """Raise UsageError for an impossible validation fraction."""
    if not 0 <= val_fraction < 1:
        raise UsageError(f"the validation fraction must be from 0 to below 1, not {val_fraction}.")


def cut(ids: Ids, place: int) -> tuple[Ids, Ids]:
    """Return the ids before and from `place` on, without reading those on disk."""
    if isinstance(ids, DiskIds):
        return ids.part(0, place), ids.part(place, len(ids))
    return ids[:place], ids[place:]


def clamp_batch_shape(num_train_ids: int, batch_size: int, seq_length: int) -> tuple[int, int]:
    """Return (batch_size, seq_length), reduced where the text is too short for them.

    An epoch should have MIN_CHUNKS chunks or more. The batch is reduced first, which lengthens its
    streams, then the sequence. Raises CharRNNError for fewer than 2 ids.
    """
    if num_train_ids < 2:
        raise CharRNNError(
            "the training text is too short: at least 2 characters are needed, "
            f"{num_train_ids} found; give a longer text or a smaller --val-fraction."
        )
    steps = num_train_ids - 1
    batch_size = min(batch_size, max(1, steps // (MIN_CHUNKS * seq_length)))
    seq_length = min(seq_length, max(1, steps // batch_size // MIN_CHUNKS))
    return batch_size, seq_length


Chunk = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]


class BatchStreams:
    """B parallel streams cut from `ids` (n,), read in chunks of T steps (truncated BPTT).

    Stream b is ids[b*S : b*S + S + 1] with S = (n - 1) // B. Chunk k + 1 continues chunk k in
    every stream. Each step predicts the next id. At most B - 1 steps at the end are unused.
    """

    is_ordered = True  # whether every epoch reads the text in the order that it has
    _unpredicted = 1  # ids of the text that are no target

    def __init__(self, ids: Ids, batch_size: int, seq_length: int):
        self.batch_size, self.seq_length = batch_size, seq_length
        steps = (len(ids) - self._unpredicted) // batch_size
        self._ids = ids
        self._offsets = [b * steps for b in range(batch_size)]  # of the streams in the ids
        self._starts = range(0, steps, seq_length)  # of the chunks in each stream
        self.num_chunks = len(self._starts)
        self.chars_per_epoch = steps * batch_size

    def chars_in_chunks(self, chunks: int) -> int:
        """Return the number of characters in the first `chunks` chunks, over all epochs."""
        epochs, k = divmod(chunks, self.num_chunks)
        return epochs * self.chars_per_epoch + k * self.seq_length * self.batch_size

    def chunk(self, k: int, epoch: int = 0) -> Chunk:
        """Return inputs and targets (T, B) of chunk k; the last chunk may be shorter than T.

        All epochs have the same chunks.
        """
        start = self._starts[k]
        steps = min(self.seq_length, self._starts.stop - start)
        ids = np.empty((steps + 1, self.batch_size), np.int32)
        for b, offset in enumerate(self._offsets):
            ids[:, b] = self._read(offset + start, steps + 1)
        return ids[:-1], ids[1:]

    def _read(self, first: int, count: int) -> IdArray:
        ids: IdArray = self._ids[first : first + count]
        return ids


class RecordStreams(BatchStreams):
    """B parallel streams of records, which each epoch reads in another random order.

    `ids` (n,) are records laid end to end, each followed by `end_id`. Every stream has n // B
    steps, none of them padding. It begins with the end id before a record near its place in the
    shuffled ids, b * n // B, so that few records per epoch are left out, cut or read twice; between
    very long records, it begins within one. The order of an epoch depends on `seed` alone. Shuffled
    ids go to `folder` if there are many.
    """

    is_ordered = False
    _unpredicted = 0

    def __init__(
        self,
        ids: Ids,
        batch_size: int,
        seq_length: int,
        *,
        end_id: int,
        seed: int,
        folder: FilePath | None = None,
    ) -> None:
        super().__init__(ids, batch_size, seq_length)
        self._records, self._end_id, self._seed, self._folder = ids, end_id, seed, folder
        self._epoch = -1  # whose order `_ids` has

    def chunk(self, k: int, epoch: int = 0) -> Chunk:
        """Return inputs and targets (T, B) of chunk k of an epoch."""
        if epoch != self._epoch:
            self._shuffle(epoch)
        return super().chunk(k)

    def _shuffle(self, epoch: int) -> None:
        """Put the ids into the order of an epoch, and find the starts of the streams."""
        self._ids = np.empty(0, self._records.dtype)  # free the order before
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(epoch,)))
        self._ids = shuffled(self._records, self._end_id, rng, self._folder)
        steps = self._starts.stop
        self._offsets = [self._first_end(b * steps, steps // 4) for b in range(self.batch_size)]
        self._epoch = epoch

    def _first_end(self, place: int, limit: int) -> int:
        """The position of the end id before the first record from `place` on.

        If this record begins more than `limit` ids later, the position before `place`.
        """
        ends = np.flatnonzero(self._read(place - 1, limit + 1) == self._end_id)
        return place - 1 + int(ends[0] if len(ends) else 0)

    def _read(self, first: int, count: int) -> IdArray:
        """Read ids; after the last one comes the first."""
        first %= len(self._ids)
        ids = super()._read(first, count)
        return ids if len(ids) == count else np.concatenate([ids, self._ids[: count - len(ids)]])
