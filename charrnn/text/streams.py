"""Ids prepared for training: the validation split, the batch shape, the parallel streams."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..errors import CharRNNError, UsageError
from .disk_ids import DiskIds, Ids

MIN_CHUNKS = 4  # chunks that an epoch should have


def split(ids: Ids, val_fraction: float) -> tuple[Ids, Ids]:
    """Return (training ids, validation ids): the last floor(n * val_fraction) ids validate.

    A validation part of fewer than 2 ids predicts nothing: all ids are then for training. Raises
    UsageError for an impossible fraction.
    """
    if not 0 <= val_fraction < 1:
        raise UsageError(f"the validation fraction must be from 0 to below 1, not {val_fraction}.")
    num_val = math.floor(len(ids) * val_fraction)
    end = len(ids) - num_val if num_val >= 2 else len(ids)
    if isinstance(ids, DiskIds):
        return ids.part(0, end), ids.part(end, len(ids))
    return ids[:end], ids[end:]


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


class BatchStreams:
    """B parallel streams cut from `ids` (n,), read in chunks of T steps (truncated BPTT).

    Stream b is ids[b*S : b*S + S + 1] with S = (n - 1) // B. Chunk k + 1 continues chunk k in
    every stream. Each step predicts the next id. At most B - 1 steps at the end are unused.
    """

    def __init__(self, ids: Ids, batch_size: int, seq_length: int):
        self.batch_size, self.seq_length = batch_size, seq_length
        steps = (len(ids) - 1) // batch_size
        self._ids = ids
        self._offsets = [b * steps for b in range(batch_size)]  # of the streams in the ids
        self._starts = range(0, steps, seq_length)  # of the chunks in each stream
        self.num_chunks = len(self._starts)
        self.chars_per_epoch = steps * batch_size

    def chars_in_chunks(self, chunks: int) -> int:
        """Return the number of characters in the first `chunks` chunks, over all epochs."""
        epochs, k = divmod(chunks, self.num_chunks)
        return epochs * self.chars_per_epoch + k * self.seq_length * self.batch_size

    def chunk(self, k: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return inputs and targets (T, B) of chunk k; the last chunk may be shorter than T."""
        start = self._starts[k]
        steps = min(self.seq_length, self._starts.stop - start)
        ids = np.empty((steps + 1, self.batch_size), np.int32)
        for b, offset in enumerate(self._offsets):
            ids[:, b] = self._ids[offset + start : offset + start + steps + 1]
        return ids[:-1], ids[1:]
