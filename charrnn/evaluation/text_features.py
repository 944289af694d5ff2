"""What a unit of a network might follow in a text: a number for each character of it.

A number says what is so once the character is read: a quotation mark that opens is inside the
quotation, one that closes is not. Some say what comes next, which a model that writes must foresee.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..text.vocabulary import code_points

NEAR = 5  # characters from the end of a line
QUOTED = 200  # characters within single quotes, at most

# An apostrophe has letters on both sides, or ends a word that no quotation mark stands before.
_SINGLE_QUOTED = re.compile(
    rf"(?<!\w)'(?=\S)(?:[^'\n]|(?<=\w)'(?=\w)){{1,{QUOTED}}}(?<=\S)'(?!\w)"
    rf"|\u2018[^\u2018\n]{{1,{QUOTED}}}?\u2019(?!\w)"
)


def features(text: str) -> dict[str, np.ndarray]:
    """(n,) of each feature by its name, booleans or whole numbers, for n characters."""
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


def _kinds(points: np.ndarray) -> dict[str, np.ndarray]:
    """The kinds of characters that Unicode tells."""
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


def _shifted(a: np.ndarray, by: int) -> np.ndarray:
    """`a` moved by one place, to the right or (-1) to the left; False comes in."""
    moved = np.zeros_like(a)
    if by > 0:
        moved[1:] = a[:-1]
    else:
        moved[:-1] = a[1:]
    return moved


def _run(inside: np.ndarray) -> np.ndarray:
    """How many places in a row up to this one are `inside`."""
    return _since(~inside, inside)


def _since(start: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """How many places were `counted` since the last `start`, which itself is not."""
    total = np.cumsum(counted, dtype=np.int32)
    return total - np.maximum.accumulate(np.where(start, total, 0))


def _ends_soon(newline: np.ndarray) -> np.ndarray:
    """Whether a newline is among the next NEAR characters, and this is none."""
    soon = np.zeros_like(newline)
    for distance in range(1, NEAR + 1):
        soon[:-distance] |= newline[distance:]
    return soon & ~newline


def _matched(pattern: re.Pattern[str], text: str) -> np.ndarray:
    """Whether a character is in a match, whose last is outside."""
    inside = np.zeros(len(text), bool)
    for match in pattern.finditer(text):
        inside[match.start() : match.end() - 1] = True
    return inside


def _quoted(points: np.ndarray, reset: np.ndarray) -> np.ndarray:
    """Whether a character is within double quotes; a mark that is never closed ends at `reset`."""

    def states() -> Iterator[bool]:
        inside = False
        for mark in marks.tolist():
            inside = mark in opening or (mark == ord('"') and not inside)
            yield inside

    opening = set(map(ord, "\u201c\u00ab"))
    where = np.isin(points, list(map(ord, '"\u201c\u201d\u00ab\u00bb'))) | reset
    marks = points[where]
    return _held(where, states()).astype(bool)


def _depth(points: np.ndarray, opening: str, closing: str, reset=False) -> np.ndarray:
    """How many brackets are open; 0 from `reset` on, and never fewer than none."""

    def states() -> Iterator[int]:
        depth = 0
        for mark in marks.tolist():
            if mark == opening:
                depth += 1
            else:
                depth = max(depth - 1, 0) if mark == closing else 0
            yield depth

    opening, closing = ord(opening), ord(closing)
    where = (points == opening) | (points == closing) | reset
    marks = points[where]
    return _held(where, states())


def _held(where: np.ndarray, states: Iterable[int]) -> np.ndarray:
    """States that last from their own place to the next one's; 0 before the first."""
    values = np.fromiter(states, np.int32)
    return np.concatenate([[0], values])[np.cumsum(where, dtype=np.int32)]
