"""Runs that go on beyond their end: `--resume` with another limit."""

import json
import shutil

import numpy as np
import pytest
from helpers.runs import StepClock, log_of, result_of, started, stopped_after, trained

import charrnn
from charrnn.errors import UsageError
from charrnn.storage.run_files import run_files
from charrnn.training.progress import Progress
from charrnn.training.state import read_state


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def finished(corpus_file, tmp_path_factory):
    """The folder of a run of two epochs that has ended, and its number of steps."""
    folder = tmp_path_factory.mktemp("finished")
    run = trained(corpus_file, folder / "m", epochs=2, dropout=0.1)
    return folder, run.progress.step


@pytest.fixture
def output(finished, tmp_path):
    for path in finished[0].iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / "m"


def rates_of(output):
    return [line["learning_rate"] for line in log_of(output)]


def test_a_finished_run_goes_on(corpus_file, finished, output):
    steps = finished[1]
    before = read_state(run_files(output).state)
    run = started(corpus_file, output, resume=True, epochs=4)
    assert run.summary.steps == 2 * steps and run.summary.resumed_step == steps
    assert f"the run goes on after step {steps}, to step {2 * steps}, from 1 times" in str(
        run.summary.notes
    )
    assert np.array_equal(
        run.ensemble.members[0].get_state().arrays()["mean.rnn.weight_hh_l0"],
        before.members[0].arrays()["mean.rnn.weight_hh_l0"],
    )
    for _ in run:
        pass
    rates = rates_of(output)[steps:]
    peak = max(rates)
    assert peak == pytest.approx(run.options.learning_rate, rel=0.06)
    assert rates[0] < 0.6 * peak and 0 < rates[-1] < 0.05 * peak
    assert np.diff(rates[rates.index(peak) :]).max() < 0
    assert run.finished and run.progress.step == 2 * steps
    assert [line.get("extended_step") for line in log_of(output)] == [None] * steps + [
        steps
    ] * steps
    assert charrnn.load(output).training["options"]["epochs"] == 4


@pytest.mark.parametrize("ensemble", [1, 2])
@pytest.mark.parametrize("stops", [[1], [3, 20]])
def test_an_interrupted_extension_resumes_exactly(corpus_file, tmp_path, ensemble, stops):
    settings = {"steps": 9, "dropout": 0.1, "ensemble": ensemble}
    for name in "whole", "parts":
        trained(corpus_file, tmp_path / name, **settings)
    trained(corpus_file, tmp_path / "whole", resume=True, steps=50)
    limit = {"steps": 50}
    for steps in stops:
        stopped_after(started(corpus_file, tmp_path / "parts", resume=True, **limit), steps)
        limit = {}  # it is part of the run
    run = trained(corpus_file, tmp_path / "parts", resume=True, steps=50)
    assert run.summary.resumed_step == 9 + sum(stops)
    assert result_of(tmp_path / "parts") == result_of(tmp_path / "whole")


def test_a_run_that_has_not_ended_gets_another_length(corpus_file, tmp_path):
    """Its learning rate, which is high enough, falls from where it is."""
    run = started(corpus_file, tmp_path / "m", steps=40)
    stopped_after(run, 10)
    trained(corpus_file, tmp_path / "m", resume=True, steps=70)
    rates = np.array(rates_of(tmp_path / "m"))
    falls = -np.diff(rates)
    assert len(rates) == 70 and (falls > 0).all() and rates[-1] < 0.02 * rates[0]
    np.testing.assert_allclose(falls[11:], rates[11] / 59, rtol=0.05)


def test_a_run_may_be_shortened_to_what_is_not_yet_made(corpus_file, tmp_path):
    stopped_after(started(corpus_file, tmp_path / "m", steps=40), 10)
    run = trained(corpus_file, tmp_path / "m", resume=True, steps=20)
    assert run.finished and run.progress.step == 20


