"""Stalls of a run with a time limit: a stopped process, a sleeping computer, a busy machine."""

import json
import math
import os
import re
import signal
import time
from itertools import pairwise

import pytest
from helpers.runs import StepClock, started, stopped_after

from charrnn.training import pacing, planner
from charrnn.training.start import prepare_run
from charrnn.training.stopwatch import INTERVAL, STALL_FACTOR, Stopwatch

STEPS, DEADLINE = 400, 40.0  # as planned: 0.1 s per step


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def timed(corpus_file, tmp_path, seconds_per_step, **settings):
    """Run on a machine whose step k takes seconds_per_step(k); returns (reports, the clock)."""
    times = [0.0]

    def seconds_at(step):
        while len(times) <= step:
            times.append(times[-1] + seconds_per_step(len(times)))
        return times[step]

    clock = StepClock(seconds_at)
    settings = {"steps": STEPS, "patience": 0, "schedule": "linear"} | settings
    run = started(corpus_file, tmp_path / "m", clock=clock, **settings)
    run.progress.deadline = DEADLINE
    reports = list(run)
    assert run.finished
    assert all(a.seconds <= b.seconds for a, b in pairwise(reports))
    return reports, clock()


def notices_of(reports):
    return [report.notice for report in reports if report.notice]


def require_undisturbed(reports):
    """The run makes all its steps, in its time, and its learning rate falls to zero evenly."""
    last, rates = reports[-1], [report.learning_rate for report in reports]
    assert last.step == last.total_steps == pytest.approx(STEPS, rel=0.03)
    assert last.seconds == pytest.approx(DEADLINE, rel=0.03)
    assert last.chars_per_second == pytest.approx(reports[5].chars_per_second, rel=0.1)
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.01 * rates[0]
    assert max(a - b for a, b in pairwise(rates)) < 2 * rates[0] / STEPS


@pytest.mark.parametrize("stall", [5.0, 1e5])
@pytest.mark.parametrize("step", [1, 2, 7, 200, 380, 399, 400])
def test_a_pause_is_no_time_of_training(corpus_file, tmp_path, step, stall):
    """SIGSTOP, Ctrl-Z and a sleeping computer: one step takes very long."""
    reports, end = timed(corpus_file, tmp_path, lambda k: 0.1 + stall * (k == step))
    require_undisturbed(reports)
    assert end == pytest.approx(DEADLINE + stall, rel=0.03)
    notices = notices_of(reports)
    assert len(notices) == (step < 399)  # no step follows that would show the stall to be over
    assert all("stood still for" in notice and "planned anew" in notice for notice in notices)


def test_repeated_pauses_are_no_time_of_training(corpus_file, tmp_path):
    reports, end = timed(corpus_file, tmp_path, lambda k: 0.1 + 20.0 * (k % 50 == 40))
    require_undisturbed(reports)
    assert end == pytest.approx(DEADLINE + 160, rel=0.03)
    assert len(notices_of(reports)) == 8


def test_pauses_in_successive_steps_are_no_time_of_training(corpus_file, tmp_path):
    reports, _ = timed(corpus_file, tmp_path, lambda k: 0.1 + 20.0 * (k in (200, 201, 202)))
    require_undisturbed(reports)


@pytest.mark.parametrize("first", [1, 2, 100, 200, 250])
def test_a_machine_that_is_slow_for_a_while_loses_nothing(corpus_file, tmp_path, first):
    """It has 4 % of its speed in three steps, of 7.5 seconds."""
    slow = range(first, first + 3)
    reports, end = timed(corpus_file, tmp_path, lambda k: 2.5 if k in slow else 0.1)
    require_undisturbed(reports)
    assert end == pytest.approx(DEADLINE + 7.2, rel=0.03)
    assert len(notices_of(reports)) == 1


@pytest.mark.parametrize("factor", [2, 4, 6, 25])
@pytest.mark.parametrize("first", [1, 50, 200, 300, 360, 390])
def test_a_machine_that_becomes_slower_ends_in_time(corpus_file, tmp_path, first, factor):
    reports, end = timed(corpus_file, tmp_path, lambda k: 0.1 * (factor if k >= first else 1))
    # It takes two steps to tell a slow machine from a pause.
    most = pacing.DEADLINE_SLACK * DEADLINE + 0.1 * factor * (1 if factor <= STALL_FACTOR else 2)
    assert DEADLINE - 0.1 * factor < end <= most + 1e-6
    rates = [report.learning_rate for report in reports]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.3 * rates[0]
    if first in (50, 200) and factor > 2:
        assert any("slower than planned" in notice for notice in notices_of(reports))
        assert rates[-1] < (0.1 if factor < 25 else 0.3) * rates[0]  # few steps are left


def test_a_run_that_is_cut_short_says_so(corpus_file, tmp_path):
    reports, _ = timed(corpus_file, tmp_path, lambda k: 0.1 if k < 390 else 1.0)
    assert re.search(r"time is over after 39\d of 400 planned updates", reports[-1].notice)


@pytest.mark.parametrize("factor", [2, 4, 10, 25])
@pytest.mark.parametrize("first, after", [(1, 60), (100, 60), (200, 60), (300, 10)])
def test_a_run_never_ends_early_with_time_left(corpus_file, tmp_path, first, after, factor):
    """The machine is slow for many seconds, then as fast as before."""
    slow = range(first, first + after)
    reports, end = timed(corpus_file, tmp_path, lambda k: 0.1 * (factor if k in slow else 1))
    last = reports[-1]
    assert end >= DEADLINE * (1 - pacing.REPLAN_INTERVAL) - 0.1 * factor
    assert last.learning_rate < (0.1 if factor < 25 else 0.3) * reports[0].learning_rate


