"""Which bytes may follow in UTF-8 (RFC 3629)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

MAX_BYTES = 4  # of a character
_NEXT = b"\x80", b"\x90", b"\xa0"  # each range of bytes that may follow contains one of these


def is_utf8(data: bytes) -> bool:
    """Whether `data` is whole UTF-8 characters."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@lru_cache(1024)
def next_bytes(begun: bytes, room: int) -> npt.NDArray[np.bool_]:
    """The bytes, as a mask (256,), that may follow those of a character that is not whole yet.

    begun: the bytes of the character so far, maybe none. room: the number of bytes that may follow
    the next one, by which the character is whole.
    """
    longest = min(MAX_BYTES, len(begun) + 1 + room)
    fits = [_is_beginning(begun + bytes([i]), longest) for i in range(256)]
    return np.array(fits)


def begun_character(data: bytes) -> bytes:
    """The bytes at the end of `data` that begin a character which is not whole yet."""
    for count in range(1, min(MAX_BYTES, len(data) + 1)):
        end = data[-count:]
        if not is_utf8(end) and _is_beginning(end, MAX_BYTES):
            return end
    return b""


def _is_beginning(data: bytes, longest: int) -> bool:
    """Whether a character of at most `longest` bytes begins with `data`, or is it."""
    if is_utf8(data):
        return True
    return len(data) < longest and any(_is_beginning(data + more, longest) for more in _NEXT)
