"""Gaps in a text, which marks stand for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import UsageError, escape_unprintable

MARK = "[?]"
MAX_LENGTH = 20  # of a gap whose length is not known, by default
LONGEST = 1_000  # the longest gap


class Gap(NamedTuple):
    """A gap of `least` to `most` characters, or bytes of a byte model."""

    least: int
    most: int


Piece = str | Gap  # of a text


def parse_marks(text: str, mark: str = MARK, max_length: int = MAX_LENGTH) -> list[Piece]:
    r"""Split a text at the marks of its gaps.

    `mark` is a gap of 1 to `max_length` characters. With digits before its last character, such as
    [?5], it is a gap of that length. After a backslash it is no mark, and the backslash is dropped.
    Adjacent gaps become one. Raises UsageError for an empty mark and an impossible length.
    """
    if not mark or mark[-1].isdigit() or "\\" in mark:
        raise UsageError(
            f"'{escape_unprintable(mark)}' cannot mark a gap: give a string that has no backslash "
            "and does not end with a digit."
        )
    if not 1 <= max_length <= LONGEST:
        raise UsageError(f"max length must be 1 to {LONGEST:,}, not {max_length}.")
    head, tail = re.escape(mark[:-1]), re.escape(mark[-1])
    digits = "([0-9]*)" if head else "()"
    pieces: list[Piece] = []
    end = 0
    for match in re.finditer(rf"(\\?){head}{digits}{tail}", text):
        pieces.append(text[end : match.start()])
        end = match.end()
        if match[1]:
            pieces.append(match[0][1:])
        else:
            pieces.append(_gap(match[0], match[2], max_length))
    return list(_merged([*pieces, text[end:]]))


def _gap(mark: str, digits: str, max_length: int) -> Gap:
    if not digits:
        return Gap(1, max_length)
    if len(digits) > 9 or not 1 <= int(digits) <= LONGEST:
        raise UsageError(
            f"the mark {escape_unprintable(mark)} is of an impossible length: a gap has 1 to "
            f"{LONGEST:,} characters."
        )
    return Gap(int(digits), int(digits))


def parse_mask(text: str, sign: str) -> list[Piece]:
    """Split a text at each run of `sign`, which is a gap of as many characters as signs.

    Raises UsageError unless `sign` is one character, and for a run that is too long.
    """
    if len(sign) != 1:
        raise UsageError(f"a mask is one character, not '{escape_unprintable(sign)}'.")
    pieces: list[Piece] = []
    for part in re.split(f"({re.escape(sign)}+)", text):
        pieces.append(_gap(sign, str(len(part)), 1) if part.startswith(sign) else part)
    return list(_merged(pieces))


def _merged(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Join adjacent strings and adjacent gaps; no string is empty."""
    last: Piece | None = None
    for piece in pieces:
        if piece == "":
            continue
        if isinstance(piece, str) and isinstance(last, str):
            last += piece
        elif isinstance(piece, Gap) and isinstance(last, Gap):
            last = Gap(last.least + piece.least, last.most + piece.most)
        else:
            if last is not None:
                yield last
            last = piece
    if last is not None:
        yield last
