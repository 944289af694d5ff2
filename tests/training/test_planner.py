"""Planning: rules are checked at a given speed, and the speed is measured in short runs."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from helpers.runs import StepClock, started, stopped_after

import charrnn
from charrnn.config import ModelConfig, TrainOptions
from charrnn.evaluation.loss import mean_loss
from charrnn.network import precision
from charrnn.text.streams import split
from charrnn.training import pacing, planner
from charrnn.training.start import prepare_run

RATE = 80_000  # characters per second of 128 units
WEIGHTS = planner.num_multiplied_weights(ModelConfig(65, hidden_size=128))
RECIPE = TrainOptions()


def measured(config, options):
    """The speed of a machine that makes as many multiplications per second for any model."""
    return RATE * WEIGHTS / planner.num_multiplied_weights(config)


def plan_of(num_train, seconds, num_val=0, num_ngrams=0, measure=measured, **settings):
    """The plan for a text of zeros, on a clock that does not move."""
    options = planner.with_defaults(TrainOptions(time=seconds, **settings))
    streams = planner.make_streams(np.zeros(num_train, np.uint8), options)
    sizes = planner.TextSizes(65, num_train, num_val, num_ngrams)
    return streams, planner.make_plan(streams, sizes, options, measure, lambda: 0.0)


# (characters, seconds, settings) and what is planned for them: hidden size,
# dropout, recurrent dropout, weight decay, batch size, steps, val_chars, deadline.
PLANS = [
    ((300, 10.0, {}), (64, 0.5, 0.8, 0.08, 1, 1000, 33, "0x1.399936c5d54efp+3")),
    ((5_000, 1.0, {}), (64, 0.2, 0.5, 0.2, 5, 904, 555, "0x1.f55aaddaebecdp-1")),
    ((5_000, 180.0, {}), (64, 0.4, 0.6, 0.04, 5, 3200, 555, "0x1.60cc64eb4b8fcp+7")),
    ((119_286, 60.0, {}), (192, 0.2, 0.35, 0.08, 16, 1970, 13254, "0x1.d520127fa398dp+5")),
    (
        (119_286, 180.0, {"cell": "gru"}),
        (320, 0.2, 0.5, 0.06, 16, 2863, 13254, "0x1.60243b8431291p+7"),
    ),
    ((10**6, 10.0, {}), (64, 0.0, 0.0, 0.0, 16, 2670, 40509, "0x1.3485ca5ee7808p+3")),
    ((10**6, 60.0, {}), (128, 0.0, 0.0, 0.02, 16, 4234, 64248, "0x1.d191afaecad75p+5")),
    ((10**6, 600.0, {}), (448, 0.1, 0.1, 0.03, 16, 3579, 54307, "0x1.226f485439bf5p+9")),
    ((10**6, 6000.0, {}), (768, 0.2, 0.35, 0.01, 16, 12580, 111111, "0x1.6e32cba597efep+12")),
    ((2 * 10**7, 180.0, {}), (256, 0.0, 0.0, 0.0, 16, 3093, 46948, "0x1.4b9c3ce0691f1p+7")),
    ((10**8, 60.0, {}), (128, 0.0, 0.0, 0.0, 16, 4079, 61915, "0x1.c0a92ebf7187cp+5")),
    (
        (10**5, 60.0, {"hidden_size": 96, "dropout": 0.25}),
        (96, 0.25, 0.35, 0.02, 16, 7631, 11111, "0x1.d61fa8449b02cp+5"),
    ),
    (
        (10**5, 600.0, {"recurrent_dropout": 0.0, "weight_decay": 0.0}),
        (192, 0.2, 0.0, 0.0, 16, 19600, 11111, "0x1.25eee6f6af482p+9"),
    ),
    (
        (10**6, 180.0, {"optimizer": "sgd"}),
        (256, 0.1, 0.0, 0.0, 16, 3248, 49282, "0x1.5c1757cad353dp+7"),
    ),
    (
        (5_000, 60.0, {"optimizer": "adam", "learning_rate": 0.001, "batch_size": 32}),
        (64, 0.4, 0.6, 1.0, 19, 1000, 555, "0x1.d664c6e061724p+5"),
    ),
    (
        (
            10**6,
            180.0,
            {"num_layers": 1, "embedding_size": 24, "seq_length": 100, "batch_size": 64},
        ),
        (384, 0.1, 0.0, 0.2, 64, 645, 60911, "0x1.5cfaff1ebf26dp+7"),
    ),
    (
        (10**6, 180.0, {"val_chars": 2_000}),
        (256, 0.1, 0.0, 0.03, 16, 3525, 2000, "0x1.60b71a0c5dcf3p+7"),
    ),
    (
        (10**6, 3600.0, {"num_layers": 3, "cell": "lstm-peephole"}),
        (512, 0.2, 0.35, 0.02, 16, 10173, 111111, "0x1.b711fad66c5d5p+11"),
    ),
]


@pytest.mark.parametrize("given, expected", PLANS, ids=[str(given) for given, _ in PLANS])
def test_plans_have_not_changed(given, expected):
    """Recorded values: the rules were chosen by measurement (tests/bench/LOG.md)."""
    characters, seconds, settings = given
    _, plan = plan_of(characters, seconds, num_val=characters // 9, **settings)
    c, o = plan.config, plan.options
    assert expected == (
        c.hidden_size,
        c.dropout,
        o.recurrent_dropout,
        o.weight_decay,
        o.batch_size,
        o.steps,
        o.val_chars,
        plan.deadline.hex(),
    )


def test_a_long_text_gets_ngrams_and_one_wide_layer():
    _, plan = plan_of(10**6, 60, num_ngrams=700)
    _, plain = plan_of(10**6, 60, num_ngrams=0)
    c = plan.config
    assert (c.num_layers, c.ngrams, c.num_ngrams) == (1, 3, 700)
    assert plain.config.num_layers == 2 and c.hidden_size > plain.config.hidden_size
    assert plan.options.steps < plain.options.steps
    _, plan = plan_of(10**6, 60, num_ngrams=700, num_layers=3)
    assert (plan.config.num_layers, plan.config.num_ngrams) == (3, 700)


def test_a_text_that_is_read_many_times_gets_no_ngrams():
    _, plan = plan_of(10**5, 60, num_ngrams=700)
    assert (plan.config.num_layers, plan.config.ngrams, plan.config.num_ngrams) == (2, 1, 0)
    _, plan = plan_of(10**5, 60, num_ngrams=700, ngrams=3)
    assert (plan.config.num_layers, plan.config.ngrams, plan.config.num_ngrams) == (1, 3, 700)


def test_the_precision_is_chosen_for_a_run_with_a_time(corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "BFLOAT16", True)
    monkeypatch.setattr("charrnn.training.trainer.require_precision", lambda precision: None)
    cases = (
        (1.5, {"time": 60.0}, "bfloat16"),
        (1.1, {"time": 60.0}, "float32"),
        (1.5, {"steps": 2}, "float32"),
        (1.5, {"time": 60.0, "precision": "float32"}, "float32"),
        (1.1, {"time": 60.0, "precision": "bfloat16"}, "bfloat16"),
    )
    for i, (speedup, how, expected) in enumerate(cases):
        monkeypatch.setattr(precision, "bfloat16_speedup", lambda speedup=speedup: speedup)
        monkeypatch.setattr(planner, "measure_chars_per_second", lambda *_: 600.0)
        run = started(corpus_file, tmp_path / f"m{i}", hidden_size=8, **how)
        assert run.options.precision == expected
        assert (expected in " ".join(run.summary.notes)) == ("time" in how)


def test_both_precisions_are_timed():
    assert 0.01 < precision.bfloat16_speedup() < 100


def test_more_time_gives_a_larger_model():
    sizes = [plan_of(10**6, seconds)[1].config.hidden_size for seconds in (10, 60, 180, 600, 6000)]
    assert sizes == sorted(sizes) and len(set(sizes)) >= 4


def test_a_short_text_gives_a_small_model_and_dropout():
    small, large = (plan_of(n, 180)[1] for n in (5_000, 20_000_000))
    assert small.config.hidden_size < large.config.hidden_size
    assert small.config.dropout == 0.4 and large.config.dropout == 0
    assert small.options.batch_size < large.options.batch_size == planner.DEFAULT_BATCH_SIZE
    assert small.options.recurrent_dropout > 0.5 > 0 == large.options.recurrent_dropout
    assert small.options.weight_decay > 0 == large.options.weight_decay


@pytest.mark.parametrize("seconds, capped", [(1, False), (600, True), (6000, True)])
def test_a_plan_has_at_most_200_epochs(seconds, capped):
    streams, plan = plan_of(5_000, seconds)
    assert (plan.options.steps == 200 * streams.num_chunks) == capped
    assert ("planned for 200 epochs, not" in plan.summary) == capped


def test_replanning_on_a_faster_machine_has_at_most_max_epochs(corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr(pacing, "MAX_EPOCHS", 2)
    clock = StepClock(lambda step: 0.1 * step)
    run = started(corpus_file, tmp_path / "m", steps=30, patience=0, clock=clock)
    run.progress.deadline = 10.0  # enough for a hundred steps
    assert 30 < list(run)[-1].total_steps == 2 * run.streams.num_chunks < 100


@pytest.mark.parametrize("learning_rate", [0.01, 0.001])
@pytest.mark.parametrize("seconds", [60, 600])
def test_a_weight_without_gradient_decays_to_about_half(seconds, learning_rate):
    """The product of all steps' factors is the same for any learning rate and number of steps."""
    _, plan = plan_of(10**5, seconds, learning_rate=learning_rate, hidden_size=128)
    steps = plan.options.steps
    rates = learning_rate * (1 - np.arange(steps) / steps)
    assert 0.3 < np.prod(1 - plan.options.weight_decay * rates) < 0.65


