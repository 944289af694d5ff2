"""Cross-entropy of a text under a mixture of models, in nats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import CharRNNError
from ..network.mixture import MixedModel
from ..text.disk_ids import Ids
from .loss import StreamingScorer

Nats = npt.NDArray[np.float64]


def mixed_surprisals(parts: Sequence[MixedModel], ids: Ids) -> Iterator[Nats]:
    """Yield -log p of each of `ids` (n,), ids in the mixture, in nats, in arrays of up to 256.

    It is NaN where one of the models does not predict, see `surprisals`.
    """
    scorers = [StreamingScorer(part.model) for part in parts]
    steps = min(scorer.steps for scorer in scorers)
    for start in range(0, len(ids), steps):
        chunk = ids[start : start + steps]
        log_p = [
            part.log_weight - _surprisals(part, scorer, chunk)
            for part, scorer in zip(parts, scorers, strict=True)
        ]
        with np.errstate(invalid="ignore"):  # NaN in, NaN out
            nats = -np.logaddexp.reduce(log_p, axis=0)
        yield nats


def _surprisals(part: MixedModel, scorer: StreamingScorer, ids: Ids) -> Nats:
    """The surprisals (n,) of the next `ids` under one model, infinite for those it cannot write."""
    nats, inputs = np.full(len(ids), np.inf), part.inputs[ids]
    read = inputs >= 0
    nats[read] = scorer.read(inputs[read])["nats"]
    return np.where(part.ids[ids] < 0, np.inf, nats)


def mixed_loss(
    parts: Sequence[MixedModel], ids: Ids, progress: Callable[[int], object] | None = None
) -> tuple[int, float]:
    """Return how many of `ids` are predicted, and their mean surprisal in nats.

    `progress` and errors are those of `mean_loss`.
    """
    count, total = 0, 0.0
    for nats in mixed_surprisals(parts, ids):
        count += int(np.count_nonzero(~np.isnan(nats)))
        total += np.nansum(nats)
        if progress is not None:
            progress(len(nats))
    if count == 0:
        raise CharRNNError("the text is too short to measure: at least two characters are needed.")
    return count, float(total / count)