@pytest.mark.parametrize(
    "limit, words",
    [
        ({"epochs": 1}, "has already made 2 epochs: give more"),
        ({"steps": 3}, "has already made .* steps: give more, or leave --steps out"),
        ({"time": 1e-9}, "has already made .* s: give more"),
    ],
)
def test_less_than_what_is_made_is_refused(corpus_file, output, limit, words):
    before = result_of(output)
    with pytest.raises(UsageError, match=words):
        started(corpus_file, output, resume=True, **limit)
    assert result_of(output) == before
    assert trained(corpus_file, output, resume=True, epochs=2).finished  # the lock is free


def test_two_limits_are_refused(corpus_file, output):
    with pytest.raises(UsageError, match="give one of"):
        started(corpus_file, output, resume=True, epochs=4, steps=1000)


def test_a_run_goes_on_for_a_time(corpus_file, output, finished):
    """The clock shows 0.01 s a step, after what the first two epochs took."""
    clock = StepClock(lambda step: 0.01 * step)
    run = started(corpus_file, output, resume=True, time=2.0, clock=clock)
    before = run.pacer.seconds
    for _ in run:
        pass
    seconds = 0.01 * (run.progress.step - finished[1])
    assert run.finished and 1.7 < before + seconds <= 2.02
    assert read_state(run_files(output).state).requested.limit == {"time": 2.0}


def test_more_time_is_added_to_a_run_with_a_time(corpus_file, tmp_path):
    clock = StepClock(lambda step: 0.01 * step)
    run = started(corpus_file, tmp_path / "m", time=1.0, clock=clock)
    for _ in run:
        pass
    first = run.progress.step
    clock = StepClock(lambda step: 0.01 * step)
    run = started(corpus_file, tmp_path / "m", resume=True, time=3.0, clock=clock)
    for _ in run:
        pass
    assert 0.01 * (run.progress.step - first) == pytest.approx(2.0, rel=0.1)


def test_the_best_model_stays_the_best(corpus_file, output, monkeypatch):
    """An extension that only makes the loss worse does not change the model."""
    before = output.read_bytes()
    run = started(corpus_file, output, resume=True, epochs=3)
    monkeypatch.setattr(run.validation, "loss", lambda: 99.0)
    for _ in run:
        pass
    assert charrnn.load(output).training["val_loss"] < 99 and output.read_bytes() == before


def test_early_stopping_counts_from_the_extension():
    history = [[step, 2 - step / 100, 1.0 if step == 1 else 3.0] for step in range(1, 21)]
    progress = Progress(
        20, step=20, first_loss=2.0, val_loss=3.0, best_val_loss=1.0, history=history
    )
    assert progress.should_stop_early(10)
    assert progress.extend(40, 0.5, 0.1)
    assert not progress.should_stop_early(10)
    progress.history += [[step, 1.0, 3.0] for step in range(21, 32)]
    assert progress.should_stop_early(10)


def test_a_text_that_has_grown_is_told(corpus_file, tmp_path):
    text = tmp_path / "text"
    text.write_bytes(corpus_file.read_bytes())
    trained(text, tmp_path / "m", steps=3)
    with text.open("a") as file:
        file.write("MARA: One more line.\n")
    with pytest.raises(UsageError, match="the text has grown .* with --init-from .*m -o NEW"):
        started(text, tmp_path / "m", resume=True)
    text.write_bytes(b"x" + corpus_file.read_bytes() + b"y")
    with pytest.raises(UsageError, match="the text is not the one"):
        started(text, tmp_path / "m", resume=True)


def test_the_command_goes_on(corpus_file, output, invoke):
    result = invoke("train", corpus_file, "-o", output, "--resume", "--epochs", "3")
    assert result.exit_code == 0, result.stderr
    [note] = [line for line in result.stderr.splitlines() if "goes on after step" in line]
    assert note.endswith("from 0.5 times its initial learning rate down to zero")
    lines = run_files(output).log.read_text().splitlines()
    assert "extended_step" in json.loads(lines[-1])
