"""The time of training: the clock's time without stalls.

A process may be stopped, a computer may sleep, and other work may take the machine for seconds.
Such a stall is neither time of training nor a speed to plan with.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

INTERVAL = (
    0.2  # seconds that are judged together; a short gap, as of a throttled container, is speed
)
STALL_FACTOR = 5.0  # times the typical time of its steps: an interval that took longer is a stall
PAUSE_FACTOR = 100.0  # times the typical time: no machine computes that slowly ...
MAX_PAUSES = 5  # ... unless more intervals than these in succession do
MAX_STALL = 60.0  # seconds: a machine that is slow for longer has become slower
WINDOW = 9  # intervals whose median speed is typical
MIN_SAMPLES = 5  # intervals after which the typical speed is certain


class Stopwatch:
    """Counts seconds of training, and measures the typical time of a step.

    Steps that are slow for a while are a stall, which counts only if it does not end: `undecided`
    are the seconds that count if the machine stays slow. Call `start` first and `tick` after each
    step.
    """

    def __init__(self, clock: Callable[[], float], seconds_before: float) -> None:
        self._clock = clock
        self.seconds = seconds_before  # of training until the latest tick, without stalls
        self._recent: deque[float] = deque(maxlen=WINDOW)  # seconds per step of intervals
        self._slow_intervals = 0  # in succession, until now
        self._stalled = 0.0  # seconds lost in them ...
        self._doubtful = 0.0  # ... without pauses
        self._excused = 0.0  # seconds of the stalls that have ended, without pauses
        self._ended_stall = 0.0

    def start(self, deadline: float | None, seconds_per_step: float | None) -> None:
        """Start counting; `seconds_per_step` is the speed that is planned with, if there is one."""
        self._deadline = math.inf if deadline is None else deadline
        self._interval = min(INTERVAL, self._deadline / 100)
        self.seconds_per_step = math.inf if seconds_per_step is None else seconds_per_step
        self._interval_start, self._seconds_then, self._steps = self._clock(), self.seconds, 0

    @property
    def undecided(self) -> float:
        """Seconds of the present stall, which count if it does not end; one interval proves none"""
        return self._doubtful if self._slow_intervals > 1 else 0.0

    @property
    def is_certain(self) -> bool:
        """Whether `seconds_per_step` is measured well enough to plan with."""
        return len(self._recent) >= MIN_SAMPLES and not self._slow_intervals

    def pop_stall(self) -> float:
        """Return the seconds of a stall that has ended since the last call, which do not count."""
        seconds, self._ended_stall = self._ended_stall, 0.0
        return seconds

    def tick(self) -> None:
        """Count the time since the last tick, in which a step was made."""
        self._steps += 1
        elapsed = self._clock() - self._interval_start
        if elapsed <= 0 or max(elapsed, self._steps * self.seconds_per_step) < self._interval:
            self.seconds = self._seconds_then + elapsed
            return
        self._judge(elapsed, self._steps * self.seconds_per_step)
        self._interval_start += elapsed
        self._seconds_then, self._steps = self.seconds, 0

    @contextmanager
    def apart(self, most: float) -> Iterator[None]:
        """Count other work: it is no step, and a stall only if it takes more than `most` seconds"""
        before = self._clock()
        try:
            yield
        finally:
            elapsed = self._clock() - before
            counted = min(elapsed, max(most, STALL_FACTOR * self._interval))
            self._ended_stall += elapsed - counted
            self.seconds += counted
            self._seconds_then += counted
            self._interval_start += elapsed

    def _judge(self, elapsed: float, expected: float) -> None:
        """Count an interval whose steps typically take `expected` seconds."""
        if elapsed > STALL_FACTOR * expected:
            self._stall(elapsed, expected)
            return
        self._excused += self._doubtful
        self._ended_stall += self._stalled
        self._end_stall()
        self.seconds = self._seconds_then + elapsed
        if math.isfinite(expected) and STALL_FACTOR * elapsed < expected:
            self._change_speed(elapsed / self._steps)
        self._recent.append(elapsed / self._steps)
        self.seconds_per_step = median(self._recent)

    def _stall(self, elapsed: float, expected: float) -> None:
        self._slow_intervals += 1
        self.seconds = max(self.seconds, self._seconds_then + expected)
        lost = self._seconds_then + elapsed - self.seconds
        self._stalled += lost
        if elapsed <= PAUSE_FACTOR * expected or self._slow_intervals > MAX_PAUSES:
            self._doubtful += lost
        if self._slow_intervals > 1 and self._doubtful > self._patience():
            self.seconds += self._doubtful
            self._end_stall()
            self._change_speed(elapsed / self._steps)

    def _patience(self) -> float:
        """Seconds after which a slow machine has become slower: then half of the time remains."""
        return min(MAX_STALL, (self._deadline - self.seconds - self._excused) / 2)

    def _end_stall(self) -> None:
        self._slow_intervals, self._stalled, self._doubtful = 0, 0.0, 0.0

    def _change_speed(self, seconds_per_step: float) -> None:
        self.seconds_per_step = seconds_per_step
        self._recent.extend([seconds_per_step] * WINDOW)
