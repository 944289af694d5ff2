"""What is fitted to a text and a time: by rules that are checked, at a speed that is measured."""

import sys
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from helpers.runs import log_of, started, stopped_after

import charrnn
from charrnn.config import ModelConfig, TrainOptions
from charrnn.evaluation.loss import mean_loss
from charrnn.text.streams import BatchStreams, clamp_batch_shape, split
from charrnn.training import planner as plan

RECIPE = TrainOptions(learning_rate=0.01)


def fitted(
    monkeypatch,
    characters,
    seconds,
    rate_of_128,
    given=(),
    num_val=0,
    options=RECIPE,
    **config,
):
    """The plan on a machine of a given speed, whose clock does not move."""
    weights = plan._weights(ModelConfig(65, hidden_size=128))

    def speed(ids, config, options, threads):
        return rate_of_128 * weights / plan._weights(config)

    monkeypatch.setattr(plan, "_characters_a_second", speed)
    monkeypatch.setattr(plan.time, "monotonic", lambda: 0.0)
    ids = np.zeros(characters, np.uint8)
    options = replace(options, time=seconds)
    return plan.fit_to_time(ids, num_val, ModelConfig(65, **config), options, 1, given, 0.0)


def test_more_time_gives_a_larger_model(monkeypatch):
    sizes = [
        fitted(monkeypatch, 10**6, seconds, 80_000).config.hidden_size
        for seconds in (10, 60, 180, 600, 6000)
    ]
    assert sizes == sorted(sizes) and len(set(sizes)) >= 4


def test_a_short_text_gives_a_small_model_and_dropout(monkeypatch):
    small, large = (fitted(monkeypatch, n, 180, 80_000) for n in (5_000, 20_000_000))
    assert small.config.hidden_size < large.config.hidden_size
    assert small.config.dropout == 0.4 and large.config.dropout == 0
    assert small.options.batch_size < large.options.batch_size == RECIPE.batch_size
    assert small.options.recurrent_dropout > 0.5 > 0 == large.options.recurrent_dropout
    assert small.options.weight_decay > 0 == large.options.weight_decay


@pytest.mark.parametrize("seconds, capped", [(1, False), (600, True), (6000, True)])
def test_a_short_text_is_not_read_for_ever(monkeypatch, seconds, capped):
    chosen = fitted(monkeypatch, 5_000, seconds, 80_000)
    streams = BatchStreams(
        np.zeros(5_000), *clamp_batch_shape(5_000, chosen.options.batch_size, 64)
    )
    assert (chosen.options.steps == 200 * streams.num_chunks) == capped
    assert ("planned for 200 epochs, not" in chosen.why) == capped


def test_nor_on_a_machine_that_becomes_faster(corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["charrnn.training.run"], "MOST_PASSES", 2)
    run = started(corpus_file, tmp_path / "m", steps=30, patience=0)
    run.progress.deadline = 10.0  # for which there are a hundred steps
    run._seconds = lambda: 0.1 * run.progress.step
    assert 30 < list(run)[-1].total_steps == 2 * run.streams.num_chunks < 100


@pytest.mark.parametrize("learning_rate", [0.01, 0.001])
@pytest.mark.parametrize("seconds", [60, 600])
def test_weights_that_nothing_pulls_shrink_by_about_half(monkeypatch, seconds, learning_rate):
    """Whatever the rate and the number of steps: by what is left after the product of all."""
    options = TrainOptions(learning_rate=learning_rate)
    chosen = fitted(monkeypatch, 10**5, seconds, 80_000, options=options, hidden_size=128)
    steps = chosen.options.steps
    rates = learning_rate * (1 - np.arange(steps) / steps)
    left = np.prod(1 - chosen.options.weight_decay * rates)
    assert 0.3 < left < 0.65


def test_no_weight_decay_for_what_has_none(monkeypatch):
    options = TrainOptions(optimizer="sgd", learning_rate=0.5)
    assert fitted(monkeypatch, 5_000, 180, 80_000, options=options).options.weight_decay == 0


def test_a_huge_text_is_read_in_part(monkeypatch):
    chosen = fitted(monkeypatch, 10**8, 60, 80_000)
    assert chosen.config.hidden_size >= 128
    assert chosen.options.steps * 16 * 64 < 10**8


def test_what_is_given_stays(monkeypatch):
    sizes = {"hidden_size": 96, "dropout": 0.25}
    given = [*sizes, "recurrent_dropout", "weight_decay"]
    chosen = fitted(monkeypatch, 10**5, 60, 80_000, given=given, **sizes)
    assert (chosen.config.hidden_size, chosen.config.dropout) == (96, 0.25)
    assert chosen.options.recurrent_dropout == chosen.options.weight_decay == 0


def test_no_other_size_than_the_given_is_tried(monkeypatch):
    """A deep network of few units may be all that the memory has room for."""
    tried = []

    def speed(ids, config, options, threads):
        tried.append(config.hidden_size)
        return 1e4

    monkeypatch.setattr(plan, "_characters_a_second", speed)
    ids, options = np.zeros(3000, np.uint8), replace(RECIPE, time=60.0)
    config = ModelConfig(65, hidden_size=8)
    plan.fit_to_time(ids, 0, config, options, 1, ["hidden_size"], time.monotonic())
    assert set(tried) == {8}


