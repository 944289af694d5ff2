"""Line ends between files: a file whose last line has none would be glued to the next."""

from __future__ import annotations

from typing import AnyStr, NamedTuple


class Seam(NamedTuple):
    """A line end that was put between two files."""

    name: str  # of the file whose last line has none
    offset: int  # in bytes of all files, of the next file


class LineJoiner:
    """Follows the chunks of files; tells which line end is missing between two of them.

    `name` is for the caller: that of the last file that was not empty.

    The line end is the one that the text so far has. Binary files, those of bytes with a NUL among
    them, get none.
    """

    name = ""

    def __init__(self) -> None:
        self._line_end, self._last, self._is_binary = "\n", "\n", False

    def line_end_before(self, chunk: AnyStr) -> AnyStr:
        """Return the line end to put before `chunk`, with which a file begins; it may be empty."""
        is_binary = self._is_binary or _has_nul_byte(chunk)
        self._is_binary = False
        line_end = "" if is_binary or self._last in "\r\n" else self._line_end
        return line_end.encode() if isinstance(chunk, bytes) else line_end

    def feed(self, chunk: str | bytes) -> None:
        """Take the next chunk, not an empty one."""
        self._is_binary = self._is_binary or _has_nul_byte(chunk)
        text = str(chunk, "latin-1") if isinstance(chunk, bytes) else chunk
        if (at := text.rfind("\n")) >= 0:
            before = text[at - 1] if at else self._last
            self._line_end = "\r\n" if before == "\r" else "\n"
        self._last = text[-1]


def _has_nul_byte(chunk: str | bytes) -> bool:
    return isinstance(chunk, bytes) and b"\0" in chunk
