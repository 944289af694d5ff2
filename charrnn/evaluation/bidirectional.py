"""Surprisals given all characters on both sides, from a forward and a backward model.

p(c | before, after) is taken to be proportional to p(c | before) p(c | after) / p(c), which holds
if the two sides are independent given the character (a product of experts).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..network.model import Model
from .loss import StreamingScorer

WARM_UP = 256  # ids after a block that the backward model reads before it

Scores = npt.NDArray[np.float64]


class BidirectionalScorer:
    """Scores blocks of a text, from its beginning, as StreamingScorer does.

    forward, backward: models that read in these directions; a text in ids of the forward one is
        read by the backward one as `backward_ids[ids]`, (V,).
    log_prior: the logarithm (V,) of how frequent each character is.
    """

    def __init__(
        self,
        forward: Model,
        backward: Model,
        backward_ids: npt.NDArray[np.int32],
        log_prior: Scores,
        top: int = 0,
    ) -> None:
        self._forward, self._backward = StreamingScorer(forward, top), backward
        self._backward_ids, self._log_prior = backward_ids, log_prior

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The type of scores, as of StreamingScorer."""
        return self._forward.dtype

    def read(self, ids: npt.NDArray[np.integer], start: int, end: int) -> npt.NDArray[np.void]:
        """Score ids[start:end] of a text `ids`; blocks must be read in order."""
        block = ids[start:end]
        log_p = self._log_p(self._forward.distributions(block)) - self._log_prior
        log_p += self._log_p(self._after(ids, start, end))
        log_p -= np.logaddexp.reduce(log_p, axis=1, keepdims=True)
        return self._forward.scored(np.exp(log_p), block)

    def _after(self, ids: npt.NDArray[np.integer], start: int, end: int) -> Scores:
        """The probabilities (end - start, V) of ids[start:end] given the ids after them."""
        read = self._backward_ids[ids[start : end + WARM_UP]][::-1]
        known = int(np.array_equal(read[:1], self._backward.start.ids))  # a line end at the end
        unpredicted = np.full((known, len(self._backward_ids)), np.nan)
        p = StreamingScorer(self._backward).distributions(read[known:])
        p = np.concatenate([unpredicted, p])[::-1]
        return p[: end - start, self._backward_ids]

    def _log_p(self, p: Scores) -> Scores:
        """The logarithm of distributions (n, V); one that is not known is the prior."""
        with np.errstate(divide="ignore"):
            return np.where(np.isnan(p), self._log_prior, np.log(p))
