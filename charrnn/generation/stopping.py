"""Stopping criteria: the end of a generated text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StoppingCriteria:
    """Conditions that end a text; the first one met ends it.

    `length` is the maximum number of characters. `lines` is the maximum number of newlines; the
    last newline belongs to the text. `stops` are strings that end the text before them. A text of
    a model of records is a record: it ends before the symbol `record_end`, which `length` does not
    count.
    """

    length: int | None = None
    lines: int | None = None
    stops: tuple[str, ...] = ()
    record_end: str = ""

    @property
    def all_stops(self) -> tuple[str, ...]:
        return (*self.stops, *self.record_end)

    @property
    def max_read(self) -> int | None:
        """The number of characters after which a text ends; None: no limit."""
        return None if self.length is None else self.length + len(self.record_end)

    @property
    def ends_by_length(self) -> bool:
        """Whether nothing but `length` ends a text."""
        return self.lines is None and not self.all_stops

    @property
    def has_end(self) -> bool:
        """Whether there is a condition."""
        return self.length is not None or not self.ends_by_length


class StopMatcher:
    """Cuts a text that arrives in pieces where the stopping criteria end it.

    The concatenated results of `feed` are the text. `finished` is set once the text has ended,
    `stopped` if a stop or the end of the record ended it.
    `remaining` is the number of characters that the length still admits, None if it is unlimited.
    `num_read` is the number of characters up to the end, a stop included.
    The stop that is complete first ends the text; of two that are complete at once, the longer.
    Only a possible beginning of a stop is held back.
    """

    def __init__(self, criteria: StoppingCriteria) -> None:
        self._stops = criteria.all_stops
        self.remaining, self._remaining_lines = criteria.max_read, criteria.lines
        self._pending = ""  # held back
        self.num_read = 0
        self.finished = self.remaining == 0 or criteria.lines == 0
        self.stopped = False

    def feed(self, piece: str) -> str:
        """Return the part of the text that is certain after the next piece of it."""
        piece = self._limited(piece)
        self.num_read += len(piece)
        self._pending += piece
        found = [(at + len(s), at) for s in self._stops if (at := self._pending.find(s)) >= 0]
        if found:
            self.finished = self.stopped = True
            end, start = min(found)
            self.num_read -= len(self._pending) - end
            return self._pending[:start]
        held = 0 if self.finished else self._partial_match_length()
        end = len(self._pending) - held
        certain, self._pending = self._pending[:end], self._pending[end:]
        return certain

    def _limited(self, piece: str) -> str:
        """Cut `piece` at the limits of lines and length, and count it."""
        if self._remaining_lines is not None:
            end = _end_of_line(piece, self._remaining_lines)
            self._remaining_lines -= piece.count("\n", 0, end)
            piece = piece[:end]
        piece = piece[: self.remaining]
        if self.remaining is not None:
            self.remaining -= len(piece)
        self.finished = self.remaining == 0 or self._remaining_lines == 0
        return piece

    def _partial_match_length(self) -> int:
        """The length of the longest suffix of the pending text that a stop begins with."""
        lengths = range(max(map(len, self._stops), default=1) - 1, 0, -1)
        return next((n for n in lengths if self._pending.endswith(self._prefixes(n))), 0)

    def _prefixes(self, length: int) -> tuple[str, ...]:
        return tuple(stop[:length] for stop in self._stops if len(stop) > length)


def _end_of_line(text: str, number: int) -> int | None:
    """The index after newline `number` of `text`, counted from 1; None if there are fewer."""
    end = 0
    for _ in range(number):
        end = text.find("\n", end) + 1
        if end == 0:
            return None
    return end
