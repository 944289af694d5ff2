"""A chart of curves made of characters, for a terminal, a pipe or a mail."""

from __future__ import annotations

import math
from itertools import groupby
from typing import NamedTuple

import numpy as np

from ...evaluation.training_log import Curve, binned_means, without_burn_in

# Of the 256 colours, six that are legible on black and on white, and apart for the colour-blind.
COLORS = (33, 166, 29, 162, 99, 136)
BRAILLE = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # the bits of a cell
UNICODE = {"up": "┤", "side": "│", "corner": "└", "along": "─", "down": "┬"}
ASCII = {"up": "+", "side": "|", "corner": "+", "along": "-", "down": "+"}
EVERY = 12  # columns from letter to letter on a curve


class PlotLine(NamedTuple):
    """A curve and how it is drawn."""

    curve: Curve
    letter: str  # what it is made of in ASCII; among several lines, found on it here and there
    color: int = 0  # 0: none
    dotted: bool = False
    best: tuple[float, float, str] | None = None  # a point and the character that marks it


class Axis(NamedTuple):
    """Numbers from `low` to `high` on so many dots."""

    low: float
    high: float
    dots: int

    def place(self, values: np.ndarray) -> np.ndarray:
        """The dots of the values; of what lies outside, some dot outside."""
        share = (values - self.low) / (self.high - self.low)
        return np.rint(share.clip(-9, 9) * (self.dots - 1)).astype(int)

    def ticks(self, most: int) -> tuple[list[float], int]:
        """At most so many round numbers on the axis, and the decimals they need."""
        rough = (self.high - self.low) / max(most, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1, 2, 5, 10, 20) if power * k >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return [k * step for k in range(first, last + 1)], decimals


def chart(lines: list[PlotLine], width: int, height: int, unit: str, *, ascii: bool) -> list[str]:
    """Rows of at most `width` characters: the lines, their axes, and below them `unit`.

    Escape sequences for colours come on top. There is at least one point.
    """
    sy, sx = (1, 1) if ascii else BRAILLE.shape
    rows = max(height - 3, 3)
    y = _upright(lines, rows * sy)
    labels = _labels(*y.ticks(max(rows // 2, 2)))
    margin = max(map(len, labels.values())) + 1
    columns = max(width - margin - 1, 8)
    x = Axis(0, max(max(line.curve.x, default=0) for line in lines) or 1, columns * sx)
    cells = _drawn(lines, x, y, sx, sy)
    marks = ASCII if ascii else UNICODE
    at = {rows - 1 - int(y.place(np.array(v))) // sy: text for v, text in labels.items()}
    side = [f"{at.get(r, ''):>{margin}}" + marks["up" if r in at else "side"] for r in range(rows)]
    return [
        *(s + row.rstrip() for s, row in zip(side, cells, strict=True)),
        *_floor(x, sx, margin, marks, unit),
    ]


def _upright(lines: list[PlotLine], dots: int) -> Axis:
    """The axis of the losses: all of them but for the steep beginnings, and a little room."""
    values = np.concatenate([without_burn_in(line.curve) for line in lines])
    low, high = float(values.min()), float(values.max())
    room = (high - low) / 20 or max(abs(high), 1) / 10
    return Axis(low - room, high + room, dots)


def _labels(ticks: list[float], decimals: int) -> dict[float, str]:
    return {tick: _number(tick, decimals) for tick in ticks}


def _number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if abs(value) < 1e7 else f"{value:.4g}"


def _floor(x: Axis, sx: int, margin: int, marks: dict[str, str], unit: str) -> list[str]:
    """The rows under the curves: the axis, its numbers, the unit."""
    columns = x.dots // sx
    widest = len(_number(x.high, 1)) + 3
    labels = _labels(*x.ticks(columns // widest))
    axis, numbers = [marks["along"]] * columns, [" "] * (margin + 1 + columns)
    for value, text in labels.items():
        column = int(x.place(np.array(value))) // sx
        axis[column] = marks["down"]
        start = min(max(margin + 1 + column - len(text) // 2, 0), len(numbers) - len(text))
        numbers[start : start + len(text)] = text
    return [
        " " * margin + marks["corner"] + "".join(axis),
        "".join(numbers).rstrip(),
        " " * (margin + 1) + f"{unit:^{columns}}".rstrip(),
    ]


def _drawn(lines: list[PlotLine], x: Axis, y: Axis, sx: int, sy: int) -> list[str]:
    """The rows of the field. What comes first in `lines` lies on top."""
    shape = y.dots // sy, x.dots // sx
    text, colors = np.full(shape, " "), np.zeros(shape, int)
    bits = np.zeros(shape, int)

    def put(character: str, line: PlotLine, i: int, j: int) -> None:
        cell = shape[0] - 1 - i // sy, j // sx
        text[cell], colors[cell] = character, line.color

    for line in reversed(lines):
        for i, j in _dots(line, x, y, sx):
            cell = shape[0] - 1 - i // sy, j // sx
            bits[cell] |= BRAILLE[sy - 1 - i % sy, j % sx] if sx > 1 else 0
            put(chr(0x2800 + bits[cell]) if sx > 1 else line.letter, line, i, j)
    solid = [line for line in reversed(lines) if not line.dotted]
    for line in solid:
        for i, j in _letters(line, x, y, sx) if len(solid) > 1 else ():
            put(line.letter, line, i, j)
    for line in solid:
        if line.best:
            put(line.best[2], line, *_inside(line.best, x, y))
    return [_painted(*row) for row in zip(text.tolist(), colors.tolist(), strict=True)]


def _dots(line: PlotLine, x: Axis, y: Axis, sx: int) -> list[tuple[int, int]]:
    """The dots (from below, from the left) of a line: its points, joined if it is not dotted."""
    xs, ys = binned_means(line.curve, x.dots // sx if line.dotted else x.dots, x.high)
    i, j = y.place(ys), x.place(xs)
    if not line.dotted and len(i):
        i, j = _joined(i, j)
    shown = (i >= 0) & (i < y.dots)
    return list(zip(i[shown].tolist(), j[shown].tolist(), strict=True))


def _joined(i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The dots, and those on the straight lines from each to the next."""
    lengths = np.maximum(abs(np.diff(i)), abs(np.diff(j)))
    along = np.concatenate([[0], np.cumsum(lengths)])
    every = np.arange(along[-1] + 1)
    return tuple(np.rint(np.interp(every, along, v)).astype(int) for v in (i, j))


def _letters(line: PlotLine, x: Axis, y: Axis, sx: int) -> list[tuple[int, int]]:
    """Places for the letters of a line, staggered from line to line so that all can be seen."""
    first = EVERY // 2 + 3 * (ord(line.letter) % 4)
    dots = {j // sx: (i, j) for i, j in reversed(_dots(line, x, y, sx))}
    columns = [c for c in range(first, x.dots // sx, EVERY) if c in dots] or list(dots)[:1]
    return [dots[column] for column in columns]


def _inside(point: tuple[float, float, str], x: Axis, y: Axis) -> tuple[int, int]:
    i, j = int(y.place(np.array(point[1]))), int(x.place(np.array(point[0])))
    return min(max(i, 0), y.dots - 1), j


def _painted(text: list[str], colors: list[int]) -> str:
    """A row of the field, its characters in their colours."""
    runs = groupby(zip(text, colors, strict=True), key=lambda cell: cell[1])
    return "".join(colorize("".join(c for c, _ in run), color) for color, run in runs)


def colorize(text: str, color: int) -> str:
    return f"\x1b[38;5;{color}m{text}\x1b[39m" if color else text
