"""How the lines of a scored text are shown: a table, JSON, a page."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from typing import TextIO

import numpy as np

from ...text.vocabulary import Vocabulary
from ..line_scores import LineScorer, ScoredLine
from . import html
from .color import MOST, color_levels, color_wanted, colorize, escape_character, width_of

SPOOLED = 1 << 24  # bytes of sorted lines kept in memory


class TableRenderer:
    """Rows: the number of the line, its surprise, its text."""

    def __init__(self, score: LineScorer, out: TextIO, color: bool) -> None:
        self._score = score
        names = ["nats/char"] if len(score.models) == 1 else score.names
        self._widths = [max(len(name), 7) for name in names]
        self._won = max(map(len, [*names, "likeliest"])) if len(names) > 1 else 0
        columns = shutil.get_terminal_size().columns if out.isatty() else None
        taken = 6 + sum(w + 2 for w in self._widths) + (self._won and self._won + 2) + 2
        self._room = max(columns - taken, 8) if columns else None
        self.needs_characters = color and color_wanted(out)
        self._names = names

    def head(self) -> str:
        cells = [f"{n:>{w}}" for n, w in zip(self._names, self._widths, strict=True)]
        return self._row("line", cells, "likeliest") + "text\n"

    def line(self, line: ScoredLine) -> Iterator[str]:
        yield self._start(str(line.number), line)
        yield from self._text(line)
        yield "\n"

    def foot(self) -> str:
        total, names = self._score.total, self._score.names
        note = f"{total.characters:,} characters"
        if len(names) == 1:
            note += f", {total.means()[0] / math.log(2):.4f} bits per character"
        else:
            num_best = zip(names, self._score.num_best, strict=True)
            note += "; likeliest in lines: " + ", ".join(f"{name} {n:,}" for name, n in num_best)
        return self._start("all", total) + note + "\n"

    def _start(self, label: str, line: ScoredLine) -> str:
        cells = [
            f"{'-' if math.isnan(mean) else format(mean, '.4f'):>{w}}"
            for mean, w in zip(line.means(), self._widths, strict=True)
        ]
        best = line.likeliest()
        return self._row(label, cells, "-" if best is None else self._names[best])

    def _row(self, label: str, cells: list[str], best: str) -> str:
        if self._won:
            cells = [*cells, f"{best:<{self._won}}"]
        return "  ".join([f"{label:>6}", *cells, ""])

    def _text(self, line: ScoredLine) -> Iterator[str]:
        if self.needs_characters:
            text, nats, _ = self._score.characters(line)
            text = text.removesuffix("\n")
            shown = list(map(escape_character, text))
            kept = _fitting(shown, self._room)
            yield colorize(shown[:kept], color_levels(nats)) + ("..." if kept < len(shown) else "")
        elif self._room:
            shown = [
                escape_character(c) for p in self._score.pieces(line, self._room + 1) for c in p
            ]
            kept = _fitting(shown, self._room)
            yield "".join(shown[:kept]) + ("..." if kept < len(shown) else "")
        else:
            for piece in self._score.pieces(line):
                yield piece if piece.isprintable() else "".join(map(escape_character, piece))


def _fitting(shown: list[str], room: int | None) -> int:
    """How many of the strings have room in so many columns: all, or less and an ellipsis."""
    if room is None:
        return len(shown)
    taken = fitting = 0
    for i, string in enumerate(shown):
        taken += width_of(string)
        if taken <= room - 3:
            fitting = i + 1
        if taken > room:
            return fitting
    return len(shown)


class JsonLinesRenderer:
    """A line of JSON for a line of text."""

    def __init__(self, score: LineScorer) -> None:
        self._score = score
        self.needs_characters = len(score.models) == 1

    def head(self) -> str:
        return ""

    foot = head

    def line(self, line: ScoredLine) -> Iterator[str]:
        values = {
            "line": line.number,
            "text": "".join(self._score.pieces(line)),
            "characters": line.characters,
        }
        values |= self._of_one(line) if self.needs_characters else self._of_several(line)
        yield json.dumps(values) + "\n"

    def _of_one(self, line: ScoredLine) -> dict[str, object]:
        nats = self._score.characters(line)[1].round(4).tolist()
        return {
            **_measures(line)[0],
            "surprises": [None if math.isnan(n) else n for n in nats],
        }

    def _of_several(self, line: ScoredLine) -> dict[str, object]:
        names, best = self._score.names, line.likeliest()
        return {
            "models": [
                {"model": name, **m} for name, m in zip(names, _measures(line), strict=True)
            ],
            "likeliest": None if best is None else names[best],
        }


def _measures(line: ScoredLine) -> list[dict[str, float | None]]:
    """For each model what JSON says of a line as a whole."""
    return [
        {"nats": float(total), "nats_per_character": float(mean) if line.characters else None}
        for total, mean in zip(line.totals, line.means(), strict=True)
    ]


class HtmlRenderer:
    """A page in which each character is shaded and tells what was expected."""

    needs_characters = True

    def __init__(self, score: LineScorer) -> None:
        self._score, self._names = score, names_of(score.models[0].vocabulary)

    def head(self) -> str:
        legend = ", ".join(
            html.shaded(f"{k}{' or more' if k == MOST else ''}", k) for k in range(1, MOST + 1)
        )
        return html.head(
            f"{self._score.title}: what surprises {self._score.names[0]}",
            f"Surprise in nats: {legend}. Rest on a character to see what the model expected. "
            "Before each line stand its number and its nats per character.",
        )

    def line(self, line: ScoredLine) -> Iterator[str]:
        text, nats, found = self._score.characters(line)
        mean = float(line.means()[0])
        label = f"{line.number:6}  {'-' if math.isnan(mean) else format(mean, '.4f'):>7}"
        titles = map(self._title, nats.tolist(), found["expected"], found["probability"])
        yield html.line(label, text, color_levels(nats), titles)

    def _title(self, nats: float, expected: np.ndarray, probability: np.ndarray) -> str:
        if math.isnan(nats):
            return "not predicted"
        pairs = zip(expected.tolist(), probability.tolist(), strict=True)
        likely = ", ".join(f"\u201c{self._names[i]}\u201d {p:.1%}" for i, p in pairs)
        return f"{nats:.2f} nats ({math.exp(-nats):.1%}); expected: {likely}"

    def foot(self) -> str:
        total = self._score.total
        mean = float(total.means()[0])
        bits = mean / math.log(2)
        return html.foot(
            f"{total.characters:,} characters: {mean:.4f} nats ({bits:.4f} bits) per character."
        )


def names_of(vocabulary: Vocabulary) -> list[str]:
    """What to call the characters of a model, by their ids."""
    if vocabulary.is_bytes:
        return [escape_character(chr(i)) if i < 128 else f"\\x{i:02x}" for i in range(256)]
    return list(map(escape_character, vocabulary.characters))


def write(
    view: TableRenderer | JsonLinesRenderer | HtmlRenderer,
    score: LineScorer,
    order: str,
    out: TextIO,
) -> None:
    """Write the lines as they come, or the most surprising first."""
    out.write(view.head())
    lines = score.lines(kept=view.needs_characters)
    rendered = ((float(line.means().min()), view.line(line)) for line in lines)
    texts = (text for _, text in rendered) if order == "position" else _sorted(rendered)
    for pieces in texts:
        out.writelines(pieces)
    out.write(view.foot())


def _sorted(rendered: Iterable[tuple[float, Iterator[str]]]) -> Iterator[list[str]]:
    """The texts by their keys, the highest first and NaN last, by way of a temporary file."""
    keys, ends = array("d"), array("q", [0])
    with tempfile.SpooledTemporaryFile(SPOOLED) as file:
        for key, pieces in rendered:
            for piece in pieces:
                file.write(piece.encode())
            keys.append(key)
            ends.append(file.tell())
        for i in np.argsort(-np.array(keys), kind="stable"):
            file.seek(ends[i])
            yield [file.read(ends[i + 1] - ends[i]).decode()]
