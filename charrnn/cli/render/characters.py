"""Characters on a terminal or page: escaped where unprintable, and their width in columns."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from ...errors import escape_unprintable

ELLIPSIS = "..."


@lru_cache(1 << 16)
def escape_character(character: str) -> str:
    """Return a printable form of a character; a byte that is not UTF-8 becomes \\xNN."""
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return escape_unprintable(character)


@lru_cache(1 << 16)
def display_width(printable: str) -> int:
    """Return the number of columns that printable text takes on a terminal."""
    return sum(map(_character_width, printable))


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fitting_count(strings: list[str], max_width: int | None) -> int:
    """Return how many of the strings fit into `max_width` columns (None: unlimited).

    If not all fit, an ELLIPSIS fits after those that do.
    """
    if max_width is None:
        return len(strings)
    width = fitting = 0
    for i, string in enumerate(strings):
        width += display_width(string)
        if width <= max_width - len(ELLIPSIS):
            fitting = i + 1
        if width > max_width:
            return fitting
    return len(strings)
