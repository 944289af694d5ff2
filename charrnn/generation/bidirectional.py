"""Filling a gap from both sides, with a model that reads forwards and one that reads backwards.

Each model's beam search proposes half of a fill, from its side; the halves meet in the middle. The
forward model ranks the fills, so that the backward one changes only which of them are considered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

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
from .primes import ReadPrime, read_primes

REACH = 32  # ids after a gap that the backward model reads
READ_AHEAD = 64  # gaps whose ids are read together
SHARE = 4  # the search from each side has the width of the beam divided by this


class BidirectionalFiller(GapFiller):
    """A GapFiller that fills single gaps from both sides, with fewer hypotheses at each.

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
        self._half_width = ceil_div(width, SHARE)
        self._right = GapFiller(backward, self._half_width, allowed[self._forward_ids])

    def likeliest(self, place: Place, to_end: bool = False) -> Fills:
        """The fills that both searches find, the likeliest first, as of GapFiller."""
        gap, *others = place.template
        if others or not isinstance(gap, Gap) or place.right is None:
            return super().likeliest(place, to_end)
        left = begun(self._first(place.state, place.last, 1), gap)
        lefts = self._lengthened(left, gap.most - gap.most // 2, self._half_width)
        rights = self._right_halves(place.right, gap.most // 2)
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

    def read_ahead(self, texts: Iterable[Ids]) -> Iterator[ReadPrime]:
        """Read the beginning of the text after each gap, some texts together."""
        start, texts = self._backward.start.first, iter(texts)
        while some := list(islice(texts, READ_AHEAD)):
            read = [start.prepend(self._backward_ids[ids[:REACH]][::-1]) for ids in some]
            primes = [ids if len(ids) else np.zeros(1, np.int32) for ids in read]
            yield from read_primes(self._backward, primes, start.states.repeat(len(primes)))

    def _right_halves(self, read: ReadPrime, count: int) -> list[tuple[Ids, Scores]]:
        """For each length up to `count`, right halves (N, length) and their scores (N,)."""
        first = self._right._first(read.state, int(read.ids[-1]), 1)
        halves = []
        for length, beam in enumerate(self._right._lengthened(first, count, self._half_width)):
            reverse = np.array(beam.fills, np.int32).reshape(len(beam.fills), length)
            halves.append((self._forward_ids[reverse[:, ::-1]], beam.scores))
        return halves

    def _met(self, left: Beam, right: tuple[Ids, Scores]) -> Beam:
        """The likeliest fills of a left half and a right half, read by the forward model.

        A pair is as likely as both halves, and as the right half's first id after the left half.
        """
        ids, scores = right
        if not ids.shape[1]:
            return left
        log_p, state = self._step(left)
        pairs = left.scores[:, None] + log_p[:, ids[:, 0]] + scores
        rows, columns = np.divmod(likeliest(pairs, self._half_width), len(scores))
        beam = left.extended(rows, ids[columns, 0], state, log_p, self._log_q(log_p))
        for i in ids[columns, 1:].T:
            log_p, state = self._step(beam)
            beam = beam.extended(np.arange(len(i)), i, state, log_p, self._log_q(log_p))
        return beam.select(likeliest(beam.scores + scores[columns], self._half_width))
