"""How the activation of a unit over a text is shown: colours, digits, JSON, a page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from io import StringIO

import numpy as np

from . import html
from .color import MOST, colorize, escape_character, signed_color_levels, width_of


def colored(name: str, text: str, values: np.ndarray) -> Iterator[str]:
    """The text on the shades of the values (n,), for a terminal."""
    legend = " ".join(colorize([f" {value} "], [level]) for level, value in _legend(values))
    yield f"unit {name}: {legend}\n\n"
    for line, _, shades in _lines(text, values, signed_color_levels(values)):
        yield colorize(list(map(escape_character, line.removesuffix("\n"))), shades) + "\n"


def digits(name: str, text: str, values: np.ndarray) -> Iterator[str]:
    """The text in folded lines, each with a digit under every character."""
    low, high = float(values.min()), float(values.max())
    yield f"unit {name}: 0 is {low:.3f}, 9 is {high:.3f}\n\n"
    tenths = ((values - low) * (9 / ((high - low) or 1))).round().astype(int).tolist()
    room = shutil.get_terminal_size().columns
    for line, _, marks in _lines(text, values, tenths):
        for shown, below in _folded(
            list(map(escape_character, line.removesuffix("\n"))), marks, room
        ):
            yield f"{shown}\n{below}\n"


def _folded(shown: list[str], marks: list[int], room: int) -> Iterator[tuple[str, str]]:
    """Pieces of a line no wider than `room`, with a mark under each string."""
    piece, below, taken = "", "", 0
    for string, mark in zip(shown, marks, strict=False):
        width = width_of(string)
        if taken + width > room and piece:
            yield piece, below.rstrip()
            piece, below, taken = "", "", 0
        piece, taken = piece + string, taken + width
        below += str(mark).ljust(width) if width else ""
    yield piece, below.rstrip()


def objects(text: str, values: np.ndarray) -> Iterator[str]:
    """A line of JSON for a line of text: its values, then that of the newline."""
    for number, (line, part, _) in enumerate(_lines(text, values, values), 1):
        rounded = part.astype(float).round(5).tolist()
        found = {"line": number, "text": line.removesuffix("\n"), "values": rounded}
        yield json.dumps(found) + "\n"


def page(title: str, text: str, values: np.ndarray) -> Iterator[str]:
    """A page in which each character is shaded by its value and tells it."""
    legend = " ".join(html.shaded(f"\u00a0{v}\u00a0", level) for level, v in _legend(values))
    note = f"The value after each character: {legend}. Rest on a character to see it."
    yield html.head(title, note)
    lines = _lines(text, values, signed_color_levels(values))
    for number, (line, part, shades) in enumerate(lines, 1):
        yield html.line(f"{number:6}", line, shades, (f"{v:.4f}" for v in part.tolist()))
    low, mean, high = (f"{v:.4f}" for v in (values.min(), values.mean(), values.max()))
    yield html.foot(f"{len(text):,} characters: from {low} to {high}, {mean} on average.")


def _legend(values: np.ndarray) -> Iterator[tuple[int, str]]:
    """Each level and the value in its middle."""
    step = float(np.abs(values).max()) / MOST
    for level in range(-MOST, MOST + 1):
        yield level, f"{level * step:+.2g}" if level else "0"


def _lines(text: str, values: np.ndarray, color_levels: Sequence) -> Iterator[tuple]:
    """Each line with its newline, its values and its levels."""
    start = 0
    for line in StringIO(text, newline="\n"):
        part = slice(start, start := start + len(line))
        yield line, values[part], color_levels[part]