def test_an_optimizer_without_weight_decay_gets_none():
    _, plan = plan_of(5_000, 180, optimizer="sgd")
    assert plan.options.weight_decay == 0


def test_a_huge_text_is_read_in_part_by_a_model_of_usual_size():
    """The same characters are read as of a text of a hundredth, by a model of the same size."""
    streams, plan = plan_of(10**8, 60)
    _, of_less = plan_of(10**6, 60)
    assert plan.config.hidden_size == of_less.config.hidden_size == 128
    assert plan.options.steps < streams.num_chunks / 20
    assert plan.options.steps == pytest.approx(of_less.options.steps, rel=0.05)


def test_given_sizes_and_rates_are_not_changed():
    given = {"hidden_size": 96, "dropout": 0.25, "recurrent_dropout": 0.0, "weight_decay": 0.0}
    _, plan = plan_of(10**5, 60, **given)
    assert (plan.config.hidden_size, plan.config.dropout) == (96, 0.25)
    assert plan.options.recurrent_dropout == plan.options.weight_decay == 0


def test_options_without_a_limit_get_the_default_time():
    assert planner.with_defaults(RECIPE).limit == {"time": planner.DEFAULT_TIME}
    assert planner.with_defaults(replace(RECIPE, epochs=2.0)).limit == {"epochs": 2.0}
    assert planner.with_defaults(replace(RECIPE, steps=7)).hidden_size == 128
    assert planner.with_defaults(replace(RECIPE, steps=7)).ngrams == 3
    assert planner.with_defaults(replace(RECIPE, time=5.0)).hidden_size is None
    assert planner.with_defaults(replace(RECIPE, time=5.0)).ngrams is None


