"""Guesses of a text's encoding, for messages: those that decode it, the most plausible first.

The guess reads each character that is not plain ASCII, and its neighbours.
"""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from math import inf

SAMPLE = 2000  # unusual characters that the guess reads at most
MAX_PENALTY = 0.6  # mean penalty of text; data that is no text has more
MAX_PENALTY_UNMARKED = 0.3  # the same for text that is taken for UTF-16 without a mark
PRIOR = 0.01  # penalty for each place in the list of candidates
HEAD_BYTES = 1 << 12  # of a file, read to recognize UTF-16 and UTF-32

_UNUSUAL = re.compile(r"[^\t\n\f\r -~]")
_TYPOGRAPHY = "\xa0‘’‚“”„–—…•«»§°€¡¿ºª£©®™·№"
_LATIN = "À-ÖØ-öø-ÿŒœŠšŽžŸ"
_CENTRAL = "ÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖŘŮÚŰÜÝŢßŁĄŞŻŚŤŹŽŠáâăäĺćçčéęëěíîďđńňóôőöřůúűüýţłąşżśťźžš"
_CYRILLIC = "\u0400-\u045f\u0490\u0491"
_HAN = "\u4e00-\u9fff\u3000-\u303f\uff01-\uff5e"
_ANY = "\x80-\U0010ffff"
# By codec, the characters that texts in it hold beside ASCII and typography. The
# first ones are the likeliest.
CANDIDATES = {
    "utf-8": _ANY,
    "utf-16": _ANY,
    "utf-16-le": _ANY,
    "utf-16-be": _ANY,
    "utf-32-le": _ANY,
    "utf-32-be": _ANY,
    "cp1252": _LATIN,
    "latin-1": _LATIN,
    "cp1251": _CYRILLIC,
    "koi8-r": _CYRILLIC,
    "cp1250": _CENTRAL,
    "cp1254": "ĞğİıŞşÇçÖöÜüÂâÎîÛûÄä",
    "cp949": "\uac00-\ud7a3\u3000-\u303f",
    "gb18030": _HAN,
    "big5": _HAN,
    "cp932": "\u3040-\u30ff" + _HAN,
    "euc-jp": "\u3040-\u30ff" + _HAN,
    "iso8859-2": _CENTRAL,
    "cp1253": "\u0384-\u03ce",
    "cp1255": "\u05d0-\u05ea",
    "cp1256": "\u0600-\u06ff",
    "cp874": "\u0e01-\u0e5b",
    "cp866": _CYRILLIC,
    "iso8859-5": _CYRILLIC,
    "cp850": _LATIN,
    "mac-roman": _LATIN,
}
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_COMMON_CYRILLIC = "оеаинтсрвлі"
_RARE_LATIN = "ÝÞÐýþð"
# Encodings whose first bytes, in this range, are those of common Chinese characters or Hangul.
_COMMON_WIDE = (
    *(("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6), ("euc-jp", 0xB0, 0xCF), ("euc-kr", 0xB0, 0xC8)),
)


def likely_encodings(chunks: Callable[[], Iterable[bytes]]) -> list[str]:
    """Return the encodings that decode all of a text, the likeliest first; none for other data.

    `chunks` returns the text's bytes, from the start at each call.
    """
    penalties = {c: _penalty(chunks(), c) + PRIOR * i for i, c in enumerate(CANDIDATES)}
    plausible = (codec for codec in CANDIDATES if penalties[codec] <= MAX_PENALTY)
    return sorted(plausible, key=penalties.__getitem__)


def unmarked_unicode(head: bytes, codec: str) -> str | None:
    """Return the UTF-16 or UTF-32 that a text is in, if it reads so much better than as `codec`.

    `head` is the beginning of a text. Without a byte-order mark, UTF-16 decodes as most encodings:
    ASCII characters with a NUL beside each.
    """
    if b"\0" not in head or codec in _WIDE:
        return None
    penalties = {c: _penalty([head], c, whole=False) for c in (*_WIDE, codec)}
    best = min(_WIDE, key=penalties.__getitem__)
    is_better = penalties[best] <= min(MAX_PENALTY_UNMARKED, penalties[codec] - 0.5)
    return best if is_better else None


def _penalty(chunks: Iterable[bytes], codec: str, whole: bool = True) -> float:
    """The mean penalty of a text's unusual characters, infinite if it cannot be decoded.

    If it is not the `whole` text, it may end within a character.
    """
    decoder = codecs.getincrementaldecoder(codec)()
    expected = re.compile(f"[{CANDIDATES.get(codec, _ANY)}{_TYPOGRAPHY}]").match
    penalties: list[float] = []
    try:
        for chunk in itertools.chain(chunks, [b""] if whole else []):
            if chunk and b"\0" not in chunk:
                if codec.startswith(("utf-16", "utf-32")):
                    return inf  # their spaces and newlines have one
                if chunk.isascii() and not decoder.getstate()[0]:
                    continue  # the fast path, taken for most of a text
            text = f" {decoder.decode(chunk, final=not chunk)} "
            found = itertools.islice(_UNUSUAL.finditer(text), SAMPLE - len(penalties))
            penalties.extend(
                _oddity(*text[m.start() - 1 : m.end() + 1]) if expected(m[0]) else 2.0
                for m in found
            )
    except UnicodeError:
        return inf
    return sum(penalties) / max(len(penalties), 1)


@lru_cache(1 << 16)
def _oddity(before: str, character: str, after: str) -> float:
    """The penalty, from 0 to 2, of an expected character between its neighbours."""
    category = unicodedata.category(character)
    if category[0] == "C" or "\u2000" <= character <= "\u200a":  # a space, its bytes swapped
        return 2
    neighbours = [c for c in (before, after) if c.isalpha()]
    if category[0] not in "LM":
        return float(category[0] in "SP" and len(neighbours) == 2 and character != "’")
    if "\u3400" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7a3":
        return 0 if _is_common(character) else 0.7
    latin = character < "\u0250"
    penalty = 0.1 * character.isupper() + (before.islower() and character.isupper())
    penalty += any((c < "\u0250") != latin for c in neighbours)
    penalty += 0.3 * (latin and after.isalpha() and after > "\x7f")
    cyrillic = "\u0400" <= character <= "\u04ff"
    rare = character in _RARE_LATIN or (cyrillic and character.lower() not in _COMMON_CYRILLIC)
    return penalty + 0.3 * rare


def _is_common(character: str) -> bool:
    encoded = ((character.encode(codec, "ignore"), low, high) for codec, low, high in _COMMON_WIDE)
    return any(low <= data[0] <= high for data, low, high in encoded if data)
