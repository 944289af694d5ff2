"""How text and its surprise are shown: nothing raw that a terminal acts on, and six shades."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from itertools import groupby

import numpy as np

from ..errors import printable

# A shade for each nat; the first is none. Black text on them is legible, whatever the terminal's
# own colours: the same as numbers of the 256 colours and for a page.
TERMINAL = (None, 230, 222, 215, 209, 203)
PAGE = (None, "#ffffd7", "#ffd787", "#ffaf5f", "#ff875f", "#ff5f5f")


def levels(nats: np.ndarray) -> list[int]:
    """The shade of each surprise: whole nats, at most 5; none for what was not predicted."""
    return np.nan_to_num(nats).clip(0, len(PAGE) - 1).astype(int).tolist()


@lru_cache(1 << 16)
def visible(character: str) -> str:
    """What stands for a character of a text; a byte that is not UTF-8 is \\xNN."""
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return printable(character)


def painted(shown: list[str], nats: np.ndarray) -> str:
    """The strings on the shades of their surprise, for a terminal of 256 colours."""
    runs = groupby(zip(shown, levels(nats), strict=False), key=lambda pair: pair[1])
    return "".join(_painted("".join(s for s, _ in run), level) for level, run in runs)


def _painted(text: str, level: int) -> str:
    return f"\x1b[38;5;16;48;5;{TERMINAL[level]}m{text}\x1b[0m" if level else text


@lru_cache(1 << 16)
def width_of(shown: str) -> int:
    """Columns that printable text takes on a terminal."""
    return sum(_width(c) for c in shown)


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
