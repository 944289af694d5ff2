"""How text and numbers about it are shown: nothing raw that a terminal acts on, and ten shades."""

from __future__ import annotations

import os
import unicodedata
from functools import lru_cache
from itertools import groupby
from typing import TextIO

import numpy as np

from ...errors import escape_unprintable

# The shades of levels 0 (none), 1 to 5 and, from the end as Python counts, -1 to -5. In a terminal,
# as numbers of the 256 colours, and on a light page black text on them is legible, on a dark page
# white text.
TERMINAL = (None, 230, 222, 215, 209, 203, 69, 111, 117, 153, 195)
LIGHT = (
    *(None, "#ffffd7", "#ffd787", "#ffaf5f", "#ff875f", "#ff5f5f"),
    *("#5f87ff", "#87afff", "#87d7ff", "#afd7ff", "#d7ffff"),
)
DARK = (
    *(None, "#38321c", "#5a4418", "#7e4c12", "#a34a1e", "#c03232"),
    *("#3a62c4", "#24589a", "#1c5070", "#1c4250", "#1c3438"),
)
MOST = 5


def color_wanted(out: TextIO) -> bool:
    """Whether `out` takes colours: a terminal, or FORCE_COLOR is set; and NO_COLOR is not."""
    forced = bool(os.environ.get("FORCE_COLOR"))
    return (out.isatty() or forced) and not os.environ.get("NO_COLOR")


def color_levels(nats: np.ndarray) -> list[int]:
    """The shade of each surprise: whole nats, at most 5; none for what was not predicted."""
    return np.nan_to_num(nats).clip(0, MOST).astype(int).tolist()


def signed_color_levels(values: np.ndarray) -> list[int]:
    """The shade of each value, from -5 to 5, where that farthest from 0 has the strongest."""
    scale = np.abs(values).max(initial=0)
    return np.rint(values * (MOST / scale if scale else 0)).astype(int).tolist()


@lru_cache(1 << 16)
def escape_character(character: str) -> str:
    """What stands for a character of a text; a byte that is not UTF-8 is \\xNN."""
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return escape_unprintable(character)


def colorize(shown: list[str], shades: list[int]) -> str:
    """The strings on the shades of their levels, for a terminal of 256 colours."""
    runs = groupby(zip(shown, shades, strict=False), key=lambda pair: pair[1])
    return "".join(_colorize("".join(s for s, _ in run), level) for level, run in runs)


def _colorize(text: str, level: int) -> str:
    return f"\x1b[38;5;16;48;5;{TERMINAL[level]}m{text}\x1b[0m" if level else text


@lru_cache(1 << 16)
def width_of(shown: str) -> int:
    """Columns that printable text takes on a terminal."""
    return sum(_width(c) for c in shown)


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
