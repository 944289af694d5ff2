"""A text read by one model or several, line by line: the surprise of each."""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..api import LanguageModel, load
from ..errors import CharRNNError, UsageError, escape_unprintable
from ..text.corpus import Corpus, read_corpus
from ..text.vocabulary import UnknownCharacters
from .options import warn_unknown
from .progress import byte_bar

if TYPE_CHECKING:
    from ..evaluation.loss import StreamingScorer

BLOCK = 1 << 14  # characters scored at a time
PIECE = 1 << 16  # characters of a line given at a time


@dataclass
class ScoredLine:
    """A line of the text with its newline: where it is, and what was found about it."""

    number: int
    start: int  # of its first character in the text
    totals: np.ndarray  # (models,) nats
    end: int = 0
    characters: int = 0  # that were predicted
    parts: list[np.ndarray] = field(default_factory=list)  # of the first model, if kept

    def add(self, found: list[np.ndarray], kept: bool) -> None:
        """Take in what each model found about the next characters."""
        nats = np.array([f["nats"] for f in found])
        predicted = nats[:, ~np.isnan(nats[0])]
        self.characters += predicted.shape[1]
        self.totals += predicted.sum(axis=1)
        self.end += nats.shape[1]
        if kept:
            self.parts.append(found[0])

    def means(self) -> np.ndarray:
        """Nats per character of each model, NaN where nothing was predicted."""
        return self.totals / (self.characters or math.nan)

    def likeliest(self) -> int | None:
        """The model that expected the line most; None if several did, or there is nothing."""
        totals = self.totals.tolist()
        best = min(totals)
        return totals.index(best) if self.characters and totals.count(best) == 1 else None


