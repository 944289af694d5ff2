"""The surprisal of each line of a text under one model or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..config import UNKNOWN_NATS
from ..text.corpus import Corpus
from ..text.reversal import in_reading_order, reversed_ids

if TYPE_CHECKING:
    from ..api import LanguageModel
    from ..evaluation.loss import StreamingScorer
    from ..text.disk_ids import Ids

BLOCK = 1 << 14  # characters scored at a time
PIECE = 1 << 16  # characters of a line decoded at a time


@dataclass
class ScoredLine:
    """A line of the text with its newline, and its surprisal under each model."""

    number: int
    start: int  # of its first id in the text
    totals: np.ndarray  # (models,) nats
    unknown: np.ndarray  # (models,) number of characters that the model does not know
    end: int = 0
    characters: int = 0  # predicted or unknown ones
    details: list[np.ndarray] = field(default_factory=list)  # of its ids, by the first model

    def add(self, scores: list[np.ndarray], unknown: np.ndarray, keep_details: bool) -> None:
        """Add the scores of the next n ids by each model, and their mask `unknown` (models, n)."""
        nats = np.array([s["nats"] for s in scores])
        counted = ~np.isnan(nats).any(axis=0)
        self.characters += int(np.count_nonzero(counted))
        self.totals += nats[:, counted].sum(axis=1)
        self.unknown += unknown.sum(axis=1)
        self.end += nats.shape[1]
        if keep_details:
            self.details.append(scores[0])

    def means(self) -> np.ndarray:
        """Nats per character under each model (models,), NaN where nothing was predicted."""
        return self.totals / (self.characters or math.nan)

    def rank(self, unknown_first: bool) -> tuple[bool, float]:
        """What lines are sorted by: unknown characters, and nats per character, -inf without any.

        Without `unknown_first`, unknown characters count by their nats alone. Both are those of the
        model that gives the line the highest probability.
        """
        best = int(self.totals.argmin())
        mean = float(self.means()[best])
        has_unknown = unknown_first and bool(self.unknown[best])
        return has_unknown, -math.inf if math.isnan(mean) else mean

    def posterior(self) -> np.ndarray:
        """The probability (models,) of each model given the line, under equal priors.

        A total that is infinite or NaN, of extreme weights, counts as very large.
        """
        totals = np.nan_to_num(self.totals, nan=1e300, posinf=1e300)
        likelihoods = np.exp(totals.min() - totals)
        found: np.ndarray = likelihoods / likelihoods.sum()
        return found

    def likeliest(self) -> int | None:
        """The model that gives the line the highest probability; None without a single one."""
        totals = self.totals.tolist()
        best = min(totals)
        return totals.index(best) if self.characters and totals.count(best) == 1 else None


class LineScorer:
    """Scores the lines of a text under one or several `models`, which have `names`.

    Of a text of records, each record is a line, scored on its own. An empty one is no record of a
    training text, and does not count in `total` and `num_best`.

    The text is in a vocabulary of its own. A model skips a character that it does not know, at the
    cost of `unknown_nats`, so that evidence is never dropped and alphabets of different sizes can
    be compared. A model with an unknown symbol knows all characters. `unknown` holds the characters
    that one of the models does not know; `knows_any` is False when no model knows any. `top` is how
    many expected characters to find at each position. While the lines are read, `total` sums them
    up and `num_best` counts for each model the lines that it gives the highest probability.
    """

    def __init__(
        self,
        models: Sequence[LanguageModel],
        names: list[str],
        corpus: Corpus,
        top: int = 0,
        unknown_nats: float = UNKNOWN_NATS,
    ) -> None:
        self.models, self.names, self.corpus = models, names, corpus
        self.title, self.unknown_nats = corpus.title, unknown_nats
        newline_id = corpus.vocabulary.newline_id
        self._end_id = newline_id if corpus.record_end_id < 0 else corpus.record_end_id
        self._tables = [model.vocabulary.ids_of(corpus.vocabulary) for model in models]
        self._unknown = np.array(self._tables) < 0  # (models, V)
        self.knows_any = not self._unknown.all()
        self.unknown = corpus.vocabulary.symbols(np.flatnonzero(self._unknown.any(axis=0)))
        self.total = self._line(0, 0)
        self.num_best = [0] * len(models)
        self._top = top
        self.progress: Callable[[int], object] | None = None  # called with new characters

    def lines(self, keep_details: bool = False) -> Iterator[ScoredLine]:
        """Yield the lines in order, with `keep_details` for a later call of `characters`."""
        line = self._line(1, 0)
        for start, scores in self._blocks():
            size = len(scores[0])
            ids = self.corpus.ids[start : start + size]
            unknown = self._unknown[:, ids]
            newlines = np.flatnonzero(ids == self._end_id)
            bounds = [0, *(newlines + 1).tolist()]
            for a, b in pairwise(bounds):
                line.add([s[a:b] for s in scores], unknown[:, a:b], keep_details)
                yield self._counted(line)
                line = self._line(line.number + 1, line.end)
            if (a := bounds[-1]) < size:
                line.add([s[a:] for s in scores], unknown[:, a:], keep_details)
        if line.end > line.start:
            yield self._counted(line)

    def _line(self, number: int, start: int) -> ScoredLine:
        count = len(self.models)
        return ScoredLine(number, start, np.zeros(count), np.zeros(count, int), end=start)

    def _blocks(self) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Yield the start of each block, and its scores by each model."""
        sources = [
            (self._backward_blocks if model.backward else self._forward_blocks)(model, table)
            for model, table in zip(self.models, self._tables, strict=True)
        ]
        start = 0
        for scores in zip(*sources, strict=True):
            yield start, list(scores)
            start += len(scores[0])
            if self.progress is not None:
                self.progress(len(scores[0]))

    def _forward_blocks(
        self, model: LanguageModel, table: np.ndarray, ids: Ids | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the scores of each block of `ids`, by default the ids of the text."""
        from ..evaluation.loss import StreamingScorer  # Numba is loaded, as the models are

        ids = self.corpus.ids if ids is None else ids
        scorer = StreamingScorer(model.model, self._top)
        for start in range(0, len(ids), BLOCK):
            yield self._score(scorer, table[ids[start : start + BLOCK]])

    def _backward_blocks(self, model: LanguageModel, table: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the scores of each block by a model that reads the text from its end.

        They are all held in memory, 8 bytes per character or more.
        """
        end_id = self.corpus.record_end_id
        blocks = self._forward_blocks(model, table, reversed_ids(self.corpus.ids, end_id))
        scores = in_reading_order(np.concatenate(list(blocks)), self.corpus.ids, end_id)
        yield from (scores[start : start + BLOCK] for start in range(0, len(scores), BLOCK))

    def _score(self, scorer: StreamingScorer, ids: np.ndarray) -> np.ndarray:
        """Score the next ids (n,); unknown ones, which are -1, are skipped at their cost."""
        known = ids >= 0
        if known.all():
            return scorer.read(ids)
        scores = scorer.unscored(len(ids))
        scores[known] = scorer.read(ids[known])
        scores["nats"][~known] = self.unknown_nats
        return scores

    def _counted(self, line: ScoredLine) -> ScoredLine:
        self.total.number = line.number
        if self.corpus.record_end_id >= 0 and line.end - line.start == 1:
            return line
        self.total.characters += line.characters
        self.total.totals += line.totals
        self.total.unknown += line.unknown
        if (best := line.likeliest()) is not None:
            self.num_best[best] += 1
        return line

    def pieces(self, line: ScoredLine, max_chars: int | None = None) -> Iterator[str]:
        """Yield the text of a line without its newline, all or about `max_chars`, in pieces.

        Bytes that are not UTF-8 are escaped (surrogateescape).
        """
        end = line.end - int(self.corpus.ids[line.end - 1] == self._end_id)
        if max_chars is not None:  # a character has at most four bytes
            end = min(end, line.start + 4 * max_chars)
        vocabulary = self.corpus.vocabulary
        decoder = vocabulary.decoder()
        for start in range(line.start, end, PIECE):
            ids = self.corpus.ids[start : min(start + PIECE, end)]
            yield decoder.feed(vocabulary.symbols(ids), final=start + PIECE >= end)

    def characters(self, line: ScoredLine) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
        """Return the text of a line with its newline, and for each of its n characters (n,) the
        nats, the scores, and whether the first model does not know it.

        A newline also stands for the separator of a record.
        Under a model of bytes, a character has the sum of the nats of its bytes, and the scores
        of the first byte.
        """
        scores = np.concatenate(line.details)
        ids = self.corpus.ids[line.start : line.end]
        vocabulary, num_ends = self.corpus.vocabulary, int(ids[-1] == self._end_id)
        body = vocabulary.decode(ids[: len(ids) - num_ends], "surrogateescape")
        text = body + "\n" * num_ends
        sizes = np.append(vocabulary.ids_per_character(body), [1] * num_ends).astype(np.int64)
        starts = np.cumsum(sizes) - sizes
        nats = np.add.reduceat(scores["nats"], starts)
        return text, nats, scores[starts], self._unknown[0, ids[starts]]


class BidirectionalLineScorer(LineScorer):
    """Scores each character given all others, with a forward and a backward model."""

    def __init__(
        self,
        forward: LanguageModel,
        backward: LanguageModel,
        corpus: Corpus,
        top: int = 0,
        unknown_nats: float = UNKNOWN_NATS,
    ) -> None:
        """The models must have the same characters, else UsageError is raised."""
        super().__init__([forward], ["both sides"], corpus, top, unknown_nats)
        self._backward, self._backward_ids = backward, forward.ids_in(backward)

    def _blocks(self) -> Iterator[tuple[int, list[np.ndarray]]]:
        from ..evaluation.bidirectional import BidirectionalScorer

        ids = self._known_ids()
        counts = np.bincount(ids, minlength=len(self._backward_ids)) + 1.0
        log_prior = np.log(counts / counts.sum())
        forward, backward = self.models[0].model, self._backward.model
        scorer = BidirectionalScorer(forward, backward, self._backward_ids, log_prior, self._top)
        num_read = 0
        for start in range(0, len(self.corpus.ids), BLOCK):
            known = ~self._unknown[0, self.corpus.ids[start : start + BLOCK]]
            scores = np.zeros(len(known), scorer.dtype)
            last = num_read + int(np.count_nonzero(known))
            scores[known] = scorer.read(ids, num_read, last)
            scores["nats"][~known] = self.unknown_nats
            num_read = last
            yield start, [scores]
            if self.progress is not None:
                self.progress(len(known))

    def _known_ids(self) -> np.ndarray:
        """The ids of the text in the models, without unknown characters."""
        ids: np.ndarray = self._tables[0][np.asarray(self.corpus.ids)]
        return ids[ids >= 0]
