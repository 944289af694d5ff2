"""Filling a gap from both sides, with a model that reads forwards and one that reads backwards.

Each model's beam search proposes half of a fill, from its side; the halves meet in the middle. The
forward model ranks the fills, so that the backward one changes only which of them are considered.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..arithmetic import ceil_div
from ..network.model import Model
from ..text.gaps import Gap
from .beam_search import likeliest
from .filling import (
    Beam,
    Fills,
    GapFiller,
    Ids,
    Place,
    Scores,
    begun,
    fills_per_length,
    is_whole,
    ranked,
    whole_rows,
)
from .primes import read_primes

REACH = 32  # ids after a gap that the backward model reads
PAIRS = 4  # pairs of halves that the forward model reads, times the hypotheses at each side


class BidirectionalFiller(GapFiller):
    """A GapFiller that fills single gaps from both sides, with half of the hypotheses at each.

    backward: the model that reads backwards. backward_ids: its ids (V,) of the forward ids.
    """

    def __init__(
        self,
        model: Model,
        width: int,
        allowed: npt.NDArray[np.bool_],
        backward: Model,
        backward_ids: Ids,
    ) -> None:
        super().__init__(model, width, allowed)
        self._backward, self._backward_ids = backward, backward_ids
        self._forward_ids = np.argsort(backward_ids).astype(np.int32)
        self._half_width = ceil_div(width, 2)
        self._right = GapFiller(backward, self._half_width, allowed[self._forward_ids])

    def likeliest(self, place: Place, to_end: bool = False) -> Fills:
        """The fills that both searches find, the likeliest first, as of GapFiller."""
        gap, *others = place.template
        if others or not isinstance(gap, Gap):
            return super().likeliest(place, to_end)
        left = begun(self._first(place.state, place.last, 1), gap)
        lefts = self._lengthened(left, gap.most - gap.most // 2, self._half_width)
        rights = self._right_halves(place.following, gap.most // 2)
        beams = [
            self._met(lefts[length - length // 2], rights[length // 2])
            for length in range(gap.least, gap.most + 1)
        ]
        beam = Beam.joined([beam.first(fills_per_length(gap)) for beam in beams])
        if place.whole:
            beam = beam.select(whole_rows(beam.fills))
            if not is_whole(beam.fills[0]):  # halves that are cut in a character do not fit
                return super().likeliest(place, to_end)
        return ranked(self._read(beam, place.context, to_end))

    def _right_halves(self, following: Ids, count: int) -> list[tuple[Ids, Scores]]:
        """For each length up to `count`, right halves (N, length) and their scores (N,)."""
        start = self._backward.start.first
        read = self._backward_ids[following[:REACH]][::-1]
        ids = start.prepend(read)
        if not len(ids):
            ids = np.zeros(1, np.int32)
        [prime] = read_primes(self._backward, [ids], start.states)
        first = self._right._first(prime.state, int(prime.ids[-1]), 1)
        halves = []
        for length, beam in enumerate(self._right._lengthened(first, count, self._half_width)):
            reverse = np.array(beam.fills, np.int32).reshape(len(beam.fills), length)
            halves.append((self._forward_ids[reverse[:, ::-1]], beam.scores))
        return halves

    def _met(self, left: Beam, right: tuple[Ids, Scores]) -> Beam:
        """The likeliest fills of a left half and a right half, read by the forward model.

        A pair is as likely as both halves; then also as the right half is after the left one.
        """
        ids, scores = right
        places = likeliest(left.scores[:, None] + scores, PAIRS * self._half_width)
        rows, columns = np.divmod(places, len(scores))
        beam, ids = left.select(rows), ids[columns]
        for i in ids.T:
            log_p, state = self._step(beam)
            beam = beam.extended(np.arange(len(i)), i, state, log_p, self._log_q(log_p))
        return beam.select(likeliest(beam.scores + scores[columns], self._half_width))
