"""Colors for levels from -5 to 5: backgrounds on a terminal and on a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from typing import TextIO

import numpy as np

from ...text.graphemes import graphemes

MAX_LEVEL = 5
UNKNOWN_LEVEL = -MAX_LEVEL  # of a character that the model does not know; no surprisal has it
# Colors indexed by level: 0 has none, 1 to 5 follow, then -5 to -1. On a terminal they are numbers
# of the 256 colors. Black text is legible on the terminal's and the light page's, white text on
# the dark page's.
TERMINAL = (None, 230, 222, 215, 209, 203, 69, 111, 117, 153, 195)
LIGHT = (
    *(None, "#ffffd7", "#ffd787", "#ffaf5f", "#ff875f", "#ff5f5f"),
    *("#5f87ff", "#87afff", "#87d7ff", "#afd7ff", "#d7ffff"),
)
DARK = (
    *(None, "#38321c", "#5a4418", "#7e4c12", "#a34a1e", "#c03232"),
    *("#3a62c4", "#24589a", "#1c5070", "#1c4250", "#1c3438"),
)


def use_color(out: TextIO) -> bool:
    """Whether to color `out`: on a terminal or if FORCE_COLOR is set, unless NO_COLOR is set."""
    forced = bool(os.environ.get("FORCE_COLOR"))
    return (out.isatty() or forced) and not os.environ.get("NO_COLOR")


def color_levels(nats: np.ndarray, unknown: np.ndarray | bool = False) -> list[int]:
    """Return the level of each surprisal (n,): its whole nats, at most 5; 0 for NaN.

    Characters that are `unknown`, (n,) bool, have the UNKNOWN_LEVEL.
    """
    levels = np.where(unknown, UNKNOWN_LEVEL, np.nan_to_num(nats).clip(0, MAX_LEVEL))
    return [int(level) for level in levels]


def signed_color_levels(values: np.ndarray) -> list[int]:
    """Return the level of each value (n,), from -5 to 5; the largest magnitude gets 5."""
    scale = np.abs(values).max(initial=0)
    return [int(level) for level in np.rint(values * (MAX_LEVEL / scale if scale else 0))]


def strongest(levels: Sequence[int]) -> int:
    """Return the level of a grapheme: that of its characters with the largest magnitude."""
    return min(levels, key=lambda level: (-abs(level), level))


def colorize(strings: Sequence[str], levels: Sequence[int]) -> str:
    """Join the strings, each on the background of its level, for a terminal of 256 colors.

    A letter and its combining marks have one background: a code between them would part them.
    """
    pairs = (("".join(strings[part]), strongest(levels[part])) for part in graphemes(strings))
    runs = groupby(pairs, key=lambda pair: pair[1])
    return "".join(_on_background("".join(s for s, _ in run), level) for level, run in runs)


def _on_background(text: str, level: int) -> str:
    return f"\x1b[38;5;16;48;5;{TERMINAL[level]}m{text}\x1b[0m" if level else text
