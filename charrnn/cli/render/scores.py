"""The lines of a scored text as a table, as JSON or as an HTML page."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from array import array
from collections.abc import Iterator
from typing import Protocol, TextIO

import numpy as np

from ...config import UNKNOWN_NATS
from ..line_scores import LineScorer, ScoredLine
from . import html
from .characters import ELLIPSIS, escape_character, fitting_count
from .color import MAX_LEVEL, UNKNOWN_LEVEL, color_levels, colorize, use_color

BUFFER_SIZE = 1 << 24  # bytes of rendered lines that sorting holds in memory


class Renderer(Protocol):
    """Renders the lines of a scored text, with text before the first and after the last."""

    @property
    def needs_characters(self) -> bool:
        """Whether `line` needs the scores of single characters."""

    def head(self) -> str: ...

    def line(self, line: ScoredLine) -> Iterator[str]:
        """Yield a line in pieces."""

    def foot(self) -> str: ...


class TableRenderer:
    """Renders rows: the number of a line, its surprisal per character, its text.

    If a model does not know all characters, a column has the number of unknown ones in the line.
    With several models, the last columns have the likeliest one and its posterior probability.
    """

    def __init__(self, scorer: LineScorer, out: TextIO, color: bool) -> None:
        self._scorer = scorer
        self._unit = scorer.corpus.vocabulary.unit
        heading = "nats/char" if self._unit == "character" else f"nats/{self._unit}"
        self._headings = [heading] if len(scorer.models) == 1 else scorer.names
        columns_of_numbers = [*self._headings, *(["unknown"] if scorer.unknown else [])]
        self._widths = [max(len(heading), 7) for heading in columns_of_numbers]
        several = len(scorer.models) > 1
        self._best_width = max(map(len, [*scorer.names, "likeliest"])) if several else 0
        columns = shutil.get_terminal_size().columns if out.isatty() else None
        width = 6 + sum(w + 2 for w in self._widths)
        width += self._best_width + len("posterior") + 4 if several else 0
        self._max_text_width = max(columns - width - 2, 8) if columns else None
        self.needs_characters = color and use_color(out)

    def head(self) -> str:
        cells = [*self._headings, "unknown"][: len(self._widths)]
        return self._cells("line", cells, "likeliest", "posterior") + "text\n"

    def line(self, line: ScoredLine) -> Iterator[str]:
        yield self._numbers(str(line.number), line)
        yield from self._text(line)
        yield "\n"

    def foot(self) -> str:
        total, names = self._scorer.total, self._scorer.names
        note = f"{total.characters:,} {self._unit}s"
        if self._scorer.unknown:
            note += f" (unknown ones cost {self._scorer.unknown_nats:.4g} nats each)"
        if len(names) == 1:
            note += f", {total.means()[0] / math.log(2):.4f} bits per {self._unit}"
        else:
            num_best = zip(names, self._scorer.num_best, strict=True)
            note += "; likeliest model by line: "
            note += ", ".join(f"{name} {n:,}" for name, n in num_best)
        return self._numbers("all", total) + note + "\n"

    def _numbers(self, label: str, line: ScoredLine) -> str:
        """Return the row of a line without its text."""
        cells = ["-" if math.isnan(mean) else format(mean, ".4f") for mean in line.means()]
        if self._scorer.unknown:
            cells.append("/".join(map(str, line.unknown)))
        best = line.likeliest()
        name = "-" if best is None else self._headings[best]
        posterior = f"{line.posterior().max():.2%}" if self._best_width else ""
        return self._cells(label, cells, name, posterior)

    def _cells(self, label: str, cells: list[str], best: str, posterior: str) -> str:
        cells = [f"{cell:>{width}}" for cell, width in zip(cells, self._widths, strict=True)]
        if self._best_width:
            cells = [*cells, f"{best:<{self._best_width}}", f"{posterior:>{len('posterior')}}"]
        return "  ".join([f"{label:>6}", *cells, ""])

    def _text(self, line: ScoredLine) -> Iterator[str]:
        if self.needs_characters:
            text, nats, _, unknown = self._scorer.characters(line)
            yield self._fitted(text.removesuffix("\n"), color_levels(nats, unknown))
        elif self._max_text_width:
            yield self._fitted("".join(self._scorer.pieces(line, self._max_text_width + 1)))
        else:
            for piece in self._scorer.pieces(line):
                yield piece if piece.isprintable() else "".join(map(escape_character, piece))

    def _fitted(self, text: str, levels: list[int] | None = None) -> str:
        """Return the text, escaped and cut to the terminal's width, on the colors of `levels`."""
        strings = list(map(escape_character, text))
        count = fitting_count(strings, self._max_text_width)
        fitting = strings[:count]
        shown = "".join(fitting) if levels is None else colorize(fitting, levels)
        return shown + (ELLIPSIS if count < len(strings) else "")