def test_only_a_given_size_is_measured():
    """The memory may be too small for a deep network of more units."""
    tried = []

    def measure(config, options):
        tried.append(config.hidden_size)
        return 1e4

    plan_of(3000, 60.0, measure=measure, hidden_size=8)
    assert set(tried) == {8}


@pytest.mark.parametrize("seconds", [60, 600])
def test_the_steps_fill_the_time(seconds):
    _, plan = plan_of(10**6, seconds)
    spent = plan.options.steps * 16 * 64 / measured(plan.config, plan.options)
    assert 0.95 * seconds < spent < seconds


def test_a_run_of_a_few_seconds_ends_in_time(corpus_file, tmp_path):
    charrnn.train(corpus_file, tmp_path / "compiled", steps=1, num_layers=1, hidden_size=128)
    run = started(corpus_file, tmp_path / "m", time=4.0, num_layers=1)
    reports = list(run)
    last = reports[-1]
    assert run.finished and last.step == last.total_steps > 1
    assert last.seconds < 4 * pacing.DEADLINE_SLACK + 1  # the last step and validation
    training = charrnn.load(tmp_path / "m").training
    assert training["options"]["time"] == 4
    assert training["total_steps"] in {report.total_steps for report in reports}


def test_the_schedule_follows_the_clock(corpus_file, tmp_path):
    """A machine that becomes half as fast after 30 of 100 steps still ends in time, at rate 0."""
    clock = StepClock(lambda step: 0.1 * step + 0.1 * max(0, step - 30))
    run = started(corpus_file, tmp_path / "m", steps=100, patience=0, clock=clock)
    run.progress.deadline = 10.0
    reports = list(run)
    rates = [report.learning_rate for report in reports]
    assert run.finished and clock() == pytest.approx(10, abs=0.4)
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.03 * rates[0]
    assert {report.total_steps for report in reports[:30]} == {100}
    assert max(a - b for a, b in pairwise(rates)) < 3 * rates[0] / 65  # no jump


