"""The activation of one unit over a text: as colors, digits, JSON or an HTML page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from io import StringIO

import numpy as np

from . import html
from .characters import display_width, escape_character
from .color import MAX_LEVEL, colorize, signed_color_levels


def colored_text(name: str, text: str, values: np.ndarray) -> Iterator[str]:
    """Yield the text, each character on the color of its value, for a terminal.

    `values` (n,) are the activations of unit `name` after each of the n characters of `text`.
    """
    legend = " ".join(colorize([f" {value} "], [level]) for level, value in _legend(values))
    yield f"unit {name}: {legend}\n\n"
    levels = signed_color_levels(values)
    for line, part in _lines(text):
        yield colorize(_printable(line), levels[part]) + "\n"


def digit_rows(name: str, text: str, values: np.ndarray) -> Iterator[str]:
    """Yield the text in folded lines, with a digit for its value (n,) below each character."""
    low, high = float(values.min()), float(values.max())
    yield f"unit {name}: 0 is {low:.3f}, 9 is {high:.3f}\n\n"
    digits = ((values - low) * (9 / ((high - low) or 1))).round().astype(int).tolist()
    max_width = shutil.get_terminal_size().columns
    for line, part in _lines(text):
        for row, digit_row in _fold(_printable(line), digits[part], max_width):
            yield f"{row}\n{digit_row}\n"


def _fold(
    strings: Iterable[str], digits: Iterable[int], max_width: int
) -> Iterator[tuple[str, str]]:
    """Yield rows of at most `max_width` columns, each with the row of digits below it."""
    row, digit_row, row_width = "", "", 0
    for string, digit in zip(strings, digits, strict=False):
        width = display_width(string)
        if row_width + width > max_width and row:
            yield row, digit_row.rstrip()
            row, digit_row, row_width = "", "", 0
        row, row_width = row + string, row_width + width
        digit_row += str(digit).ljust(width) if width else ""
    yield row, digit_row.rstrip()


def json_lines(text: str, values: np.ndarray) -> Iterator[str]:
    """Yield a JSON object per line of text; the newline has the last of its `values`."""
    for number, (line, part) in enumerate(_lines(text), 1):
        rounded = values[part].astype(float).round(5).tolist()
        fields = {"line": number, "text": line.removesuffix("\n"), "values": rounded}
        yield json.dumps(fields) + "\n"


def html_page(title: str, text: str, values: np.ndarray) -> Iterator[str]:
    """Yield an HTML page that colors each character by its value (n,) and shows the value."""
    legend = " ".join(html.swatch(f"\u00a0{v}\u00a0", level) for level, v in _legend(values))
    yield html.head(title, f"Value after each character: {legend}. Point at a character to see it.")
    levels = signed_color_levels(values)
    for number, (line, part) in enumerate(_lines(text), 1):
        titles = (f"{value:.4f}" for value in values[part].tolist())
        yield html.line(f"{number:6}", line, levels[part], titles)
    low, mean, high = (f"{v:.4f}" for v in (values.min(), values.mean(), values.max()))
    yield html.foot(f"{len(text):,} characters: minimum {low}, mean {mean}, maximum {high}.")


def _legend(values: np.ndarray) -> Iterator[tuple[int, str]]:
    """Yield each level and the value at its center."""
    step = float(np.abs(values).max()) / MAX_LEVEL
    for level in range(-MAX_LEVEL, MAX_LEVEL + 1):
        yield level, f"{level * step:+.2g}" if level else "0"


def _lines(text: str) -> Iterator[tuple[str, slice]]:
    """Yield each line with its newline, and where it is in the text."""
    start = 0
    for line in StringIO(text, newline="\n"):
        yield line, slice(start, start := start + len(line))


def _printable(line: str) -> list[str]:
    return list(map(escape_character, line.removesuffix("\n")))