class LineScorer:
    """One text and the models that read it."""

    def __init__(self, texts, paths, encoding: str, unknown: str, top: int = 0) -> None:
        self.models, self.names = _loaded(paths), _names(paths)
        self.corpus = _read(texts, self.models, encoding)
        self.title = ", ".join(map(escape_unprintable, self.corpus.names))
        characters = self.corpus.vocabulary.characters
        self._newline = ord("\n") if characters is None else characters.find("\n")  # -1: none
        # A text's id to each model's; what one model does not know, none is to read.
        self._tables = [_table(m, self.corpus) for m in self.models]
        self._known = np.all([t >= 0 for t in self._tables], axis=0)
        self._check_known(unknown)
        self.total = self._line(0, 0)
        self.num_best = [0] * len(self.models)
        self._top = top
        self.progressed: Callable[[int], object] | None = None  # called with characters read

    def _check_known(self, unknown: str) -> None:
        if not self._known.any():
            raise CharRNNError(f"the model knows no character of {self.title}.")
        if not self._known.all():
            characters = self.corpus.vocabulary.characters
            skipped_characters = "".join(characters[i] for i in np.flatnonzero(~self._known))
            if unknown == "error":
                raise UnknownCharacters(skipped_characters)
            warn_unknown(skipped_characters)

    def lines(self, kept: bool = False) -> Iterator[ScoredLine]:
        """The lines in order; `kept`: with what was found of each character."""
        line = self._line(1, 0)
        for start, found in self._blocks():
            size = len(found[0])
            newlines = np.flatnonzero(self.corpus.ids[start : start + size] == self._newline)
            bounds = [0, *(newlines + 1).tolist()]
            for a, b in pairwise(bounds):
                line.add([f[a:b] for f in found], kept)
                yield self._counted(line)
                line = self._line(line.number + 1, line.end)
            if bounds[-1] < size:
                line.add([f[bounds[-1] :] for f in found], kept)
        if line.end > line.start:
            yield self._counted(line)

    def _line(self, number: int, start: int) -> ScoredLine:
        return ScoredLine(number, start, np.zeros(len(self.models)), end=start)

    def _blocks(self) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Where each block starts, and what every model found in it."""
        from ..evaluation.loss import StreamingScorer  # by now the models are loaded: numba is, too

        readers = [StreamingScorer(m.model, self._top) for m in self.models]
        for start in range(0, len(self.corpus.ids), BLOCK):
            ids = self.corpus.ids[start : start + BLOCK]
            pairs = zip(readers, self._tables, strict=True)
            yield start, [_found(r, table[ids], self._known[ids]) for r, table in pairs]
            if self.progressed is not None:
                self.progressed(len(ids))

    def _counted(self, line: ScoredLine) -> ScoredLine:
        self.total.characters += line.characters
        self.total.totals += line.totals
        self.total.number = line.number
        if (winner := line.likeliest()) is not None:
            self.num_best[winner] += 1
        return line

    def pieces(self, line: ScoredLine, most: int | None = None) -> Iterator[str]:
        """The text of a line without its newline, `most` characters or all, piece by piece.

        Bytes that are not UTF-8 are lone surrogates, as of surrogateescape.
        """
        end = line.end - int(self.corpus.ids[line.end - 1] == self._newline)
        if most is not None:  # a character has at most four bytes
            end = min(end, line.start + 4 * most)
        decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        for start in range(line.start, end, PIECE):
            ids = self.corpus.ids[start : min(start + PIECE, end)]
            if self.corpus.vocabulary.is_bytes:
                yield decode(ids.tobytes(), start + PIECE >= end)
            else:
                yield self.corpus.vocabulary.decode(ids)

    def characters(self, line: ScoredLine) -> tuple[str, np.ndarray, np.ndarray]:
        """The text of a line with its newline; of each character the nats and what was found.

        In a model of bytes the nats of a character are the sum over its bytes, and what was found
        is of its first byte.
        """
        found = np.concatenate(line.parts)
        ids = self.corpus.ids[line.start : line.end]
        if not self.corpus.vocabulary.is_bytes:
            return self.corpus.vocabulary.decode(ids), found["nats"], found
        text = ids.tobytes().decode("utf-8", "surrogateescape")
        starts = np.cumsum([0, *byte_sizes(text)[:-1]])
        return text, np.add.reduceat(found["nats"], starts), found[starts]


def byte_sizes(text: str) -> list[int]:
    """How many bytes each character of decoded bytes was; those that are no UTF-8 were one."""
    return [1 if "\udc80" <= c <= "\udcff" else len(c.encode()) for c in text]


def _loaded(paths: Iterable[str]) -> list[LanguageModel]:
    models = [load(path, threads=1) for path in paths]
    if len({m.vocabulary.is_bytes for m in models}) > 1:
        raise UsageError("models of bytes and of characters cannot be compared with each other.")
    return models


def _names(paths: tuple[str, ...]) -> list[str]:
    """What to call the models: file names without their ending, or paths if these are the same."""
    names = [Path(path).name.removesuffix(".safetensors") for path in paths]
    return [escape_unprintable(n) for n in (names if len(set(names)) == len(names) else paths)]


def _read(texts, models: list[LanguageModel], encoding: str) -> Corpus:
    """The text in a vocabulary of its own."""
    as_bytes = models[0].vocabulary.is_bytes
    with byte_bar() as progress:
        corpus = read_corpus(texts, encoding=encoding, as_bytes=as_bytes, progress=progress)
    if len(corpus.ids) < 2:
        raise CharRNNError("The text is too short to score: it needs two characters or more.")
    return corpus


def _table(model: LanguageModel, corpus: Corpus) -> np.ndarray:
    """The model's id for each id of the text, -1 for what it does not know."""
    if model.vocabulary.is_bytes:
        return np.arange(256)
    characters = corpus.vocabulary.characters
    unknown = model.vocabulary.unknown(characters)
    table = np.full(len(characters), -1)
    table[[c not in unknown for c in characters]] = model.vocabulary.encode(characters, "skip")
    return table


def _found(reader: StreamingScorer, ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What a model finds in the next characters, leaving out those not `known`."""
    if known.all():
        return reader.read(ids)
    found = reader.blank(len(ids))
    found[known] = reader.read(ids[known])
    return found