@pytest.mark.parametrize("relative_speed", [1.0, 0.5, 0.21])
def test_training_ends_at_the_end_of_the_text(corpus_file, tmp_path, monkeypatch, relative_speed):
    """With a time limit, however fast the machine is: the validation text follows."""
    monkeypatch.setattr(planner, "measure_chars_per_second", lambda *_: 600.0)
    how = {"hidden_size": 8, "batch_size": 4, "seq_length": 8, "patience": 0}
    # The machine becomes slower all the time.
    clock = StepClock(lambda step: (step / run.summary.steps) ** 1.5 * 60 / relative_speed)
    run = started(corpus_file, tmp_path / "m", time=60.0, clock=clock, **how)
    read, chunk = [], run.streams.chunk
    run.streams.chunk = lambda k, epoch: read.append(k) or chunk(k, epoch)
    list(run)
    chunks = list(range(run.streams.num_chunks))
    assert len(read) > 1.5 * len(chunks)
    assert read[-10:] == chunks[-10:]
    times = [read.count(k) for k in chunks]
    assert max(times) - min(times) <= 2  # no part is skipped


def test_a_run_that_is_out_of_time_ends(corpus_file, tmp_path):
    clock = StepClock(lambda step: 1.0 * step)
    run = started(corpus_file, tmp_path / "m", steps=100, clock=clock)
    run.progress.deadline = 1.0
    assert len(list(run)) == 2 and run.finished
    assert list(started(corpus_file, tmp_path / "m", resume=True)) == []


def test_a_machine_that_stalls_near_the_end_ends_in_time(corpus_file, tmp_path):
    """It stalls between two replannings; the last is at step 80."""
    clock = StepClock(lambda step: 0.1 * step + 0.5 * max(0, step - 82))
    run = started(corpus_file, tmp_path / "m", steps=100, patience=0, clock=clock)
    run.progress.deadline = 10.0
    reports = list(run)
    assert run.finished and 10 < clock() < 10.2 + 0.6
    assert reports[-1].step == reports[-1].total_steps < 90
    assert reports[-1].val_loss is not None
    assert list(started(corpus_file, tmp_path / "m", resume=True)) == []


def test_time_before_training_counts(corpus_file, tmp_path, monkeypatch):
    """A minute of baselines leaves less than two of three minutes for training."""
    monkeypatch.setattr(planner, "measure_chars_per_second", lambda *_: 600.0)
    now = [0.0]
    prepared = prepare_run(corpus_file, tmp_path / "m", {"time": 180.0}, clock=lambda: now[0])
    now[0] = 60.0
    assert prepared.start().progress.deadline < 120 * (1 - planner.CHECKPOINT_TIME_SHARE)


def test_durations_are_formatted_in_words():
    assert [planner.format_duration(s) for s in (30, 90, 600, 7200)] == [
        "30 s",
        "90 s",
        "10 minutes",
        "2 hours",
    ]


@pytest.mark.parametrize("seconds, part", [(20, True), (60, True), (3600, False)])
def test_validations_take_a_small_share_of_the_time(seconds, part):
    _, plan = plan_of(10**6, seconds, num_val=100_000)
    rate = measured(plan.config, plan.options)
    validations = max(10, plan.options.steps * 16 * 64 / 10**6)
    spent = validations * plan.options.val_chars / (rate * planner.VALIDATION_SPEEDUP)
    assert spent < max(0.1 * seconds, 10 * planner.MIN_VAL_CHARS / rate)
    assert (plan.options.val_chars < 100_000) == part


def test_the_best_weights_are_validated_on_the_whole_validation_text(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=20, val_chars=50)
    assert any("validation reads 50 characters" in note for note in run.summary.notes)
    stopped_after(run, 12)
    assert run.full_val_loss is None
    run = started(corpus_file, tmp_path / "m", resume=True)
    assert run.options.val_chars == 50
    list(run)
    _, val_ids = split(run.corpus.ids, 0.1)
    model = charrnn.load(tmp_path / "m")
    assert model.training["val_loss"] == run.full_val_loss != run.progress.best_val_loss
    assert mean_loss(model.model, val_ids) == pytest.approx(run.full_val_loss, rel=0.02)
    assert run.progress.best_val_loss == min(loss for *_, loss in run.progress.history)
