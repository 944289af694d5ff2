"""Planning: rules are checked at a given speed, and the speed is measured in short runs."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from helpers.runs import StepClock, started, stopped_after, trained

import charrnn
from charrnn.config import PRECISIONS, ModelConfig, TrainOptions
from charrnn.evaluation.loss import mean_loss
from charrnn.network import precision
from charrnn.text.streams import split
from charrnn.training import model_choice, pacing, planner
from charrnn.training.start import prepare_run

RATE = 80_000  # characters per second of one model of 2 x 128 units
COST = model_choice.cost_of(ModelConfig(65, hidden_size=128))
RECIPE = TrainOptions()


def measured(config, options):
    """The speed of a machine that takes as long for a multiplication in any model."""
    return RATE * COST / (model_choice.cost_of(config) * options.ensemble)


def plan_of(num_train, seconds, num_val=0, num_ngrams=0, measure=measured, **settings):
    """The plan for a text of zeros, on a clock that does not move."""
    options = planner.with_defaults(TrainOptions(time=seconds, **settings))
    streams = planner.make_streams(np.zeros(num_train, np.uint8), options)
    sizes = model_choice.TextSizes(65, num_train, num_val, num_ngrams)
    return streams, planner.make_plan(streams, sizes, options, measure, lambda: 0.0)


# (characters, n-grams, seconds, settings) and what is planned for them: models, layers, units,
# n-grams, dropout, recurrent dropout, weight decay, batch size, steps, val_chars, deadline.
PLANS = [
    ((300, 0, 10.0, {}), (8, 2, 64, 0, 0.46, 0.72, 0.1, 1, 1000, 33, "0x1.39951bcbf104ap+3")),
    ((5000, 0, 1.0, {}), (1, 2, 64, 0, 0.24, 0.52, 0.2, 5, 610, 555, "0x1.f52b7c2802786p-1")),
    ((5000, 300, 180.0, {}), (8, 2, 64, 0, 0.2, 0.49, 0.05, 5, 3200, 555, "0x1.60c814332b98ep+7")),
    (
        (119286, 4000, 60.0, {}),
        (4, 1, 224, 4000, 0.18, 0.18, 0.2, 16, 899, 13254, "0x1.d4003b3df9d41p+5"),
    ),
    (
        (119286, 4000, 600.0, {"cell": "gru"}),
        (4, 2, 256, 0, 0.18, 0.33, 0.04, 16, 4102, 13254, "0x1.259f056e259fcp+9"),
    ),
    (
        (1000000, 7000, 10.0, {}),
        (1, 1, 96, 7000, 0.0, 0.0, 0.04, 16, 1878, 31176, "0x1.3308cf3bc51f9p+3"),
    ),
    (
        (1000000, 7000, 60.0, {}),
        (2, 1, 192, 7000, 0.03, 0.0, 0.04, 16, 2326, 39119, "0x1.ce84917e0c872p+5"),
    ),
    (
        (1000000, 7000, 600.0, {}),
        (4, 1, 384, 7000, 0.1, 0.0, 0.04, 16, 3108, 60270, "0x1.22c8981f69ec6p+9"),
    ),
    (
        (1000000, 7000, 6000.0, {}),
        (4, 1, 512, 7000, 0.1, 0.07, 0.03, 16, 4462, 111111, "0x1.6ecfd84e1d531p+12"),
    ),
    (
        (20000000, 30000, 180.0, {}),
        (2, 1, 160, 30000, 0.0, 0.0, 0.01, 16, 7825, 153054, "0x1.5a048c8237bdbp+7"),
    ),
    (
        (100000000, 30000, 60.0, {}),
        (2, 1, 128, 30000, 0.0, 0.0, 0.03, 16, 3190, 66758, "0x1.c22b8d45f8cd3p+5"),
    ),
    (
        (100000, 4000, 60.0, {"hidden_size": 96, "dropout": 0.25}),
        (2, 2, 96, 0, 0.25, 0.24, 0.05, 16, 3393, 11111, "0x1.d5c7c6607ef4cp+5"),
    ),
    (
        (100000, 0, 600.0, {"recurrent_dropout": 0.0, "weight_decay": 0.0}),
        (4, 2, 224, 0, 0.2, 0.0, 0.0, 16, 4032, 11111, "0x1.25ad5c1bded19p+9"),
    ),
    (
        (1000000, 7000, 180.0, {"optimizer": "sgd"}),
        (4, 1, 224, 7000, 0.01, 0.0, 0.0, 16, 2579, 46111, "0x1.5bc59fec54af7p+7"),
    ),
    (
        (5000, 0, 60.0, {"optimizer": "adam", "learning_rate": 0.001, "batch_size": 32}),
        (8, 2, 64, 0, 0.2, 0.49, 2.0, 19, 1000, 555, "0x1.d65383ffe196bp+5"),
    ),
    (
        (
            1000000,
            7000,
            180.0,
            {"num_layers": 1, "embedding_size": 24, "seq_length": 100, "batch_size": 64},
        ),
        (4, 1, 224, 7000, 0.02, 0.0, 0.2, 64, 445, 42500, "0x1.5b59f92ec26eep+7"),
    ),
    (
        (1000000, 7000, 180.0, {"val_chars": 2000, "ensemble": 1}),
        (1, 1, 448, 7000, 0.16, 0.16, 0.05, 16, 3598, 2000, "0x1.60b91343dfe18p+7"),
    ),
    (
        (1000000, 7000, 3600.0, {"num_layers": 3, "cell": "lstm-peephole", "ngrams": 1}),
        (4, 3, 384, 7000, 0.17, 0.17, 0.04, 16, 3937, 78806, "0x1.b54cf6df37d04p+11"),
    ),
]


@pytest.mark.parametrize("given, expected", PLANS, ids=[str(given) for given, _ in PLANS])
def test_plans_have_not_changed(given, expected):
    """Recorded values: the rules were chosen by measurement (tests/bench/LOG.md)."""
    characters, num_ngrams, seconds, settings = given
    num_val = characters // 9
    _, plan = plan_of(characters, seconds, num_val, num_ngrams, **settings)
    c, o = plan.config, plan.options
    assert expected == (
        o.ensemble,
        c.num_layers,
        c.hidden_size,
        c.num_ngrams,
        c.dropout,
        o.recurrent_dropout,
        o.weight_decay,
        o.batch_size,
        o.steps,
        o.val_chars,
        plan.deadline.hex(),
    )


TEXTS = [(1_800, 200), (18_000, 1_500), (145_000, 6_000), (10**6, 7_200), (7 * 10**6, 30_000)]


@pytest.mark.parametrize("num_train, num_ngrams", TEXTS)
def test_more_time_is_never_expected_to_give_a_higher_loss(num_train, num_ngrams):
    expected = []
    for seconds in (5, 10, 20, 30, 45, 60, 90, 120, 180, 240, 480, 600, 1200, 3600, 36_000):
        streams, plan = plan_of(num_train, seconds, num_train // 9, num_ngrams)
        c, o = plan.config, plan.options
        epochs = o.steps / streams.num_chunks
        curve = model_choice.curve_of(c)
        expected.append(curve.loss(num_train, c.hidden_size, epochs, o.ensemble))
    assert all(after < before + 0.002 for before, after in pairwise(expected))


@pytest.mark.parametrize("num_train, num_ngrams", TEXTS)
def test_a_faster_machine_is_never_expected_to_give_a_higher_loss(num_train, num_ngrams):
    expected = []
    for speed in (0.1, 0.3, 0.5, 1, 1.4, 2, 3, 4, 10, 30):
        rate = lambda c, o, speed=speed: speed * measured(c, o)  # noqa: E731
        streams, plan = plan_of(num_train, 60, num_train // 9, num_ngrams, rate)
        c, o = plan.config, plan.options
        epochs = o.steps / streams.num_chunks
        curve = model_choice.curve_of(c)
        expected.append(curve.loss(num_train, c.hidden_size, epochs, o.ensemble))
    assert all(after < before + 0.002 for before, after in pairwise(expected))


def test_models_with_ngrams_have_one_wide_layer():
    _, plan = plan_of(10**6, 60, num_ngrams=700)
    _, plain = plan_of(10**6, 60, num_ngrams=0)
    c = plan.config
    assert (c.num_layers, c.ngrams, c.num_ngrams) == (1, 3, 700)
    assert plain.config.num_layers == 2
    _, plan = plan_of(10**6, 60, num_ngrams=700, num_layers=3)
    assert (plan.config.num_layers, plan.config.num_ngrams) == (3, 700)


def test_a_text_that_is_read_many_times_gets_no_ngrams():
    _, plan = plan_of(10**5, 600, num_ngrams=700)
    assert (plan.config.num_layers, plan.config.ngrams, plan.config.num_ngrams) == (2, 1, 0)
    _, plan = plan_of(10**5, 600, num_ngrams=700, ngrams=3)
    assert (plan.config.num_layers, plan.config.ngrams, plan.config.num_ngrams) == (1, 3, 700)


def test_a_given_ensemble_is_planned_for():
    for count in 1, 3:
        _, plan = plan_of(10**6, 60, num_ngrams=700, ensemble=count)
        assert plan.options.ensemble == count
        assert ("average of 3 models, each 1 x" in plan.summary) == (count == 3)


def test_the_table_of_ngrams_stays_small():
    """It is most of the file."""
    _, few = plan_of(10**6, 3600, num_ngrams=1000, ngrams=3)
    _, many = plan_of(10**6, 3600, num_ngrams=30_000, ngrams=3)
    _, of_long_text = plan_of(10**8, 3600, num_ngrams=30_000, ngrams=3)
    units = []
    for plan in few, many, of_long_text:
        units.append(plan.options.ensemble * plan.config.hidden_size)
    assert 4 * 4 * units[0] * 1065 < 2.5e8 and 4 * 4 * units[1] * 30_065 < 2.5e8
    assert units[1] < min(units[0], units[2])


def test_the_precision_is_chosen_for_a_run_with_a_time(corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "BFLOAT16", True)
    monkeypatch.setattr("charrnn.training.trainer.require_precision", lambda precision: None)
    cases = (
        (1.5, {"time": 60.0}, "bfloat16"),
        (1.1, {"time": 60.0}, "float32"),
        (0.5, {"time": 60.0}, "float32"),
        (1.5, {"steps": 2}, "float32"),
        (1.5, {"time": 60.0, "precision": "float32"}, "float32"),
        (1.1, {"time": 60.0, "precision": "bfloat16"}, "bfloat16"),
    )
    for i, (speedup, how, expected) in enumerate(cases):
        gflops = {"float32": 100.0, "bfloat16": 100.0 * speedup}
        monkeypatch.setattr(precision, "measure_gflops", lambda gflops=gflops: gflops)
        monkeypatch.setattr(planner, "measure_chars_per_second", lambda *_: 600.0)
        run = started(corpus_file, tmp_path / f"m{i}", hidden_size=8, **how)
        assert run.options.precision == expected
        assert (expected in " ".join(run.summary.notes)) == ("time" in how)


def test_both_precisions_are_timed():
    gflops = precision.measure_gflops()
    assert gflops.keys() == set(PRECISIONS)
    assert all(0.01 < speed < 10_000 for speed in gflops.values())


def test_more_time_gives_more_or_larger_models():
    plans = [plan_of(10**6, seconds)[1] for seconds in (10, 60, 180, 600, 6000)]
    sizes = [p.options.ensemble * p.config.hidden_size for p in plans]
    assert sizes == sorted(sizes) and len(set(sizes)) >= 4


def test_a_short_text_gives_a_small_model_and_dropout():
    small, large = (plan_of(n, 180)[1] for n in (5_000, 20_000_000))
    assert small.config.hidden_size < large.config.hidden_size
    assert small.config.dropout >= 0.2 > 0 == large.config.dropout
    assert small.options.batch_size < large.options.batch_size == planner.DEFAULT_BATCH_SIZE
    assert small.options.recurrent_dropout > 0.4 > 0 == large.options.recurrent_dropout
    assert small.options.weight_decay > 0 == large.options.weight_decay


@pytest.mark.parametrize("num_ngrams", [0, 500])
def test_a_plan_ends_where_more_epochs_would_overfit(num_ngrams):
    """It then takes less than the time; `num_ngrams` are those of a text of 5,000 characters."""
    given = {"ngrams": 3} if num_ngrams else {}
    _, short = plan_of(5_000, 0.5, num_ngrams=num_ngrams, **given)
    assert "planned for 0.5 s at" in short.summary
    plans = [plan_of(5_000, seconds, num_ngrams=num_ngrams, **given) for seconds in (600, 6000)]
    for seconds, (streams, plan) in zip((600, 6000), plans, strict=True):
        most = model_choice.max_epochs(5_000, plan.config)
        assert plan.options.steps == int(most * streams.num_chunks)
        assert "planned for less than" in plan.summary
        spent = plan.options.steps * streams.chars_per_epoch / streams.num_chunks
        rate = measured(plan.config, plan.options)
        assert spent / rate < 0.2 * plan.deadline
        assert 0.9 * seconds < plan.deadline < seconds


def test_more_time_than_a_text_needs_gives_the_same_model(text, tmp_path):
    """The clock decides neither the number of updates nor when to validate."""
    (tmp_path / "short").write_text(text[:500])
    sizes = {"hidden_size": 8, "num_layers": 1, "ensemble": 1, "ngrams": 1, "patience": 20}
    runs = [
        trained(tmp_path / "short", tmp_path / str(time), time=time, **sizes)
        for time in (100.0, 1000.0)
    ]
    first, second = (run.progress for run in runs)
    assert first.step > 100 and first.history == second.history
    flat = [run.model.parameters.flat for run in runs]
    assert np.array_equal(*flat)


def test_replanning_on_a_faster_machine_has_at_most_max_epochs(corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr("charrnn.training.run.max_epochs", lambda *_: 2)
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
    """Models of similar size are trained as on a text of a hundredth."""
    streams, plan = plan_of(10**8, 60)
    _, of_less = plan_of(10**6, 60)
    assert plan.config.hidden_size < 2 * of_less.config.hidden_size
    assert plan.options.steps < streams.num_chunks / 20
    assert plan.options.steps == pytest.approx(of_less.options.steps, rel=0.5)


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


@pytest.mark.parametrize("seconds, part", [(20, True), (60, True), (36000, False)])
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
