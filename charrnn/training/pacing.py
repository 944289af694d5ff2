"""Pacing: fits the number of updates to the time that a run may take, and measures its speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from ..arithmetic import ceil_div
from ..text.streams import BatchStreams
from .progress import Progress
from .stopwatch import STALL_FACTOR, Stopwatch

REPLAN_TOLERANCE = 0.01  # relative error of total_steps below which the plan does not change
REPLAN_INTERVAL = 0.04  # of the deadline: the least time between two replannings
OFF_PLAN = 0.5  # of the time left: relative error of a plan that does not wait for a validation
REPLANNED_SLOWER = (
    0.1  # of the deadline: with less time left, a slow run ends by the deadline alone
)
STALL_REPORTED = 0.01  # of the deadline: a longer stall is reported
MOST_VALIDATION = 0.1  # of the time so far: if validations have taken more, the next is skipped
DEADLINE_SLACK = 1.02  # times the deadline, after which the run ends at once


class Pacer:
    """Replans `progress.total_steps` so that the run ends at `progress.deadline`.

    Time is counted in seconds of training, over all processes of the run: `seconds_before` is the
    time of earlier processes. A validation reads `val_chars` characters. After `most_steps` the run
    ends, however much time is left.
    """

    def __init__(
        self,
        progress: Progress,
        streams: BatchStreams,
        clock: Callable[[], float],
        most_steps: int,
        seconds_before: float = 0.0,
        val_chars: int = 0,
    ) -> None:
        self._progress, self._streams = progress, streams
        self._stopwatch = Stopwatch(clock, seconds_before)
        self._val_steps = val_chars * streams.num_chunks / streams.chars_per_epoch
        self._most_steps = most_steps
        self._notices: list[str] = []
        self._validation_seconds = 0.0

    def start(self) -> None:
        """Start counting this process's time."""
        self._first_step = self._progress.step + 1
        # (step, seconds) since which the speed is measured: for the plan, at each replanning, and
        # for the reports
        self._replan_marks = [(self._progress.step, self.seconds)]
        self._rate_mark = self._replan_marks[0]
        steps = self._progress.total_steps - self._progress.step
        planned = (
            self._seconds_left / steps if steps and 0 < self._seconds_left < math.inf else None
        )
        self._stopwatch.start(self._progress.deadline, planned)

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._stopwatch.seconds

    @property
    def _seconds_left(self) -> float:
        deadline = self._progress.deadline
        return math.inf if deadline is None else deadline - self.seconds

    def saving(self) -> AbstractContextManager[None]:
        """Return the context in which to save: however slow the disk is, all of its time counts."""
        return self._stopwatch.apart(math.inf)

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Return the context in which to validate."""
        started_at = self.seconds
        limit = STALL_FACTOR * self._val_steps * self._stopwatch.seconds_per_step
        with self._stopwatch.apart(limit):
            yield
        self._validation_seconds += self.seconds - started_at

    @property
    def may_validate(self) -> bool:
        """Whether there is time for another validation; one of a large model takes seconds.

        A run that makes its most steps before its deadline has time: it does not depend on a clock.
        """
        if self._progress.deadline is None or self._makes_most_steps():
            return True
        return self._validation_seconds <= MOST_VALIDATION * self.seconds

    def _makes_most_steps(self) -> bool:
        """Whether time is left after the most steps, at the typical speed."""
        progress = self._progress
        if progress.total_steps < self._most_steps:
            return False
        needed = (progress.total_steps - progress.step) * self._stopwatch.seconds_per_step
        return needed <= self._seconds_left

    def pop_notices(self) -> list[str]:
        """Return the sentences on stalls and new plans since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def measure_rate(self) -> tuple[float, float]:
        """Return the seconds so far, and this process's speed in characters per second."""
        step, seconds = self._progress.step, self.seconds
        mark_step, mark_seconds = self._rate_mark
        chars = self._streams.chars_in_chunks(step) - self._streams.chars_in_chunks(mark_step)
        rate = chars / max(seconds - mark_seconds, 1e-9)
        if step == self._first_step:  # it may have waited for compilation: do not count it
            self._rate_mark = step, seconds
        return seconds, rate

    def count_step(self) -> bool:
        """Count the time of a step; end a run that is overdue, replan one that is far off its plan.

        Returns whether the position in the text has changed.
        """
        self._stopwatch.tick()
        progress = self._progress
        if progress.deadline is None:
            return False
        if (stall := self._stopwatch.pop_stall()) > STALL_REPORTED * progress.deadline:
            self._notices.append(
                f"training stood still for {stall:.1f} s, which do not count: the run is planned "
                "anew to end that much later."
            )
        if self.seconds + self._stopwatch.undecided > DEADLINE_SLACK * progress.deadline:
            self._end()
            return False
        return self._is_off_plan() and self._replan_at(self._stopwatch.seconds_per_step)

    def _end(self) -> None:
        """End the run: the machine has become so slow that the deadline has passed."""
        progress = self._progress
        if progress.total_steps - progress.step > REPLAN_TOLERANCE * progress.total_steps:
            self._notices.append(
                f"the time is over after {progress.step:,} of {progress.total_steps:,} planned "
                "updates: the machine has become slower."
            )
        progress.set_total_steps(progress.step)

    def _is_off_plan(self) -> bool:
        """Whether the plan, at the typical speed, ends far from the deadline."""
        progress, left = self._progress, self._seconds_left
        steps = progress.total_steps - progress.step
        if progress.deadline is None or not steps or not self._stopwatch.is_certain:
            return False
        if self._makes_most_steps():
            return False
        early = left - steps * self._stopwatch.seconds_per_step  # seconds; below 0: late
        tolerance = max(REPLAN_INTERVAL * progress.deadline, OFF_PLAN * left)
        return early > tolerance or (
            early < -tolerance and left > REPLANNED_SLOWER * progress.deadline
        )

    def _replan_at(self, seconds_per_step: float) -> bool:
        """Fit the remaining steps to the remaining time; returns as `replan`."""
        progress, before = self._progress, self._progress.total_steps
        self._replan_marks.clear()  # the speed was another one
        changed = self._set_steps_left(math.ceil(self._seconds_left / seconds_per_step))
        if progress.total_steps != before:
            faster = "faster" if progress.total_steps > before else "slower"
            self._notices.append(
                f"the machine is {faster} than planned: the run is planned anew, with "
                f"{progress.total_steps:,} updates."
            )
        return changed

    def replan(self) -> bool:
        """Fit the remaining steps to the speed in the last half of the time or more.

        A shorter time would count too much, or too little, of saving: it is rare and takes seconds.
        Returns whether the position in the text has changed.
        """
        progress, seconds = self._progress, self.seconds
        if progress.deadline is None or progress.step == progress.total_steps:
            return False
        if seconds - self._replan_marks[-1][1] < REPLAN_INTERVAL * progress.deadline:
            return False
        early = [mark for mark in self._replan_marks if mark[1] <= seconds / 2]
        mark_step, mark_seconds = early[-1] if early else self._replan_marks[0]
        steps, elapsed = progress.step - mark_step, seconds - mark_seconds
        return self._set_steps_left(max(0, round(self._seconds_left * steps / elapsed)))

    def _set_steps_left(self, steps: int) -> bool:
        """Plan `steps` more steps; returns whether the position in the text has changed."""
        progress = self._progress
        self._replan_marks.append((progress.step, self.seconds))
        total = min(progress.step + steps, self._most_steps)
        total = max(progress.step, total)
        if abs(total - progress.total_steps) > REPLAN_TOLERANCE * progress.total_steps:
            progress.set_total_steps(total)
        return self.align_last_epoch()

    def align_last_epoch(self) -> bool:
        """In the last epoch, shift the read position so that training ends at the text's end.

        The validation text follows it; ending elsewhere costs 0.02 to 0.05 nats on plays
        (tests/bench/LOG.md). Earlier shifts would skip parts of the text again and again, since
        replanning follows the clock. Records have no order. Returns whether the position has
        changed.
        """
        progress, num_chunks = self._progress, self._streams.num_chunks
        offset = -progress.total_steps % num_chunks
        in_last_epoch = progress.total_steps - progress.step <= num_chunks
        if not self._streams.is_ordered or not in_last_epoch or offset == progress.chunk_offset:
            return False
        progress.chunk_offset = offset
        return True


def validation_interval(total_steps: int, num_chunks: int) -> int:
    """Steps between validations: an epoch, but 10 to 100 validations per run."""
    least, most = ceil_div(total_steps, 100), ceil_div(total_steps, 10)
    return min(max(num_chunks, least), most)


def log_interval(total_steps: int) -> int:
    """Steps between lines of the log: some 200 lines per run."""
    return max(1, total_steps // 200)
