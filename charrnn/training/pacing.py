"""Pacing: fits the number of updates to the time that a run may take, and measures its speed."""

from __future__ import annotations

from collections.abc import Callable

from ..arithmetic import ceil_div
from ..text.streams import BatchStreams
from .planner import MAX_EPOCHS
from .progress import Progress

REPLAN_TOLERANCE = 0.01  # relative error of total_steps below which the plan does not change
REPLAN_INTERVAL = 0.04  # of the deadline: the least time between two replannings
DEADLINE_SLACK = 1.02  # times the deadline, after which the run ends at once


class Pacer:
    """Replans `progress.total_steps` so that the run ends at `progress.deadline`.

    Time is counted in seconds of training, over all processes of the run: `seconds_before` is the
    time of earlier processes.
    """

    def __init__(
        self,
        progress: Progress,
        streams: BatchStreams,
        clock: Callable[[], float],
        seconds_before: float = 0.0,
    ) -> None:
        self._progress, self._streams = progress, streams
        self._clock, self._seconds_before = clock, seconds_before

    def start(self) -> None:
        """Start counting this process's time."""
        self._started_at = self._clock()
        self._first_step = self._progress.step + 1
        # (step, seconds) since which the speed is measured, for the plan and for the reports
        self._replan_mark = self._rate_mark = (self._progress.step, self._seconds_before)

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._seconds_before + self._clock() - self._started_at

    def measure_rate(self) -> tuple[float, float]:
        """Return the seconds so far, and this process's speed in characters per second."""
        step, seconds = self._progress.step, self.seconds
        mark_step, mark_seconds = self._rate_mark
        chars = self._streams.chars_in_chunks(step) - self._streams.chars_in_chunks(mark_step)
        rate = chars / max(seconds - mark_seconds, 1e-9)
        if step == self._first_step:  # it may have waited for compilation: do not count it
            self._rate_mark = step, seconds
        return seconds, rate

    def end_if_overdue(self) -> None:
        """End the run when the machine has become so slow that the deadline has passed."""
        progress = self._progress
        if progress.deadline is not None and self.seconds > DEADLINE_SLACK * progress.deadline:
            progress.set_total_steps(progress.step)

    def replan(self) -> bool:
        """Fit the remaining steps to the remaining time, at the speed since the last replanning.

        Returns whether the position in the text has changed.
        """
        progress, seconds = self._progress, self.seconds
        mark_step, mark_seconds = self._replan_mark
        if progress.deadline is None or progress.step == progress.total_steps:
            return False
        if seconds - mark_seconds < REPLAN_INTERVAL * progress.deadline:
            return False
        steps, elapsed = progress.step - mark_step, seconds - mark_seconds
        self._replan_mark = progress.step, seconds
        total = progress.step + max(0, int((progress.deadline - seconds) * steps / elapsed))
        total = max(progress.step, min(total, MAX_EPOCHS * self._streams.num_chunks))
        if abs(total - progress.total_steps) > REPLAN_TOLERANCE * progress.total_steps:
            progress.set_total_steps(total)
        return self.align_last_epoch()

    def align_last_epoch(self) -> bool:
        """In the last epoch, shift the read position so that training ends at the text's end.

        The validation text follows it; ending elsewhere costs 0.02 to 0.05 nats on plays
        (tests/bench/LOG.md). Earlier shifts would skip parts of the text again and again, since
        replanning follows the clock. Returns whether the position has changed.
        """
        progress, num_chunks = self._progress, self._streams.num_chunks
        offset = -progress.total_steps % num_chunks
        in_last_epoch = progress.total_steps - progress.step <= num_chunks
        if not in_last_epoch or offset == progress.chunk_offset:
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
