"""Filling gaps with what the text around them makes likely.

A model that reads forwards gives the exact posterior of a fill up to a constant: the probability of
the fill after the text before it, times that of the text after it. To rank fills by that product is
the best that such models do (Berglund et al. 2015). A beam search proposes the fills.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..network.carried_state import CarriedState
from ..network.model import Model
from ..network.stack import Stack
from ..text.gaps import Gap
from ..text.utf8 import MAX_BYTES, begun_character, is_utf8, next_bytes
from .beam_search import likeliest, log_probabilities
from .primes import ReadPrime

CONTEXT = 12  # ids after a gap that rank its fills; more hardly change the ranking
UNPRUNED = 4  # ids of the context after which fills of different lengths can be compared
MARGIN = 5.0  # nats below the best, from which a fill is dropped then
MAX_FILLS = 1 << 12  # hypotheses of all lengths together; their states may take 30 MB
MAX_ROWS = 256  # hypotheses that are read together; their states fill the cache
CHAIN = 256  # proposals of a Markov chain, whose last state is the draw
SEPARATOR = -1  # between the gaps of a fill

Ids = npt.NDArray[np.int32]
Rows = npt.NDArray[np.intp]
Scores = npt.NDArray[np.float64]
Fill = tuple[int, ...]  # the ids of the gaps, with SEPARATOR between two of them


class Place(NamedTuple):
    """Where gaps are: the one-row state before the id `last`, and what follows that id.

    template: gaps, and at most CONTEXT ids between two of them. context: the ids after the last gap
    that rank fills, at most CONTEXT. right: the text after the last gap, as a backward model has
    read it, if there is one. whole: whether ids are bytes and each gap is filled with whole UTF-8
    characters, if any fit.
    """

    state: CarriedState
    last: int
    template: Sequence[Gap | Ids]
    context: Ids
    right: ReadPrime | None = None
    whole: bool = False


class Fills(NamedTuple):
    """Fills (N,) of the gaps of a template.

    scores: the log-probability (N,) of each, with all of the template that was read; fills are
        compared after the same ids.
    own: that of the gaps and the ids between them.
    log_q: that of drawing its characters forwards, without regard to the text after a gap.
    """

    fills: list[Fill]
    scores: Scores
    own: Scores
    log_q: Scores

    def posterior(self, temperature: float = 1.0) -> Scores:
        """The probability (N,) of each fill, if it is one of these."""
        scaled = (self.scores - self.scores.max()) / temperature
        p: Scores = np.exp(scaled)
        p /= p.sum()
        return p

    def select(self, rows: Rows) -> Fills:
        fills = [self.fills[row] for row in rows]
        return Fills(fills, self.scores[rows], self.own[rows], self.log_q[rows])

    @staticmethod
    def joined(one: Fills, other: Fills) -> Fills:
        arrays = (np.concatenate(pair) for pair in zip(one[1:], other[1:], strict=True))
        return Fills(one.fills + other.fills, *arrays)


class Beam(NamedTuple):
    """N hypotheses: the state of each before its `last` id (N,) is read, and a Fills."""

    state: CarriedState
    last: Ids
    scores: Scores
    own: Scores
    log_q: Scores
    fills: list[Fill]

    def select(self, rows: Rows) -> Beam:
        return Beam(
            self.state.select(rows.tolist()),
            self.last[rows],
            self.scores[rows],
            self.own[rows],
            self.log_q[rows],
            [self.fills[row] for row in rows],
        )

    def first(self, count: int) -> Beam:
        """The first `count` hypotheses, the likeliest if they are in order."""
        return self.select(np.arange(min(count, len(self.fills))))

    def extended(
        self, rows: Rows, ids: Rows, state: CarriedState, log_p: Scores, log_q: Scores
    ) -> Beam:
        """The hypotheses of `rows`, each with another id (N,), whose score is in log_p (N, V)."""
        scores = self.scores[rows] + log_p[rows, ids]
        return Beam(
            state.select(rows.tolist()),
            ids.astype(np.int32),
            scores,
            scores,
            self.log_q[rows] + log_q[rows, ids],
            [(*self.fills[row], int(i)) for row, i in zip(rows, ids, strict=True)],
        )

    @staticmethod
    def joined(beams: Sequence[Beam]) -> Beam:
        states, last, scores, own, log_q, fills = zip(*beams, strict=True)
        return Beam(
            CarriedState.joined(states),
            np.concatenate(last),
            np.concatenate(scores),
            np.concatenate(own),
            np.concatenate(log_q),
            sum(fills, []),
        )


class GapFiller:
    """Fills the gaps of templates with ids `allowed`, (V,) bool.

    width: the hypotheses of a beam at each length.
    """

    def __init__(self, model: Model, width: int, allowed: npt.NDArray[np.bool_]) -> None:
        self._model, self._width, self._allowed = model, width, allowed
        self._stacks: dict[tuple[int, int], Stack] = {}  # by rows and steps

    def likeliest(self, place: Place, to_end: bool = False) -> Fills:
        """The fills that the beam search finds, the likeliest first.

        to_end: read all of the context, even if one fill remains.
        """
        beam = self._first(place.state, place.last, 1)
        for item in place.template:
            if isinstance(item, Gap):
                beam = self._search(beam, item, place.whole)
            else:
                beam = self._read(beam, item)
        return ranked(self._read(beam, place.context, to_end))

    def draw(self, place: Place, rng: np.random.Generator, temperature: float = 1.0) -> Fills:
        """Draw a fill from its posterior to the power of 1 / temperature; it is the first returned.

        It is the last state of a Markov chain (independence Metropolis, Tierney 1994), which
        begins with a draw from the fills of the beam search. About half of its proposals are such
        draws, the others are drawn forwards, so that each possible fill is proposed. The fills
        of the beam search follow.
        """
        found = self.likeliest(place, to_end=True)
        p = found.posterior(temperature)
        is_forward = rng.random(CHAIN) < 0.5
        drawn = self._draw_forwards(place, rng, 1 + int(is_forward.sum()))
        pool = Fills.joined(found, drawn)
        if place.whole:
            pool = _without_halves(pool)
        of_beam = dict(zip(found.fills, p, strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):  # impossible fills have -inf
            log_b = np.log([of_beam.get(fill, 0.0) for fill in pool.fills])
            log_weights = pool.scores / temperature - np.logaddexp(log_b, pool.log_q)
            proposals = rng.choice(len(p), CHAIN, p=p)
            proposals[is_forward] = len(p) + np.arange(is_forward.sum())
            current = rng.choice(len(p), p=p)
            for proposal, log_u in zip(proposals, np.log(rng.random(CHAIN)), strict=True):
                if log_u < log_weights[proposal] - log_weights[current]:
                    current = proposal
        others = [row for row, fill in enumerate(found.fills) if fill != pool.fills[current]]
        return pool.select(np.array([current, *others]))

    def _first(self, state: CarriedState, last: int, rows: int) -> Beam:
        zeros = np.zeros(rows)
        last_ids = np.full(rows, last, np.int32)
        return Beam(state.repeat(rows), last_ids, zeros, zeros, zeros, [()] * rows)

    # --- the beam search

    def _search(self, beam: Beam, gap: Gap, whole: bool) -> Beam:
        """Extend hypotheses by the likeliest characters of a gap; of each length, `width`."""
        beam, found = begun(beam, gap), []
        for length in range(1, gap.most + 1):
            beam = self._extended(beam, self._width, gap.most - length if whole else None)
            if length >= gap.least:
                found.append(beam.first(fills_per_length(gap)))
        beam = Beam.joined(found)
        return beam.select(whole_rows(beam.fills)) if whole else beam

    def _lengthened(self, beam: Beam, count: int, width: int) -> list[Beam]:
        """The beam, and the `width` likeliest after each of the next `count` characters."""
        beams = [beam]
        for _ in range(count):
            beams.append(self._extended(beams[-1], width))
        return beams

    def _extended(self, beam: Beam, width: int, room: int | None = None) -> Beam:
        """room: the bytes that may follow to make UTF-8 characters whole; None: for any ids."""
        log_p, state = self._step(beam)
        scores = beam.scores[:, None] + np.where(self._allowed, log_p, -np.inf)
        if room is not None:
            fitting = np.where(_next_bytes(beam.fills, room), scores, -np.inf)
            scores = fitting if fitting.max() > -np.inf else scores
        rows, ids = np.divmod(likeliest(scores, width), log_p.shape[1])
        return beam.extended(rows, ids, state, log_p, self._log_q(log_p))

    def _read(self, beam: Beam, ids: Ids, to_end: bool = True) -> Beam:
        """Read the text after a gap; drop the hypotheses that it makes unlikely."""
        is_even = len({len(fill) for fill in beam.fills}) == 1
        count = 0
        while count < len(ids) and (to_end or len(beam.fills) > 1):
            part = ids[count : count + max(1, count)]
            beam = self._follow(beam, part)
            count += len(part)
            if count >= UNPRUNED or is_even:
                kept = likeliest(beam.scores, self._width)
                beam = beam.select(kept[beam.scores[kept] >= beam.scores.max() - MARGIN])
        return beam

    # --- forward draws

    def _draw_forwards(self, place: Place, rng: np.random.Generator, rows: int) -> Fills:
        """Draw fills forwards: the length of each gap evenly, then its characters in order."""
        beam = self._first(place.state, place.last, rows)
        for item in place.template:
            if isinstance(item, Gap):
                beam = self._draw_gap(beam, item, rng)
            else:
                beam = self._follow(beam, item)
        beam = self._follow(beam, place.context)
        drawn = Fills(beam.fills, beam.scores, beam.own, beam.log_q)
        return drawn.select(rng.permutation(rows))  # they were in the order of their lengths

    def _draw_gap(self, beam: Beam, gap: Gap, rng: np.random.Generator) -> Beam:
        beam = begun(beam, gap)
        lengths = rng.integers(gap.least, gap.most + 1, len(beam.fills))
        ended = []
        for length in range(1, int(lengths.max()) + 1):
            beam = self._drawn(beam, rng)
            ended.append(beam.select(np.flatnonzero(lengths == length)))
            beam = beam.select(np.flatnonzero(lengths > length))
            lengths = lengths[lengths > length]
        return Beam.joined(ended)

    def _drawn(self, beam: Beam, rng: np.random.Generator) -> Beam:
        """Extend each hypothesis by an allowed character, drawn from the model."""
        log_p, state = self._step(beam)
        log_q = self._log_q(log_p)
        reached, rows = np.cumsum(np.exp(log_q), axis=1), np.arange(len(log_q))
        ids = (reached <= rng.random((len(rows), 1)) * reached[:, -1:]).sum(1)
        return beam.extended(rows, ids, state, log_p, log_q)

    # --- the network

    def _follow(self, beam: Beam, ids: Ids) -> Beam:
        """Let each hypothesis go on with `ids` (n,), n <= CONTEXT."""
        if not len(ids):
            return beam

        def read(stack: Stack, last: Ids, rows: int) -> Scores:
            y = np.tile(ids[:, None], stack.batch_size)
            x = np.concatenate([last[None], y[:-1]])
            log_p: Scores = -stack.losses_of(x, y)[:, :rows].sum(0)
            return log_p

        log_p, state = self._run(beam, CONTEXT, read)
        last = np.full_like(beam.last, ids[-1])
        return beam._replace(state=state, last=last, scores=beam.scores + log_p)

    def _log_q(self, log_p: Scores) -> Scores:
        """The log-probabilities (N, V) of the ids, if one of the allowed ids is drawn."""
        allowed = np.where(self._allowed, log_p, -np.inf)
        highest = allowed.max(1, keepdims=True)
        total = highest + np.log(np.exp(allowed - highest).sum(1, keepdims=True))
        log_q: Scores = allowed - total
        return log_q

    def _step(self, beam: Beam) -> tuple[Scores, CarriedState]:
        """Read the last ids; return the log-probabilities (N, V) and the states after them."""

        def read(stack: Stack, last: Ids, rows: int) -> Scores:
            stack.forward(last[None])
            stack.advance_state(1)
            return log_probabilities(stack, rows, np.ones_like(self._allowed))

        return self._run(beam, 1, read)

    def _run(
        self, beam: Beam, steps: int, read: Callable[[Stack, Ids, int], Scores]
    ) -> tuple[Scores, CarriedState]:
        """Read on from all hypotheses, MAX_ROWS at a time, on stacks of `steps`.

        `read(stack, last, rows)` advances the stack from the ids `last` (B,) and returns the result
        of its first `rows`. Returns the results (N, ...) and the states afterwards.
        """
        results, states = [], []
        for first in range(0, len(beam.last), MAX_ROWS):
            part = slice(first, first + MAX_ROWS)
            state, rows = beam.state.select(part), len(beam.last[part])
            stack = self._stack(rows, steps)
            stack.set_state(state, slice(0, rows))
            results.append(read(stack, np.resize(beam.last[part], stack.batch_size), rows))
            states.append(stack.get_state().select(slice(0, rows)))
        return np.concatenate(results), CarriedState.joined(states)

    def _stack(self, rows: int, steps: int) -> Stack:
        size = 1 << (rows - 1).bit_length()
        if (size, steps) not in self._stacks:
            self._stacks[size, steps] = Stack(self._model, size, steps)
        return self._stacks[size, steps]


def fills_per_length(gap: Gap) -> int:
    """The hypotheses of each length that remain, so that there are MAX_FILLS of all lengths."""
    return MAX_FILLS // (gap.most - gap.least + 1)


def begun(beam: Beam, gap: Gap) -> Beam:
    """The hypotheses before the first character of a gap, whose length is drawn evenly."""
    fills = [(*fill, SEPARATOR) if fill else fill for fill in beam.fills]
    return beam._replace(fills=fills, log_q=beam.log_q - np.log(gap.most - gap.least + 1))


def is_whole(fill: Fill) -> bool:
    """Whether each gap holds whole UTF-8 characters."""
    return all(map(is_utf8, _bytes(fill)))


def whole_rows(fills: Sequence[Fill]) -> Rows:
    """The fills (n,) whose gaps hold whole UTF-8 characters; all of them, if none does."""
    rows = np.flatnonzero([is_whole(fill) for fill in fills])
    return rows if len(rows) else np.arange(len(fills))


def _without_halves(fills: Fills) -> Fills:
    """Give fills that are not whole characters the probability zero, unless none is."""
    scores = np.full(len(fills.fills), -np.inf)
    rows = whole_rows(fills.fills)
    scores[rows] = fills.scores[rows]
    return fills._replace(scores=scores)


def _next_bytes(fills: Sequence[Fill], room: int) -> npt.NDArray[np.bool_]:
    """The bytes, as a mask (N, 256), that may follow in the last gap of each fill."""
    begun = [begun_character(_bytes(fill)[-1]) for fill in fills]
    return np.array([next_bytes(character, min(room, MAX_BYTES)) for character in begun])


def _bytes(fill: Fill) -> list[bytes]:
    """What fills each gap."""
    return [bytes(part) for part in parts(fill)]


def parts(fill: Fill) -> list[list[int]]:
    """The ids of each gap."""
    found: list[list[int]] = [[]]
    for i in fill:
        if i == SEPARATOR:
            found.append([])
        else:
            found[-1].append(i)
    return found


def ranked(beam: Beam) -> Fills:
    """The different fills, the likeliest first."""
    found = _without_copies(beam)
    return found.select(np.argsort(-found.scores, kind="stable"))


def _without_copies(beam: Beam) -> Fills:
    """The different fills; of equal ones, the likeliest."""
    order = np.argsort(-beam.scores, kind="stable")
    first = {beam.fills[row]: row for row in reversed(order)}
    found = Fills(beam.fills, beam.scores, beam.own, beam.log_q)
    return found.select(np.array(list(first.values())))