@pytest.mark.parametrize("seconds", [60, 600])
def test_the_steps_fill_the_time(monkeypatch, seconds):
    chosen = fitted(monkeypatch, 10**6, seconds, 80_000)
    rate = 80_000 * plan._weights(ModelConfig(65)) / plan._weights(chosen.config)
    spent = chosen.options.steps * 16 * 64 / rate
    assert 0.95 * seconds < spent < seconds


def test_a_run_of_a_few_seconds(corpus_file, tmp_path):
    model = charrnn.train(corpus_file, tmp_path / "m", time=4.0, num_layers=1, threads=1)
    options = model.training["options"]
    assert options["time"] == 4 and model.training["steps"] <= log_of(tmp_path / "m")[-1]["step"]


def test_the_schedule_follows_the_clock(corpus_file, tmp_path):
    """A machine that becomes half as fast after 30 of 100 steps still ends in time, at rate 0."""
    run = started(corpus_file, tmp_path / "m", steps=100, patience=0)
    run.progress.deadline = 10.0
    run._seconds = lambda: 0.1 * run.progress.step + 0.1 * max(0, run.progress.step - 30)
    reports = list(run)
    rates = [report.learning_rate for report in reports]
    assert run.finished and run._seconds() == pytest.approx(10, abs=0.4)
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.03 * rates[0]
    assert {report.total_steps for report in reports[:30]} == {100}
    assert max(a - b for a, b in pairwise(rates)) < 3 * rates[0] / 65  # no jump


@pytest.mark.parametrize("relative_speed", [1.0, 0.5, 0.21])
def test_what_is_read_last_is_the_end_of_the_text(
    corpus_file, tmp_path, monkeypatch, relative_speed
):
    """With a time to keep to, and however fast the machine is; what is held out comes next."""
    monkeypatch.setattr(plan, "_characters_a_second", lambda *_: 600.0)
    how = {"hidden_size": 8, "batch_size": 4, "seq_length": 8, "patience": 0}
    run = started(corpus_file, tmp_path / "m", time=60.0, **how)
    planned = run.summary.steps  # at first; the machine becomes slower all the time
    run._seconds = lambda: (run.progress.step / planned) ** 1.5 * 60 / relative_speed
    read, chunk = [], run.streams.chunk
    run.streams.chunk = lambda k: read.append(k) or chunk(k)
    list(run)
    chunks = list(range(run.streams.num_chunks))
    assert len(read) > 1.5 * len(chunks)
    assert read[-10:] == chunks[-10:]
    times = [read.count(k) for k in chunks]
    assert max(times) - min(times) <= 2  # nothing is passed over


def test_a_run_that_is_out_of_time_ends(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=100)
    run.progress.deadline = 1.0
    run._seconds = lambda: 1.0 * run.progress.step
    assert len(list(run)) == 2 and run.finished
    assert list(started(corpus_file, tmp_path / "m", resume=True)) == []


def test_a_machine_that_stalls_at_last_ends_in_time(corpus_file, tmp_path):
    """Between two looks at the clock: the last is at step 80."""
    run = started(corpus_file, tmp_path / "m", steps=100, patience=0)
    run.progress.deadline = 10.0
    run._seconds = lambda: 0.1 * run.progress.step + 0.5 * max(0, run.progress.step - 82)
    reports = list(run)
    assert run.finished and 10 < run._seconds() < 10.2 + 0.6
    assert reports[-1].step == reports[-1].total_steps < 90
    assert reports[-1].val_loss is not None
    assert list(started(corpus_file, tmp_path / "m", resume=True)) == []


def test_a_duration_in_words():
    assert [plan.format_duration(s) for s in (30, 90, 600, 7200)] == [
        "30 s", "90 s", "10 minutes", "2 hours",
    ]  # fmt: skip


@pytest.mark.parametrize("seconds, part", [(20, True), (60, True), (3600, False)])
def test_validations_take_a_small_share_of_the_time(monkeypatch, seconds, part):
    chosen = fitted(monkeypatch, 10**6, seconds, 80_000, num_val=100_000)
    rate = 80_000 * plan._weights(ModelConfig(65)) / plan._weights(chosen.config)
    looks = max(10, chosen.options.steps * 16 * 64 / 10**6)
    spent = looks * chosen.options.val_chars / (rate * plan.VALIDATION_RATE)
    assert spent < max(0.1 * seconds, 10 * plan.LEAST_VAL_CHARS / rate)
    assert (chosen.options.val_chars < 100_000) == part


def test_the_best_weights_are_measured_on_all_that_is_held_out(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=20, val_chars=50)
    assert any("validation reads 50 characters" in note for note in run.summary.notes)
    stopped_after(run, 12)
    assert run.held_out_loss is None
    run = started(corpus_file, tmp_path / "m", resume=True)
    assert run.options.val_chars == 50
    list(run)
    _, held_out = split(run.corpus.ids, 0.1)
    model = charrnn.load(tmp_path / "m")
    assert model.training["val_loss"] == run.held_out_loss != run.progress.best_val_loss
    assert mean_loss(model.model, held_out) == pytest.approx(run.held_out_loss, rel=0.02)
    assert run.progress.best_val_loss == min(loss for *_, loss in run.progress.history)