def test_a_machine_faster_than_planned_uses_its_time(corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr("charrnn.training.run.max_epochs", lambda *_: 200)
    reports, end = timed(corpus_file, tmp_path, lambda k: 0.02, val_fraction=0.5)
    assert end >= DEADLINE * 0.95 and reports[-1].step > 4 * STEPS
    reports, end = timed(corpus_file, tmp_path, lambda k: 0.1 if k < 380 else 0.02, overwrite=True)
    assert end >= DEADLINE * 0.95


def test_a_paused_run_resumes_with_its_seconds(corpus_file, tmp_path):
    clock = StepClock(lambda step: 0.1 * step + 50.0 * (step >= 100))
    run = started(corpus_file, tmp_path / "m", steps=STEPS, clock=clock)
    run.progress.deadline = DEADLINE
    stopped_after(run, 200)
    clock = StepClock(lambda step: 0.1 * (step - 200))
    run = started(corpus_file, tmp_path / "m", resume=True, clock=clock)
    reports = list(run)
    assert reports[0].seconds == pytest.approx(20.1, abs=0.2)
    assert reports[-1].step == pytest.approx(STEPS, rel=0.03)


def test_a_run_without_a_time_limit_reports_no_stall(corpus_file, tmp_path):
    clock = StepClock(lambda step: 0.1 * step + 50.0 * (step >= 10))
    reports = list(started(corpus_file, tmp_path / "m", steps=20, clock=clock))
    assert notices_of(reports) == []
    assert reports[-1].seconds == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("busy, least", [(3.0, 170), (60.0, 110)])
def test_a_stall_before_training_is_no_time_of_training(
    corpus_file, tmp_path, monkeypatch, busy, least
):
    """A minute passes between reading and training; the processor works for `busy` seconds."""
    monkeypatch.setattr(planner, "measure_chars_per_second", lambda *_: 600.0)
    now, cpu = [0.0], [0.0]
    prepared = prepare_run(
        corpus_file,
        tmp_path / "m",
        {"time": 180.0},
        clock=lambda: now[0],
        cpu_clock=lambda: cpu[0],
    )
    now[0], cpu[0] = 60.0, busy
    assert least < prepared.start().progress.deadline < 180 - busy


# --- the stopwatch


class FakeClock:
    now = 0.0

    def __call__(self):
        return self.now


def stopwatch(deadline, seconds_per_step):
    watch = Stopwatch(clock := FakeClock(), 0.0)
    watch.start(deadline, seconds_per_step)
    return watch, clock


def test_short_gaps_are_speed():
    """A container with a tenth of a processor works for 10 of every 100 ms."""
    watch, clock = stopwatch(30.0, None)
    for step in range(10_000):
        clock.now += 0.001 + 0.09 * (step % 10 == 9)
        watch.tick()
    assert watch.seconds == pytest.approx(clock.now)
    assert watch.seconds_per_step == pytest.approx(0.01, rel=0.2)


def test_a_quarter_of_a_second_is_judged_once():
    watch, clock = stopwatch(None, None)
    for _ in range(300):
        clock.now += 0.001
        watch.tick()
        assert watch.seconds == pytest.approx(clock.now)
    clock.now += 1.0 + INTERVAL * STALL_FACTOR
    watch.tick()
    assert watch.seconds == pytest.approx(0.301, abs=0.002)


def test_a_slow_disk_is_no_stall():
    watch, clock = stopwatch(30.0, 0.1)
    for _ in range(20):
        clock.now += 0.1
        watch.tick()
        with watch.apart(math.inf):
            clock.now += 5.0
    assert watch.seconds == pytest.approx(clock.now) and watch.pop_stall() == 0


@pytest.mark.parametrize("factor", [10, 1000])
def test_a_machine_that_stays_slow_is_slower(factor):
    watch, clock = stopwatch(None, 0.1)
    for _ in range(1000):
        clock.now += 0.1 * factor
        watch.tick()
    assert watch.seconds_per_step == pytest.approx(0.1 * factor)
    assert watch.seconds > 0.99 * clock.now


# --- real signals


@pytest.mark.slow
def test_a_stopped_command_loses_no_time(spawn, corpus_file, tmp_path):
    """It is stopped for longer than its time in the middle of training."""
    spawn("train", corpus_file, "-o", tmp_path / "compiled", "--steps", "2").wait()
    results = {}
    for stop in 0, 15:
        output = tmp_path / f"m{stop}"
        size = ["--hidden-size", "384"]  # 12 s are too short for the most epochs of a plan
        process = spawn("train", corpus_file, "-o", output, "--time", "12s", *size)
        while not (tmp_path / f"m{stop}.log.jsonl").exists():
            time.sleep(0.1)
        time.sleep(2)
        started_at = time.monotonic()
        if stop:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(stop)
            os.kill(process.pid, signal.SIGCONT)
        _, errors = process.communicate(timeout=120)
        log = (tmp_path / f"m{stop}.log.jsonl").read_text().splitlines()
        results[stop] = json.loads(log[-1]) | {"wall": time.monotonic() - started_at}
        assert (b"stood still for 1" in errors) == bool(stop)
    assert results[15]["seconds"] == pytest.approx(results[0]["seconds"], rel=0.2)
    assert results[15]["wall"] - results[0]["wall"] == pytest.approx(15, abs=2.5)
    assert results[15]["step"] > 0.6 * results[0]["step"]  # a machine varies by a third
    assert results[15]["learning_rate"] < 0.02 * 0.002
