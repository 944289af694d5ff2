"""Filling the gaps of a whole text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import NamedTuple, TypeVar

import numpy as np

from ..network.carried_state import CarriedState
from ..network.model import Model
from ..text.gaps import Gap, Piece
from ..text.vocabulary import Vocabulary
from .bidirectional import REACH, BidirectionalFiller
from .filling import CONTEXT, Fill, Fills, GapFiller, Ids, Place, parts
from .primes import ReadPrime, states_after

Part = TypeVar("Part")  # of a text: a str, or ids
Group = str | list[Piece]  # text without a gap; or gaps, and short texts between them


class FilledGap(NamedTuple):
    """A possible fill of a gap, or of near gaps with the text between them.

    text: what fills it; bytes that are not UTF-8 are escaped (surrogateescape).
    log_probability: of `text` after the text before it, in nats.
    posterior: its probability given the text on both sides, if it is one of those found.
    """

    text: str
    log_probability: float
    posterior: float


@dataclass
class TextFiller:
    """Fills gaps from left to right; gaps with at most CONTEXT ids between them together.

    A text starts from the one state of `start`, before the id `first_id`. allowed: mask (V,) of the
    ids that may fill a gap. width: of the beam. backward, backward_ids: of a second model, see
    BidirectionalFiller.
    """

    model: Model
    vocabulary: Vocabulary
    start: CarriedState
    first_id: int
    allowed: np.ndarray
    width: int
    backward: Model | None = None
    backward_ids: Ids | None = None

    def __post_init__(self) -> None:
        how = self.model, self.width, self.allowed
        self._filler = GapFiller(*how)
        if self.backward is not None and self.backward_ids is not None:
            self._filler = BidirectionalFiller(*how, self.backward, self.backward_ids)

    def likeliest(self, pieces: Sequence[Piece], count: int) -> Iterator[str | list[FilledGap]]:
        """Yield the text, with the `count` likeliest fills of each gap, the likeliest first.

        Later gaps are filled as if the likeliest stood in the earlier ones.
        """
        return self._filled(pieces, count, self._filler.likeliest)

    def draw(
        self, pieces: Sequence[Piece], rng: np.random.Generator, temperature: float
    ) -> Iterator[str | list[FilledGap]]:
        """Yield the text, with one fill of each gap, drawn from its posterior."""
        return self._filled(pieces, 1, lambda place: self._filler.draw(place, rng, temperature))

    def _filled(
        self, pieces: Sequence[Piece], count: int, fill: Callable[[Place], Fills]
    ) -> Iterator[str | list[FilledGap]]:
        state, last, before = self.start, self.first_id, ""
        groups = list(self._groups(pieces))
        followed = list(zip(groups, [*groups[1:], ""], strict=False))
        known = self._known(followed)
        for group, following in followed:
            if isinstance(group, str):
                yield group
                ids, before = self._ids(group), group
            else:
                template = [p if isinstance(p, Gap) else self._ids(p) for p in group]
                context, right = next(known)
                whole = self.vocabulary.is_bytes and not _is_cut(before, group, str(following))
                found = fill(Place(state, last, template, context, right, whole))
                yield self._shown(group, found, count)
                ids = np.concatenate(_joined(template, found.fills[0], _as_ids))
            ids = np.concatenate([[last], ids]).astype(np.int32)
            state, last = states_after(self.model, [ids[:-1]], state), int(ids[-1])

    def _known(
        self, followed: Sequence[tuple[Group, Group]]
    ) -> Iterator[tuple[Ids, ReadPrime | None]]:
        """The context after each group of gaps, and what a backward model has read of the text."""
        groups = ((group[-1], after) for group, after in followed if not isinstance(group, str))
        afters = (self._after(piece, after)[: max(CONTEXT, REACH)] for piece, after in groups)
        if not isinstance(self._filler, BidirectionalFiller):
            return ((after[:CONTEXT], None) for after in afters)
        to_show, to_read = tee(afters)
        contexts = (after[:CONTEXT] for after in to_show)
        return zip(contexts, self._filler.read_ahead(to_read), strict=True)

    def _groups(self, pieces: Sequence[Piece]) -> Iterator[Group]:
        """Put gaps together that have at most CONTEXT ids between them."""
        group: list[Piece] = []
        for k, piece in enumerate(pieces):
            is_gap = isinstance(piece, Gap)
            is_between = not is_gap and group and k + 1 < len(pieces)
            if is_gap or (is_between and len(self._ids(str(piece))) <= CONTEXT):
                group.append(piece)
                continue
            if group:
                yield group
                group = []
            yield str(piece)
        if group:
            yield group

    def _after(self, gap: Piece, following: Group) -> Ids:
        """The ids that are known after a gap, up to the end of a record.

        At the end of a text, a gap whose length is not known is filled up to the end of the line.
        """
        ids, end_id = self._ids(str(following)), self.model.config.record_end_id
        if end_id >= 0:  # nothing depends on the next record
            ends = np.flatnonzero(ids == end_id)
            return ids[: ends[0] + 1] if len(ends) else np.append(ids, end_id).astype(np.int32)
        newline = self.vocabulary.newline_id
        if not len(ids) and isinstance(gap, Gap) and gap.least < gap.most and newline >= 0:
            return np.array([newline], np.int32)
        return ids

    def _ids(self, text: str) -> Ids:
        """The ids of a text; unknown characters are skipped, and CR LF is a newline."""
        if self.vocabulary.unknown("\r"):
            text = text.replace("\r\n", "\n")
        return self.vocabulary.encode(text, "skip").astype(np.int32)

    def _shown(self, group: Sequence[Piece], found: Fills, count: int) -> list[FilledGap]:
        rows = zip(found.fills[:count], found.own, found.posterior(), strict=False)
        return [
            FilledGap("".join(_joined(group, fill, self._text)), float(score), float(p))
            for fill, score, p in rows
        ]

    def _text(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode(ids, "surrogateescape")


def _is_cut(before: str, group: Sequence[Piece], after: str) -> bool:
    """Whether a gap cuts a UTF-8 character: its other bytes beside the gap are no character."""
    between = "".join(piece for piece in group if isinstance(piece, str))
    return any("\udc80" <= c <= "\udcff" for c in before[-1:] + between + after[:1])


def _as_ids(ids: list[int]) -> Ids:
    return np.array(ids, np.int32)


def _joined(
    pieces: Sequence[Part | Gap], fill: Fill, convert: Callable[[list[int]], Part]
) -> list[Part]:
    """The pieces, with the converted parts of `fill` instead of the gaps."""
    filled = iter(parts(fill))
    return [convert(next(filled)) if isinstance(p, Gap) else p for p in pieces]
