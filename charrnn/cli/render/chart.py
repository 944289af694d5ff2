"""A line chart made of characters, for a terminal, a pipe or an e-mail."""

from __future__ import annotations

import math
from itertools import groupby
from typing import NamedTuple

import numpy as np

from ...evaluation.training_log import Curve, binned_means, without_burn_in

# Six of the 256 colors, legible on black and on white and distinct for the color-blind.
COLORS = (33, 166, 29, 162, 99, 136)
BRAILLE = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # bits of the dots
UNICODE = {"y tick": "┤", "y axis": "│", "corner": "└", "x axis": "─", "x tick": "┬"}
ASCII = {"y tick": "+", "y axis": "|", "corner": "+", "x axis": "-", "x tick": "+"}
LETTER_SPACING = 12  # columns between the letters on a curve


class PlotLine(NamedTuple):
    """A curve and how it is drawn."""

    curve: Curve
    letter: str  # draws the line in ASCII, and labels it among several lines
    color: int = 0  # of the 256 colors; 0: none
    dotted: bool = False
    best: tuple[float, float, str] | None = None  # a point and the character that marks it


class Axis(NamedTuple):
    """The numbers from `low` to `high` on a row of dots, `cell_dots` of them per character."""

    low: float
    high: float
    dots: int
    cell_dots: int = 1

    @property
    def cells(self) -> int:
        return self.dots // self.cell_dots

    def dot_of(self, values: np.ndarray) -> np.ndarray:
        """Return the dots of values (n,); a value off the axis gets a dot off the axis."""
        fractions = (values - self.low) / (self.high - self.low)
        dots: np.ndarray = np.rint(fractions.clip(-9, 9) * (self.dots - 1)).astype(int)
        return dots

    def cell_of(self, value: float) -> int:
        return int(self.dot_of(np.array(value))) // self.cell_dots

    def ticks(self, max_ticks: int) -> tuple[list[float], int]:
        """Return at most about `max_ticks` round numbers, and the decimals that they need."""
        spacing = (self.high - self.low) / max(max_ticks, 1)
        power = 10.0 ** math.floor(math.log10(spacing))
        step = next(power * k for k in (1, 2, 5, 10, 20) if power * k >= spacing * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return [k * step for k in range(first, last + 1)], decimals


def chart(
    lines: list[PlotLine], width: int, height: int, x_label: str, *, ascii_only: bool
) -> list[str]:
    """Return the rows of a chart, at most `width` characters each: curves, axes and `x_label`.

    Escape sequences for colors are not counted. The lines have at least one point. Earlier lines
    cover later ones.
    """
    dots_y, dots_x = (1, 1) if ascii_only else BRAILLE.shape
    marks = ASCII if ascii_only else UNICODE
    y = _y_axis(lines, max(height - 3, 3), dots_y)
    labels = _labels(*y.ticks(max(y.cells // 2, 2)))
    margin = max(map(len, labels.values())) + 1
    columns = max(width - margin - 1, 8)
    end = max(max(line.curve.x, default=0) for line in lines) or 1
    x = Axis(0, end, columns * dots_x, dots_x)
    left = _y_axis_cells(y, labels, margin, marks)
    field = _rasterise(lines, x, y)
    rows = [cells + row.rstrip() for cells, row in zip(left, field, strict=True)]
    return rows + _x_axis_rows(x, margin, marks, x_label)


def _y_axis(lines: list[PlotLine], rows: int, dots: int) -> Axis:
    """Return the axis of the losses after the steep fall at the start, with a margin."""
    values = np.concatenate([without_burn_in(line.curve) for line in lines])
    low, high = float(values.min()), float(values.max())
    margin = (high - low) / 20 or max(abs(high), 1) / 10
    return Axis(low - margin, high + margin, rows * dots, dots)


def _labels(ticks: list[float], decimals: int) -> dict[float, str]:
    return {tick: _number(tick, decimals) for tick in ticks}


def _number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if abs(value) < 1e7 else f"{value:.4g}"


def _y_axis_cells(
    y: Axis, labels: dict[float, str], margin: int, marks: dict[str, str]
) -> list[str]:
    """Return the start of each row of the field: its label and the axis."""
    label_of = {y.cells - 1 - y.cell_of(value): text for value, text in labels.items()}
    return [
        f"{label_of.get(row, ''):>{margin}}" + marks["y tick" if row in label_of else "y axis"]
        for row in range(y.cells)
    ]


def _x_axis_rows(x: Axis, margin: int, marks: dict[str, str], x_label: str) -> list[str]:
    """Return the rows below the field: the axis, its numbers, its label."""
    max_width = len(_number(x.high, 1)) + 3
    labels = _labels(*x.ticks(x.cells // max_width))
    axis, numbers = [marks["x axis"]] * x.cells, [" "] * (margin + 1 + x.cells)
    for value, text in labels.items():
        column = x.cell_of(value)
        axis[column] = marks["x tick"]
        start = min(max(margin + 1 + column - len(text) // 2, 0), len(numbers) - len(text))
        numbers[start : start + len(text)] = text
    return [
        " " * margin + marks["corner"] + "".join(axis),
        "".join(numbers).rstrip(),
        " " * (margin + 1) + f"{x_label:^{x.cells}}".rstrip(),
    ]


class _Canvas:
    """The character cells of the field. Dots are counted from the bottom and from the left."""

    def __init__(self, x: Axis, y: Axis) -> None:
        self._x, self._y = x, y
        self._text = np.full((y.cells, x.cells), " ")
        self._colors = np.zeros((y.cells, x.cells), int)
        self._bits = np.zeros((y.cells, x.cells), int)

    def put(self, character: str, color: int, i: int, j: int) -> None:
        """Put a character into the cell of a dot."""
        cell = self._cell(i, j)
        self._text[cell], self._colors[cell] = character, color

    def put_dot(self, letter: str, color: int, i: int, j: int) -> None:
        """Draw a dot: in Braille, or as the letter of its line."""
        if self._x.cell_dots > 1:
            bit = BRAILLE[-1 - i % self._y.cell_dots, j % self._x.cell_dots]
            self._bits[self._cell(i, j)] |= bit
            letter = chr(0x2800 + self._bits[self._cell(i, j)])
        self.put(letter, color, i, j)

    def rows(self) -> list[str]:
        cells = zip(self._text.tolist(), self._colors.tolist(), strict=True)
        return [_color_row(text, colors) for text, colors in cells]

    def _cell(self, i: int, j: int) -> tuple[int, int]:
        return self._y.cells - 1 - i // self._y.cell_dots, j // self._x.cell_dots


def _rasterise(lines: list[PlotLine], x: Axis, y: Axis) -> list[str]:
    """Return the rows of the field."""
    canvas = _Canvas(x, y)
    solid = [line for line in reversed(lines) if not line.dotted]
    for line in reversed(lines):
        for i, j in _dots(line, x, y):
            canvas.put_dot(line.letter, line.color, i, j)
    for line in solid if len(solid) > 1 else ():
        for i, j in _letter_positions(line, x, y):
            canvas.put(line.letter, line.color, i, j)
    for line in solid:
        if line.best:
            canvas.put(line.best[2], line.color, *_clamped_dot(line.best, x, y))
    return canvas.rows()


def _dots(line: PlotLine, x: Axis, y: Axis) -> list[tuple[int, int]]:
    """Return the dots of a line on the field: its points, joined unless it is dotted."""
    xs, ys = binned_means(line.curve, x.cells if line.dotted else x.dots, x.high)
    i, j = y.dot_of(ys), x.dot_of(xs)
    if not line.dotted and len(i):
        i, j = _joined(i, j)
    on_field = (i >= 0) & (i < y.dots)
    return list(zip(i[on_field].tolist(), j[on_field].tolist(), strict=True))


def _joined(i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the dots (n,), and the dots on the straight lines between them."""
    lengths = np.maximum(abs(np.diff(i)), abs(np.diff(j)))
    distances = np.concatenate([[0], np.cumsum(lengths)])
    steps = np.arange(distances[-1] + 1)
    joined_i, joined_j = (np.rint(np.interp(steps, distances, v)).astype(int) for v in (i, j))
    return joined_i, joined_j


def _letter_positions(line: PlotLine, x: Axis, y: Axis) -> list[tuple[int, int]]:
    """Return dots for the letters of a line, staggered by letter so that none covers another."""
    first = LETTER_SPACING // 2 + 3 * (ord(line.letter) % 4)
    dots = {j // x.cell_dots: (i, j) for i, j in reversed(_dots(line, x, y))}
    columns = [c for c in range(first, x.cells, LETTER_SPACING) if c in dots] or list(dots)[:1]
    return [dots[column] for column in columns]


def _clamped_dot(point: tuple[float, float, str], x: Axis, y: Axis) -> tuple[int, int]:
    """Return the dot of a point, moved vertically onto the field."""
    i, j = int(y.dot_of(np.array(point[1]))), int(x.dot_of(np.array(point[0])))
    return min(max(i, 0), y.dots - 1), j


def _color_row(text: list[str], colors: list[int]) -> str:
    runs = groupby(zip(text, colors, strict=True), key=lambda cell: cell[1])
    return "".join(color_text("".join(c for c, _ in run), color) for color, run in runs)


def color_text(text: str, color: int) -> str:
    """Return `text` in one of the 256 colors; 0: as it is."""
    return f"\x1b[38;5;{color}m{text}\x1b[39m" if color else text
