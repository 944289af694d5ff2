"""Where a text ends: at a length, after a line, before a stop, whichever comes first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StoppingCriteria:
    """The text has at most `length` characters, ends after `lines` newlines, before each stop."""

    length: int | None = None
    lines: int | None = None
    stops: tuple[str, ...] = ()


class StopMatcher:
    """A text that comes bit by bit, cut where it ends.

    What `feed` and `finish` return, joined, is the text; `over` says that nothing more belongs to
    it. Of stops the one that is complete first counts, of two complete at once the longer. Only
    what may be the beginning of a stop is held back.
    """

    def __init__(self, ending: StoppingCriteria) -> None:
        self._stops = ending.stops
        self.left, self._lines = ending.length, ending.lines  # still to come, None: no limit
        self._held = ""
        self.over = ending.length == 0 or ending.lines == 0

    def feed(self, text: str) -> str:
        """The part of the text that is certain once `text` has come, too."""
        text = self._limited(text)
        self._held += text
        found = [(at + len(s), at) for s in self._stops if (at := self._held.find(s)) >= 0]
        if found:
            self.over = True
            return self._held[: min(found)[1]]
        kept = 0 if self.over else self._kept()
        ready, self._held = (
            self._held[: len(self._held) - kept],
            self._held[len(self._held) - kept :],
        )
        return ready

    def _limited(self, text: str) -> str:
        """`text` up to the length and the last line; counts what has come of them."""
        if self._lines is not None:
            end = _after_newline(text, self._lines)
            self._lines -= text.count("\n", 0, end)
            text = text[:end]
        text = text[: self.left]
        if self.left is not None:
            self.left -= len(text)
        self.over = self.left == 0 or self._lines == 0
        return text

    def _kept(self) -> int:
        """The length of the longest end of what is held that a stop may begin with."""
        lengths = range(max(map(len, self._stops), default=1) - 1, 0, -1)
        return next((k for k in lengths if self._held.endswith(self._beginnings(k))), 0)

    def _beginnings(self, length: int) -> tuple[str, ...]:
        return tuple(stop[:length] for stop in self._stops if len(stop) > length)


def _after_newline(text: str, count: int) -> int | None:
    """Where the line ends that is number `count` of `text`; None: beyond it."""
    at = 0
    for _ in range(count):
        at = text.find("\n", at) + 1
        if at == 0:
            return None
    return at
