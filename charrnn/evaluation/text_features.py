"""Features of a text that a hidden unit may encode: a number per character.

A number describes the state after its character: an opening quotation mark is inside the
quotation, a closing one is not. Some features describe the next character, which a model predicts.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ..text.vocabulary import code_points

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int32]
NEAR = 5  # characters before the end of a line that count as near it
QUOTED = 200  # maximum number of characters within single quotes

# An apostrophe has letters on both sides, or ends a word that no quotation mark precedes.
_SINGLE_QUOTED = re.compile(
    rf"(?<!\w)'(?=\S)(?:[^'\n]|(?<=\w)'(?=\w)){{1,{QUOTED}}}(?<=\S)'(?!\w)"
    rf"|\u2018[^\u2018\n]{{1,{QUOTED}}}?\u2019(?!\w)"
)


def features(text: str) -> dict[str, np.ndarray]:
    """Return the features of n characters by name, each (n,) bool or int."""
    points = code_points(text)
    newline = points == ord("\n")
    blank = (points == ord(" ")) | (points == ord("\t"))
    kinds = _kinds(points)
    empty = newline & np.concatenate([[True], newline[:-1]])
    upper = kinds["upper case"]
    word = kinds["letter"] | kinds["digit"]
    position = _run(~newline)
    return {
        "inside double quotes": _quoted(points, empty),
        "inside single quotes": _matched(_SINGLE_QUOTED, text),
        "inside ( )": _depth(points, "(", ")", empty) > 0,
        "inside [ ]": _depth(points, "[", "]", empty) > 0,
        "inside < >": _depth(points, "<", ">", newline) > 0,
        "depth of { }": _depth(points, "{", "}"),
        "position in the line": position,
        f"line ends within {NEAR}": _ends_soon(newline),
        "indentation": _since(newline, blank & (_run(blank) == position)),
        "lines since an empty one": _since(empty, newline),
        "position in the word": _run(word),
        **kinds,
        "word in capitals": upper & (_shifted(upper, 1) | _shifted(upper, -1)),
        "newline": newline,
        "space next": _shifted(kinds["space"], -1),
        "newline next": _shifted(newline, -1),
        "upper case next": _shifted(upper, -1),
    }


def _kinds(points: np.ndarray) -> dict[str, Mask]:
    """The features that depend on the Unicode properties of the character alone."""
    distinct, places = np.unique(points, return_inverse=True)
    tests: dict[str, Callable[[str], bool]] = {
        "letter": str.isalpha,
        "upper case": str.isupper,
        "digit": str.isdigit,
        "space": lambda c: c != "\n" and c.isspace(),
        "punctuation": lambda c: unicodedata.category(c)[0] in "PS",
    }
    characters = list(map(chr, distinct))
    return {name: np.array(list(map(t, characters)), bool)[places] for name, t in tests.items()}


def _shifted(a: Mask, by: int) -> Mask:
    """`a` shifted by one place, to the right (1) or to the left (-1), and filled with False."""
    moved = np.zeros_like(a)
    if by > 0:
        moved[1:] = a[:-1]
    else:
        moved[:-1] = a[1:]
    return moved


def _run(inside: Mask) -> Counts:
    """The length of the run of `inside` places that ends at each place."""
    return _since(~inside, inside)


def _since(start: Mask, counted: Mask) -> Counts:
    """The number of `counted` places after the last `start`."""
    total = np.cumsum(counted, dtype=np.int32)
    at_start: Counts = np.maximum.accumulate(np.where(start, total, 0))
    return total - at_start


def _ends_soon(newline: Mask) -> Mask:
    """Whether a newline is among the next NEAR characters and the character is not a newline."""
    soon = np.zeros_like(newline)
    for distance in range(1, NEAR + 1):
        soon[:-distance] |= newline[distance:]
    return soon & ~newline


def _matched(pattern: re.Pattern[str], text: str) -> Mask:
    """Whether a character is in a match; the last one of a match is outside."""
    inside = np.zeros(len(text), bool)
    for match in pattern.finditer(text):
        inside[match.start() : match.end() - 1] = True
    return inside


def _quoted(points: np.ndarray, reset: Mask) -> Mask:
    """Whether a character is within double quotes; an unclosed quotation ends at `reset`."""

    def states() -> Iterator[bool]:
        inside = False
        for mark in marks.tolist():
            inside = mark in opening or (mark == ord('"') and not inside)
            yield inside

    opening = set(map(ord, "\u201c\u00ab"))
    where = np.isin(points, list(map(ord, '"\u201c\u201d\u00ab\u00bb'))) | reset
    marks = points[where]
    return _forward_fill(where, states()).astype(bool)


def _depth(points: np.ndarray, opening: str, closing: str, reset: Mask | bool = False) -> Counts:
    """The number of open brackets; `reset` closes all, and surplus closing ones do not count."""

    def states() -> Iterator[int]:
        depth = 0
        for mark in map(chr, marks):
            if mark == opening:
                depth += 1
            else:
                depth = max(depth - 1, 0) if mark == closing else 0
            yield depth

    where = (points == ord(opening)) | (points == ord(closing)) | reset
    marks = points[where].tolist()
    return _forward_fill(where, states())


def _forward_fill(where: Mask, states: Iterable[int]) -> Counts:
    """Extend each state from its place to the next one's; 0 before the first."""
    values = np.fromiter(itertools.chain([0], states), np.int32)
    return values[np.cumsum(where, dtype=np.int32)]
