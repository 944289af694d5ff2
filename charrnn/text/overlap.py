"""How much of a validation text also stands in its training text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..arithmetic import ceil_div
from .disk_ids import Ids
from .records import Hashes, mix, record_hashes, record_pieces

RUN = 50  # characters of a run
MAX_VAL = 500_000  # ids of the validation text that are looked for, from its start
MAX_SEARCHED = 1 << 24  # ids of the training text that are searched, spread over a longer one
PIECE = 1 << 18  # ids searched at a time
TABLE_BITS = 22  # a table of so many bits of each hash tells most that are not looked for

_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))  # modulo 2^64


def share_of_known_records(train_ids: Ids, val_ids: Ids, end_id: int) -> float:
    """The share of the records of `val_ids` that are also in `train_ids`; `end_id` ends records.

    Of very long texts, a part is compared, and the share is at least this.
    """
    wanted = np.concatenate([*_record_hashes(_head(val_ids), end_id), np.empty(0, np.uint64)])
    found = _found(wanted, (h for part in _parts(train_ids) for h in _record_hashes(part, end_id)))
    return found / max(1, len(wanted))


def share_of_known_runs(train_ids: Ids, val_ids: Ids) -> float:
    """The share of the runs of RUN ids, one after the other, of `val_ids` that `train_ids` have.

    Of very long texts, a part is compared, and the share is at least this.
    """
    wanted = _run_hashes(_head(val_ids))[::RUN]
    return _found(wanted, map(_run_hashes, _parts(train_ids))) / max(1, len(wanted))


def _head(ids: Ids) -> np.ndarray:
    return np.asarray(ids[:MAX_VAL])


def _parts(ids: Ids) -> Iterator[np.ndarray]:
    """Parts of the ids, MAX_SEARCHED in all; each repeats the end of the one before."""
    num_parts = ceil_div(len(ids), PIECE)
    num_read = min(num_parts, MAX_SEARCHED // PIECE)
    for k in range(num_read):
        start = k * num_parts // num_read * PIECE
        yield np.asarray(ids[max(0, start - RUN + 1) : start + PIECE])


def _record_hashes(ids: np.ndarray, end_id: int) -> Iterator[Hashes]:
    """The hashes of the records that end in `ids`; the first may be the end of one."""
    ends = np.flatnonzero(ids == end_id)
    whole = ids[: ends[-1] + 1] if len(ends) else ids[:0]
    return (record_hashes(piece, ends, 0) for piece, ends in record_pieces(whole, end_id))


def _run_hashes(ids: np.ndarray) -> Hashes:
    """The hash of each run of RUN ids: a polynomial modulo 2^64 in random numbers of the ids."""
    if len(ids) < RUN:
        return np.empty(0, np.uint64)
    powers, inverse = (np.multiply.accumulate(np.full(len(ids), b)) for b in (_BASE, _INVERSE))
    sums = np.cumsum(mix(ids.astype(np.uint64) + np.uint64(1)) * powers)
    sums[RUN:] -= sums[:-RUN].copy()
    return mix(sums[RUN - 1 :] * inverse[: len(ids) - RUN + 1])


def _found(wanted: Hashes, searched: Iterator[Hashes]) -> int:
    """How many of `wanted` are among `searched`."""
    distinct, counts = np.unique(wanted, return_counts=True)
    table = np.zeros(1 << TABLE_BITS, bool)
    shift = np.uint64(64 - TABLE_BITS)
    table[distinct >> shift] = True
    is_found = np.zeros(len(distinct), bool)
    for hashes in searched:
        hashes = hashes[table[hashes >> shift]]
        places = np.minimum(np.searchsorted(distinct, hashes), max(0, len(distinct) - 1))
        is_found[places[distinct[places] == hashes]] = True
    return int(counts[is_found].sum())