class JsonLinesRenderer:
    """Renders a JSON object per line of text."""

    def __init__(self, scorer: LineScorer) -> None:
        self._scorer = scorer
        self.needs_characters = len(scorer.models) == 1

    def head(self) -> str:
        return ""

    foot = head

    def line(self, line: ScoredLine) -> Iterator[str]:
        fields: dict[str, object] = {
            "line": line.number,
            "text": "".join(self._scorer.pieces(line)),
            "characters": line.characters,
        }
        fields |= self._of_one(line) if self.needs_characters else self._of_several(line)
        yield json.dumps(fields) + "\n"

    def _of_one(self, line: ScoredLine) -> dict[str, object]:
        nats = self._scorer.characters(line)[1].round(4).tolist()
        return {
            **_measures(line)[0],
            "surprisals": [None if math.isnan(n) else n for n in nats],
        }

    def _of_several(self, line: ScoredLine) -> dict[str, object]:
        names, best = self._scorer.names, line.likeliest()
        return {
            "models": [
                {"model": name, **m, "posterior": p}
                for name, m, p in zip(
                    names, _measures(line), line.posterior().tolist(), strict=True
                )
            ],
            "likeliest": None if best is None else names[best],
        }


def _measures(line: ScoredLine) -> list[dict[str, float | int | None]]:
    """Return for each model the surprisal of a line, and its number of unknown characters."""
    return [
        {
            "nats": float(total),
            "nats_per_character": float(mean) if line.characters else None,
            "unknown": int(unknown),
        }
        for total, mean, unknown in zip(line.totals, line.means(), line.unknown, strict=True)
    ]


class HtmlRenderer:
    """Renders a page that colors each character and shows what the model expected there."""

    needs_characters = True

    def __init__(self, scorer: LineScorer) -> None:
        self._scorer = scorer
        self._names = scorer.models[0].vocabulary.display_names()
        self._unit = scorer.corpus.vocabulary.unit

    def head(self) -> str:
        legend = ", ".join(
            html.swatch(f"{level}{' or more' if level == MAX_LEVEL else ''}", level)
            for level in range(1, MAX_LEVEL + 1)
        )
        if self._scorer.unknown:
            unknown = f"unknown to the model, counted as {self._scorer.unknown_nats:.4g}"
            legend += f"; {html.swatch(unknown, UNKNOWN_LEVEL)}"
        return html.head(
            f"{self._scorer.title}: surprisal under {self._scorer.names[0]}",
            f"Surprisal in nats: {legend}. Point at a character to see what the model expected. "
            f"Each line starts with its number and its nats per {self._unit}.",
        )

    def line(self, line: ScoredLine) -> Iterator[str]:
        text, nats, scores, unknown = self._scorer.characters(line)
        mean = float(line.means()[0])
        label = f"{line.number:6}  {'-' if math.isnan(mean) else format(mean, '.4f'):>7}"
        expected = scores["expected"], scores["probability"]
        titles = map(self._title, nats.tolist(), unknown.tolist(), *expected)
        yield html.line(label, text, color_levels(nats, unknown), titles)

    def _title(
        self, nats: float, unknown: bool, expected: np.ndarray, probability: np.ndarray
    ) -> str:
        if unknown:
            return f"unknown to the model, counted as {nats:.4g} nats"
        if math.isnan(nats):
            return "not predicted"
        pairs = zip(expected.tolist(), probability.tolist(), strict=True)
        likeliest = ", ".join(f"\u201c{self._names[i]}\u201d {p:.1%}" for i, p in pairs)
        return f"{nats:.2f} nats ({math.exp(-nats):.1%}); expected: {likeliest}"

    def foot(self) -> str:
        total = self._scorer.total
        mean = float(total.means()[0])
        bits = mean / math.log(2)
        unknown = f" ({total.unknown[0]:,} of them unknown)" if self._scorer.unknown else ""
        return html.foot(
            f"{total.characters:,} {self._unit}s{unknown}: "
            f"{mean:.4f} nats ({bits:.4f} bits) per {self._unit}."
        )


def write_scores(renderer: Renderer, scorer: LineScorer, sort: str, out: TextIO) -> None:
    """Write the lines to `out`, by "position" or by "surprisal", the most surprising first.

    Lines with unknown characters that cost UNKNOWN_NATS, more than known ones have, come first.
    With several models, the surprisal is the lowest of theirs.
    """
    out.write(renderer.head())
    lines = scorer.lines(keep_details=renderer.needs_characters)
    unknown_first = scorer.unknown_nats >= UNKNOWN_NATS
    rendered = ((line.rank(unknown_first), renderer.line(line)) for line in lines)
    if sort == "surprisal":
        out.writelines(_sorted(rendered))
    else:
        for _, pieces in rendered:
            out.writelines(pieces)
    out.write(renderer.foot())


def _sorted(rendered: Iterator[tuple[tuple[bool, float], Iterator[str]]]) -> Iterator[str]:
    """Yield the rendered lines by their ranks, the highest first.

    A temporary file holds the lines, so that a long text needs little memory.
    """
    unknown, means, ends = array("b"), array("d"), array("q", [0])
    with tempfile.SpooledTemporaryFile(BUFFER_SIZE) as file:
        for rank, pieces in rendered:
            file.writelines(piece.encode() for piece in pieces)
            unknown.append(rank[0])
            means.append(rank[1])
            ends.append(file.tell())
        for i in np.lexsort((-np.array(means), -np.array(unknown))):
            file.seek(ends[i])
            yield file.read(ends[i + 1] - ends[i]).decode()
