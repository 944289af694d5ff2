"""Graphemes: a letter with the marks that combine with it, which are several code points."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

# Hangul vowels and final consonants, and skin tones, are no marks but combine as marks do.
_OTHER_EXTENDERS = ((0x1160, 0x11FF), (0xD7B0, 0xD7FB), (0x1F3FB, 0x1F3FF))


@lru_cache(1 << 16)
def _extends(string: str) -> bool:
    """Whether a character is shown as a part of the one before it."""
    if len(string) != 1:
        return False
    is_other = any(first <= ord(string) <= last for first, last in _OTHER_EXTENDERS)
    return is_other or unicodedata.category(string).startswith("M")


def graphemes(characters: Sequence[str]) -> list[slice]:
    """Return the slices of `characters` that are shown as one; escaped ones stand alone."""
    count = len(characters)
    starts = [i for i in range(count) if i == 0 or not _extends(characters[i])]
    return [slice(a, b) for a, b in pairwise([*starts, count])]
