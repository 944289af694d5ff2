"""Training runs: bit for bit reproducible, also after interruptions, and numerically correct."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import naive
from helpers.runs import (
    SMALL,
    StepClock,
    files_in,
    log_of,
    result_of,
    started,
    stopped_after,
    trained,
)

import charrnn
from charrnn.config import OPTIMIZER_NAMES, SCHEDULE_NAMES, ModelConfig, TrainOptions, tensor_shapes
from charrnn.errors import CharRNNError, UsageError
from charrnn.evaluation.loss import Validator, mean_loss
from charrnn.network.cells import CELLS
from charrnn.network.model import Model
from charrnn.network.stack import loss_and_gradients
from charrnn.storage.checkpoint import load_model, load_state
from charrnn.text.corpus import read_corpus
from charrnn.text.ngrams import count_ngrams
from charrnn.text.streams import clamp_batch_shape, split
from charrnn.training import pacing
from charrnn.training.pacing import validation_interval
from charrnn.training.progress import Progress
from charrnn.training.recovery import MAX_RECOVERIES, Diverged

STEPS = 44  # an epoch of the text has 39 chunks


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch):
    """These tests compare numbers; flushing to disk may take longer than training."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def require_same_after_interruptions(corpus_file, folder, stops, **settings):
    """Stop and resume a run after each of `stops` steps; it must equal one never stopped."""
    settings = {"steps": STEPS} | settings
    whole = trained(corpus_file, folder / "whole", **settings)
    run = started(corpus_file, folder / "parts", **settings)
    for steps in stops:
        stopped_after(run, steps)
        assert not run.finished
        run = started(corpus_file, folder / "parts", resume=True)
    assert run.summary.resumed_step == sum(stops)
    for _ in run:
        pass
    assert run.finished
    assert result_of(folder / "parts") == result_of(folder / "whole")
    require_same_run(run, whole)
    return run


def require_same_run(run, other):
    """Compare the arrays in memory with their padding, and the random generators."""
    assert np.array_equal(run.model.parameters.flat, other.model.parameters.flat)
    for trainer, twin in zip(run.ensemble.members, other.ensemble.members, strict=True):
        require_same_trainer(trainer, twin)
    assert run.rng.random() == other.rng.random()


def require_same_trainer(trainer, twin):
    assert np.array_equal(trainer.model.parameters.flat, twin.model.parameters.flat)
    assert trainer.stack.get_state().equals(twin.stack.get_state())
    rows, others = trainer.row_optimizer, twin.row_optimizer
    assert len(rows.last_step) > 0
    assert np.array_equal(rows.mean_square, others.mean_square)
    assert np.array_equal(rows.last_step, others.last_step)
    for name, array in trainer.optimizer.arrays.items():
        assert np.array_equal(array, twin.optimizer.arrays[name])


# --- interrupted and resumed


@pytest.mark.parametrize("stops", [[1], [4], [5], [6], [38], [39], [40], [43], [1] * 43], ids=str)
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(corpus_file, tmp_path, stops):
    run = require_same_after_interruptions(corpus_file, tmp_path, stops)
    # The stops above are before, at and after a validation and the end of an epoch.
    assert run.streams.num_chunks == 39 and validation_interval(STEPS, 39) == 5


@pytest.mark.parametrize("cell", CELLS)
def test_an_interrupted_run_with_dropout_resumes_exactly(corpus_file, tmp_path, cell):
    settings = {"cell": cell, "dropout": 0.3, "num_layers": 2, "embedding_size": 5, "seed": 7}
    require_same_after_interruptions(corpus_file, tmp_path, [7, 2], **settings)


@pytest.mark.parametrize("schedule", SCHEDULE_NAMES)
@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
def test_an_interrupted_run_resumes_exactly_with_any_optimizer_and_schedule(
    corpus_file, tmp_path, optimizer, schedule
):
    settings = {"optimizer": optimizer, "schedule": schedule, "lr_decay_after": 0, "steps": 80}
    require_same_after_interruptions(
        corpus_file, tmp_path, [17, 30], learning_rate=0.01, **settings
    )


def test_an_interrupted_run_of_bytes_without_validation_resumes_exactly(corpus_file, tmp_path):
    as_bytes = {"as_bytes": True}
    whole = trained(corpus_file, tmp_path / "whole", val_fraction=0.0, steps=9, **as_bytes)
    run = started(corpus_file, tmp_path / "parts", val_fraction=0.0, steps=9, **as_bytes)
    stopped_after(run, 4)
    run = started(corpus_file, tmp_path / "parts", resume=True, **as_bytes)
    stopped_after(run, 9)
    assert result_of(tmp_path / "parts") == result_of(tmp_path / "whole")
    assert np.array_equal(whole.model.parameters.flat, run.model.parameters.flat)


def test_frequent_saving_does_not_change_a_run(corpus_file, tmp_path):
    for save_every in 0, 30:
        trained(corpus_file, tmp_path / f"{save_every}", save_every=save_every, steps=STEPS)
    assert result_of(tmp_path / "0") == result_of(tmp_path / "30")


def test_resuming_a_finished_run_makes_no_steps(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "m", steps=3)
    before = result_of(tmp_path / "m")
    run = started(corpus_file, tmp_path / "m", resume=True)
    assert list(run) == [] and run.finished
    assert result_of(tmp_path / "m") == before


def test_a_run_stopped_before_its_first_step_writes_a_model(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m")
    run.stop()
    assert list(run) == [] and not run.finished
    assert charrnn.load(tmp_path / "m").sample(5)
    require_same_after_interruptions(corpus_file, tmp_path, [1])


def test_an_abandoned_run_resumes_from_its_last_save(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "whole", steps=STEPS)
    run = started(corpus_file, tmp_path / "left", steps=STEPS)
    for report in run:
        if report.step == 11:
            break
    with pytest.raises(CharRNNError, match="ended"):
        list(run)
    run = started(corpus_file, tmp_path / "left", resume=True)
    assert run.summary.resumed_step == 0
    assert len(list(run)) == STEPS
    assert result_of(tmp_path / "left") == result_of(tmp_path / "whole")


def test_seconds_of_training_add_up_over_processes(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=STEPS)
    stopped_after(run, 20)
    lines = (tmp_path / "m.log.jsonl").read_text().splitlines()
    before = json.loads(lines[-1])["seconds"]
    reports = list(started(corpus_file, tmp_path / "m", resume=True))
    assert before <= reports[0].seconds < before + 5
    # The first step is not counted: it may have waited for compilation.
    chars, seconds = (
        getattr(reports[-1], name) - getattr(reports[0], name) for name in ("chars", "seconds")
    )
    assert reports[-1].chars_per_second == pytest.approx(chars / seconds)


# --- the same bits


def test_results_do_not_depend_on_the_number_of_threads(corpus_file, tmp_path):
    for threads in 1, 2, 3:
        settings = {"threads": threads, "steps": 12, "dropout": 0.1, "num_layers": 2}
        trained(corpus_file, tmp_path / f"{threads}", **settings)
    assert result_of(tmp_path / "1") == result_of(tmp_path / "2") == result_of(tmp_path / "3")


def test_a_run_can_be_resumed_with_another_number_of_threads(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "whole", steps=12)
    stopped_after(started(corpus_file, tmp_path / "parts", steps=12, threads=2), 5)
    stopped_after(started(corpus_file, tmp_path / "parts", resume=True, threads=3), 12)
    assert result_of(tmp_path / "parts") == result_of(tmp_path / "whole")


def test_the_seed_determines_the_run(corpus_file, tmp_path):
    for name, seed in ("a", 1), ("b", 1), ("c", 2):
        trained(corpus_file, tmp_path / name, seed=seed, steps=3, dropout=0.1)
    assert result_of(tmp_path / "a") == result_of(tmp_path / "b")
    assert result_of(tmp_path / "a")["model"] != result_of(tmp_path / "c")["model"]


def test_sampling_during_training_does_not_change_the_run(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "quiet", steps=12, dropout=0.2)
    run = started(corpus_file, tmp_path / "talking", steps=12, dropout=0.2)
    texts = [run.sample(20) for _ in run]
    assert all(len(text) == 20 for text in texts)
    assert result_of(tmp_path / "talking") == result_of(tmp_path / "quiet")


def test_validation_does_not_change_training(corpus_file, tmp_path, monkeypatch):
    plain = trained(corpus_file, tmp_path / "validated", steps=STEPS, dropout=0.2)
    monkeypatch.setattr(Validator, "loss", lambda self: 1.0)
    unvalidated = trained(corpus_file, tmp_path / "unvalidated", steps=STEPS, dropout=0.2)
    assert plain.progress.val_loss != unvalidated.progress.val_loss == 1.0
    require_same_run(unvalidated, plain)


# --- what is computed


def reference(corpus_file, seed, epochs, rate, momentum, **settings):
    """Train by SGD and stateful truncated BPTT in plain float64; return weights and losses.

    The gradients come from the float64 model, which test_model checks. The weights of n-grams have
    no momentum.
    """
    corpus = read_corpus(corpus_file)
    V, (ids, _) = len(corpus.vocabulary), split(corpus.ids, 0.1)
    table = count_ngrams(ids, V, 3)
    config = ModelConfig(V, **settings, ngrams=3, num_ngrams=sum(map(len, table)))
    model = Model(config, np.random.default_rng(seed), ngrams=table)
    params = {name: tensor.astype(float) for name, tensor in model.state_dict().items()}
    exact = Model(config, dtype=np.float64, ngrams=table)
    velocity = {name: np.zeros_like(p) for name, p in params.items()}
    kept = {name: np.full_like(p, momentum) for name, p in params.items()}
    kept["rnn.weight_ih_l0"][:, V:] = 0
    batch_size, seq_length = clamp_batch_shape(len(ids), SMALL["batch_size"], SMALL["seq_length"])
    losses = []
    for _ in range(epochs):
        state = exact.zero_state(batch_size)
        for x, y in naive.chunks(ids.tolist(), batch_size, seq_length):
            exact.load_state_dict(params)
            loss, gradients, state, _ = loss_and_gradients(exact, np.array(x), np.array(y), state)
            losses.append(loss)
            for name, gradient in gradients.items():
                velocity[name] = kept[name] * velocity[name] + gradient
                params[name] = params[name] - rate * velocity[name]
    return params, losses


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_two_epochs_agree_with_the_reference_implementation(corpus_file, tmp_path, cell):
    network = {"cell": cell, "hidden_size": 8, "num_layers": 2}
    options = {"optimizer": "sgd", "schedule": "constant", "clip_norm": 0.0}
    run = started(
        corpus_file, tmp_path / "m", epochs=2, seed=3, learning_rate=0.05, **network, **options
    )
    for _ in run:
        pass
    params, expected = reference(
        corpus_file, 3, 2, rate=0.05, momentum=TrainOptions.momentum, **network
    )
    assert len(expected) == 2 * run.streams.num_chunks
    for name, tensor in run.model.state_dict().items():
        np.testing.assert_allclose(tensor, params[name], atol=1e-4, err_msg=name)
    logged = [line["train_loss"] for line in log_of(tmp_path / "m")]
    np.testing.assert_allclose(logged, expected, atol=1e-4)


def test_a_short_text_is_memorised(tmp_path):
    text = "".join(np.random.default_rng(0).choice(list("abcdefgh \n"), 300))
    (tmp_path / "text").write_text(text)
    charrnn.train(
        tmp_path / "text", tmp_path / "m", val_fraction=0.0, hidden_size=64, num_layers=1,
        batch_size=1, seq_length=60, steps=600, learning_rate=0.01, threads=1,
    )  # fmt: skip
    model = charrnn.load(tmp_path / "m", threads=1)
    model.model.start = model.model.blank_start()  # as in training
    assert model.loss(text) < 0.05
    assert model.sample(200, prime=text[:100], temperature=0) == text[100:]


def test_the_model_file_holds_the_weights_of_the_best_validation(corpus_file, tmp_path):
    settings = {"steps": 200, "learning_rate": 0.2, "schedule": "constant", "overwrite": True}
    for seed in range(5):  # until the last weights are not the best: that depends on the processor
        trained(corpus_file, tmp_path / "m", seed=seed, **settings)
        losses = {line["step"]: line["val_loss"] for line in log_of(tmp_path / "m")}
        losses = {step: loss for step, loss in losses.items() if loss is not None}
        best = min(losses, key=losses.get)
        if best < 200:
            break
    else:
        pytest.fail("the last weights are always the best, so that this test proves nothing")
    file = load_model(tmp_path / "m", tensor_shapes)
    assert file.training["steps"] == best
    assert file.training["val_loss"] == losses[best]
    assert file.training["history"][-1] == [best, file.training["train_loss"], losses[best]]
    assert [step for step, *_ in file.training["history"]] == [s for s in losses if s <= best]
    model = charrnn.load(tmp_path / "m")
    corpus = read_corpus(corpus_file)
    _, val_ids = split(corpus.ids, 0.1)
    model.model.start = model.model.blank_start()  # as in validation
    assert mean_loss(model.model, val_ids) == pytest.approx(losses[best], rel=0.02)


def test_reports_and_log_agree(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", epochs=3)
    assert run.summary.steps == 3 * 39 and run.summary.epochs == 3
    reports = list(run)
    assert [report.step for report in reports] == list(range(1, 3 * 39 + 1))
    assert reports[-1].epoch == 3 and reports[-1].total_steps == 3 * 39
    assert reports[-1].chars == 3 * run.streams.chars_per_epoch
    logged = [report for report in reports if report.logged]
    assert [line["step"] for line in log_of(tmp_path / "m")] == [r.step for r in logged]
    assert [line["train_loss"] for line in log_of(tmp_path / "m")] == [r.train_loss for r in logged]
    assert reports[-1].best_val_loss == min(
        line["val_loss"] for line in log_of(tmp_path / "m") if line["val_loss"] is not None
    )
    assert all(report.notice is None for report in reports)
    assert files_in(tmp_path) == ["m", "m.log.jsonl", "m.state.safetensors"]


def test_the_log_of_a_long_run_stays_short(corpus_file, tmp_path):
    run = trained(corpus_file, tmp_path / "m", steps=1500)
    lines = log_of(tmp_path / "m")
    assert 200 <= len(lines) <= 320
    assert 10 <= sum(line["val_loss"] is not None for line in lines) <= 100
    assert len(run.progress.history) <= 100


# --- texts and options at the edge


@pytest.mark.parametrize("length", [2, 3, 5, 10, 51, 2501])
def test_tiny_texts_train_and_resume(tmp_path, length):
    (tmp_path / "text").write_text(("ab" * length)[:length])
    how = {"hidden_size": 4, "num_layers": 2, "batch_size": 16, "seq_length": 64}
    run = started(tmp_path / "text", tmp_path / "m", steps=3, **how)
    assert len(list(run)) == 3
    assert run.streams.chars_per_epoch + run.summary.val_characters <= length - 1
    resumed = started(tmp_path / "text", tmp_path / "m", resume=True)
    assert resumed.summary.resumed_step == 3
    assert math.isfinite(charrnn.load(tmp_path / "m").loss("abba"))


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.9])
def test_val_fraction_sets_the_size_of_the_validation_text(corpus_file, tmp_path, fraction):
    run = started(corpus_file, tmp_path / "m", val_fraction=fraction, steps=3)
    reports = list(run)
    assert (reports[-1].val_loss is None) == (fraction == 0)
    assert any("no validation text" in note for note in run.summary.notes) == (fraction == 0)
    assert run.summary.val_characters == math.floor(run.summary.characters * fraction)
    assert charrnn.load(tmp_path / "m").training["val_loss"] == reports[-1].best_val_loss


def test_without_a_validation_text_the_last_weights_are_saved(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", val_fraction=0.0, steps=STEPS)
    stopped_after(run, 7)
    saved = load_model(tmp_path / "m", tensor_shapes)
    assert saved.training["steps"] == 7
    for name, tensor in run.model.state_dict().items():
        assert np.array_equal(saved.tensors[name], tensor)


def test_a_text_of_one_repeated_character_is_refused_but_would_train(tmp_path, monkeypatch):
    (tmp_path / "text").write_bytes(b"a" * 500)
    with pytest.raises(CharRNNError, match="nothing to learn"):
        charrnn.train(tmp_path / "text", tmp_path / "m", as_bytes=True)
    monkeypatch.setattr("charrnn.training.start.require_varied", lambda corpus: None)
    run = trained(tmp_path / "text", tmp_path / "m", as_bytes=True, steps=20, learning_rate=0.1)
    assert run.progress.val_loss < 0.5
    trained(tmp_path / "text", tmp_path / "one", steps=5)
    assert charrnn.load(tmp_path / "one").sample(3) == "aaa"
    started(tmp_path / "text", tmp_path / "one", resume=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 2**63 - 1},
        {"epochs": 1e308},
        {"seed": 2**63 - 1},
        {"learning_rate": 5e-324},
        {"lr_decay_after": 1e308, "schedule": "exponential"},
        {"lr_decay": 5e-324, "lr_decay_after": 0, "schedule": "exponential"},
        {"clip_value": 1e308},
        {"clip_norm": 1e308},
        {"clip_norm": 5e-324},
        {"clip_value": 5e-324},
        {"batch_size": 2**63 - 1, "seq_length": 2**63 - 1},
        {"batch_size": 1, "seq_length": 1},
        {"dropout": 0.999},
    ],
    ids=str,
)
def test_runs_with_extreme_options_train_and_resume(corpus_file, tmp_path, monkeypatch, settings):
    monkeypatch.setattr("charrnn.training.planner.TRIAL_SECONDS", 0)
    stopped_after(started(corpus_file, tmp_path / "m", **settings), 3)
    run = started(corpus_file, tmp_path / "m", resume=True)
    stopped_after(run, 2)
    assert run.progress.step == 5
    assert np.isfinite(run.model.parameters.flat).all()


# --- what is refused


def test_an_existing_run_is_replaced_only_with_overwrite(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "m", steps=3)
    before = result_of(tmp_path / "m")
    with pytest.raises(UsageError, match=r"--resume .* --overwrite"):
        started(corpus_file, tmp_path / "m")
    (tmp_path / "m").unlink()
    with pytest.raises(UsageError, match="m.state.safetensors exists"):
        started(corpus_file, tmp_path / "m")
    (tmp_path / "m").write_bytes(before["model"])
    assert result_of(tmp_path / "m") == before
    trained(corpus_file, tmp_path / "m", steps=4, overwrite=True)
    assert [line["step"] for line in log_of(tmp_path / "m")] == [1, 2, 3, 4]
    trained(corpus_file, tmp_path / "new", steps=4)
    assert result_of(tmp_path / "m") == result_of(tmp_path / "new")


def test_a_replaced_run_leaves_nothing_to_the_new_one(corpus_file, tmp_path):
    """Log, best loss and model of the old run are gone after the first step of the new one."""
    trained(corpus_file, tmp_path / "m", steps=40, seed=1)
    old = result_of(tmp_path / "m")["model"]
    stopped_after(started(corpus_file, tmp_path / "m", overwrite=True, steps=STEPS), 1)
    assert result_of(tmp_path / "m")["model"] != old
    stopped_after(started(corpus_file, tmp_path / "m", resume=True), STEPS)
    trained(corpus_file, tmp_path / "new", steps=STEPS)
    assert result_of(tmp_path / "m") == result_of(tmp_path / "new")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_xargs_does_not_replace_the_run_of_its_first_batch(corpus_file, tmp_path, text):
    """xargs starts one run per batch of files. A shell that trains twice replaces, as it asks."""
    (tmp_path / "a").write_text(text)
    (tmp_path / "b").write_text(text[:-9])
    train = [
        sys.executable,
        "-m",
        "charrnn",
        "train",
        "-q",
        "-o",
        "m",
        "--overwrite",
        "--steps",
        "2",
    ]
    options = {"cwd": tmp_path, "capture_output": True, "text": True}
    result = subprocess.run(["xargs", "-n", "1", *train], input="a\nb\na\n", **options)
    assert result.returncode == 123
    assert result.stderr.count("has just been trained by the same xargs") == 2
    first = result_of(tmp_path / "m")
    subprocess.run([*train, "a"], check=True, **options)
    assert result_of(tmp_path / "m") == first
    subprocess.run([*train, "b"], check=True, **options)
    assert result_of(tmp_path / "m") != first


def test_an_impossible_setting_does_not_touch_an_existing_run(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "m", steps=3)
    before = result_of(tmp_path / "m")
    for settings in {"cell": "cnn"}, {"steps": 0}, {"val_fraction": 0.9999}:
        with pytest.raises(CharRNNError):
            started(corpus_file, tmp_path / "m", overwrite=True, **settings)
    assert result_of(tmp_path / "m") == before
    assert files_in(tmp_path) == ["m", "m.log.jsonl", "m.state.safetensors"]


def test_resume_without_a_run_is_refused(corpus_file, tmp_path):
    with pytest.raises(CharRNNError, match="no run to resume"):
        started(corpus_file, tmp_path / "m", resume=True)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("change", ["text", "encoding"])
def test_resume_refuses_another_text(corpus_file, tmp_path, text, change):
    trained(corpus_file, tmp_path / "m", steps=3)
    (tmp_path / "other").write_text(text[:-1] + "!" if change == "text" else text)
    encoding = "latin-1" if change == "encoding" else "utf-8"
    with pytest.raises(UsageError, match=f"the {change} .*not the one"):
        started(tmp_path / "other", tmp_path / "m", resume=True, encoding=encoding)


@pytest.mark.parametrize(
    "first, second, message",
    [
        ({}, {"encoding": "latin-1"}, "encoding latin-1 is not the one .* started with, utf-8"),
        ({}, {"encoding": "utf-16"}, "encoding utf-16 is not the one .* started with, utf-8"),
        ({"encoding": "cp1252"}, {"encoding": "utf8"}, "utf8 is not the one .* with, cp1252"),
        ({}, {"as_bytes": True}, "was started on characters, not on bytes"),
        ({"as_bytes": True}, {"as_bytes": False}, "was started on bytes, not on characters"),
        ({"as_bytes": True}, {"encoding": "utf-8"}, "was started on bytes, not on characters"),
    ],
)
def test_resume_refuses_another_encoding_before_it_reads(
    corpus_file, tmp_path, first, second, message
):
    trained(corpus_file, tmp_path / "m", steps=3, **first)
    with pytest.raises(UsageError, match=message):
        started(tmp_path / "missing", tmp_path / "m", resume=True, **second)
    same = {"encoding": "windows-1252"} if first.get("encoding") else first
    assert list(started(corpus_file, tmp_path / "m", resume=True, **same)) == []


@pytest.mark.parametrize(
    "settings",
    [{"hidden_size": 9}, {"cell": "gru"}, {"learning_rate": 0.5}],
    ids=str,
)
def test_resume_refuses_other_settings_by_name(corpus_file, tmp_path, settings):
    trained(corpus_file, tmp_path / "m", steps=3)
    ((name, value),) = settings.items()
    with pytest.raises(UsageError) as caught:
        started(corpus_file, tmp_path / "m", resume=True, **settings)
    assert name.replace("_", " ") in str(caught.value) and str(value) in str(caught.value)
    started(corpus_file, tmp_path / "m", resume=True, **SMALL, steps=3)


# --- divergence


def make_diverge(run, step, times=1):
    """Put a NaN into the gradients of the first `times` attempts at a step."""
    compute = run.ensemble.members[0].stack.loss_and_gradients
    left = [times]

    def poisoned(x, y, seed):
        loss = compute(x, y, seed)
        if run.progress.step == step and left[0]:
            left[0] -= 1
            run.ensemble.members[0].stack.gradients.flat[5] = math.nan
        return loss

    run.ensemble.members[0].stack.loss_and_gradients = poisoned


@pytest.mark.parametrize("fraction", [0.1, 0.0])
def test_a_diverged_run_continues_from_the_best_weights(corpus_file, tmp_path, fraction):
    settings = {"steps": 40, "schedule": "constant", "val_fraction": fraction}
    run = started(corpus_file, tmp_path / "m", **settings)
    make_diverge(run, step=22)
    seen = {}
    compute = run.ensemble.compute

    def watched(x, y, seed):
        seen[run.progress.step, run.progress.recoveries] = run.model.parameters.flat.copy()
        return compute(x, y, seed)

    run.ensemble.compute = watched
    reports = list(run)
    assert [report.step for report in reports] == list(range(1, 41)) and run.finished
    notices = {report.step: report.notice for report in reports if report.notice}
    assert list(notices) == [23] and "step 23" in notices[23]
    assert "best weights" in notices[23] and "half the learning rate" in notices[23]
    rates = [report.learning_rate for report in reports]
    assert rates == [rates[0]] * 22 + [rates[0] / 2] * 18
    assert np.array_equal(seen[22, 1], seen[20, 0])  # the last validation was at step 20
    assert not np.array_equal(seen[22, 1], seen[22, 0])


def test_a_run_that_diverges_before_its_first_validation_restarts(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=40)
    first = run.model.parameters.flat.copy()
    make_diverge(run, step=2)
    update, seen = run.ensemble.update, []

    def watched(learning_rate):
        seen.append(run.model.parameters.flat.copy())
        update(learning_rate)

    run.ensemble.update = watched
    reports = list(run)
    assert "initial weights" in reports[2].notice
    assert np.array_equal(seen[0], first) and np.array_equal(seen[2], first)


@pytest.mark.parametrize("stop", [21, 23, 30])
def test_a_run_interrupted_after_divergence_resumes_exactly(corpus_file, tmp_path, stop):
    whole = started(corpus_file, tmp_path / "whole", steps=40)
    make_diverge(whole, step=22)
    list(whole)
    run = started(corpus_file, tmp_path / "parts", steps=40)
    make_diverge(run, step=22)
    stopped_after(run, stop)
    run = started(corpus_file, tmp_path / "parts", resume=True)
    make_diverge(run, step=22)
    list(run)
    assert result_of(tmp_path / "parts") == result_of(tmp_path / "whole")
    require_same_run(run, whole)


def test_a_run_that_keeps_diverging_ends_with_an_error(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", learning_rate=1e9, steps=100, clip_norm=0.0)
    with pytest.raises(Diverged, match=r"try a smaller --learning-rate than 3\.1") as caught:
        list(run)
    assert run.progress.recoveries == MAX_RECOVERIES
    assert "best model so far is saved" in str(caught.value) or run.progress.step < 10
    assert all(
        np.isfinite(a).all() for a in load_state(tmp_path / "m.state.safetensors")[0].values()
    )


def test_recovery_corrects_a_learning_rate_that_is_too_large(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", optimizer="sgd", learning_rate=300.0, steps=100)
    notices = [report.notice for report in run if report.notice]
    assert run.finished and 1 <= len(notices) <= MAX_RECOVERIES
    assert run.progress.best_val_loss < 3


def test_a_run_that_diverges_late_keeps_its_best_model(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=100, save_every=0)
    make_diverge(run, step=50, times=MAX_RECOVERIES + 1)
    with pytest.raises(Diverged, match="best model so far is saved"):
        list(run)
    assert charrnn.load(tmp_path / "m").training["steps"] in (40, 50)
    assert files_in(tmp_path) == ["m", "m.log.jsonl", "m.state.safetensors"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("fraction", [0.1, 0.0])
def test_weights_that_are_not_finite_are_never_saved(corpus_file, tmp_path, value, fraction):
    """The poisoned weight has no gradient, so that the loss stays finite."""
    run = started(corpus_file, tmp_path / "m", save_every=0, steps=100, val_fraction=fraction)
    step = run.ensemble.members[0].optimizer.step

    def poisoned(w, g, rate):
        step(w, g, rate)
        if run.progress.step >= 6:
            run.model.parameters.view("output.bias")[..., 3] = value

    run.ensemble.members[0].optimizer.step = poisoned
    with pytest.raises(Diverged, match="(not a number|nan|inf)"):
        list(run)
    arrays, info = load_state(tmp_path / "m.state.safetensors")
    assert info["progress"]["step"] == 6
    assert all(np.isfinite(array).all() for array in arrays.values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_detected_at_its_step(corpus_file, tmp_path, value):
    run = started(corpus_file, tmp_path / "m", steps=100)
    compute = run.ensemble.members[0].stack.loss_and_gradients

    def poisoned(x, y, seed):
        loss = compute(x, y, seed)
        if run.progress.step == 6:
            run.ensemble.members[0].stack.gradients.flat[5] = value
        return loss

    run.ensemble.members[0].stack.loss_and_gradients = poisoned
    with pytest.raises(Diverged, match="step 7 .*gradient norm (nan|inf)"):
        list(run)
    assert np.isfinite(run.model.parameters.flat).all()


def test_weights_that_cannot_be_saved_are_not_the_best(corpus_file, tmp_path, monkeypatch):
    """Step 20 would validate best, but leaves an infinite number in the optimizer."""
    run = started(corpus_file, tmp_path / "m", steps=40)
    step, loss, seen = run.ensemble.members[0].optimizer.step, Validator.loss, []

    def poisoned(w, g, rate):
        step(w, g, rate)
        if run.progress.step == 19 and not run.progress.recoveries:
            run.ensemble.members[0].optimizer.arrays["mean"][3] = math.inf

    def watched(validator):
        seen.append(run.progress.step)
        return (
            0.1
            if np.isinf(run.ensemble.members[0].optimizer.arrays["mean"]).any()
            else loss(validator)
        )

    run.ensemble.members[0].optimizer.step = poisoned
    monkeypatch.setattr(Validator, "loss", watched)
    for _ in run:
        pass
    assert run.finished and run.progress.recoveries == 1
    assert 20 not in seen and 24 in seen
    file = load_model(tmp_path / "m", tensor_shapes)
    assert file.training["val_loss"] == run.progress.best_val_loss > 0.1


def test_a_loss_that_is_not_finite_is_detected_at_its_step(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=100)
    run.ensemble.members[0].stack.loss_and_gradients = lambda x, y, seed: math.nan
    with pytest.raises(Diverged, match="step 1 .*loss nan"):
        list(run)


# --- early stopping


def random_text(folder):
    """A text that cannot be predicted, only memorised."""
    letters = np.random.default_rng(0).choice(list("abcdefgh \n"), 1000)
    (folder / "text").write_text("".join(letters))
    return folder / "text"


@pytest.mark.parametrize("deadline", [None, 1e6])
def test_early_stopping_ends_an_overfitting_run(tmp_path, monkeypatch, deadline):
    """It ends although some of the deadline remains."""
    monkeypatch.setattr(pacing, "REPLAN_INTERVAL", 0.0)
    settings = {"hidden_size": 64, "epochs": 100, "learning_rate": 0.01, "schedule": "constant"}
    clock = StepClock(lambda step: step * 1e6 / run.summary.steps)
    run = started(random_text(tmp_path), tmp_path / "m", patience=4, clock=clock, **settings)
    run.progress.deadline = deadline
    reports = list(run)
    assert run.finished and len(reports) < run.summary.steps / 2
    assert run.stopped_early and reports[-1].notice is None
    losses = [record[2] for record in run.progress.history]
    assert all(loss > 1.02 * min(losses) for loss in losses[-4:])
    assert charrnn.load(tmp_path / "m").training["val_loss"] == min(losses)
    assert list(started(tmp_path / "text", tmp_path / "m", resume=True)) == []


def test_patience_0_disables_early_stopping(tmp_path):
    settings = {"hidden_size": 64, "epochs": 60, "learning_rate": 0.01, "schedule": "constant"}
    run = trained(random_text(tmp_path), tmp_path / "m", patience=0, **settings)
    assert run.progress.step == run.summary.steps


def test_early_stopping_needs_significant_losses_and_a_falling_training_loss():

    def stops(validations, training, patience=3):
        history = [
            [i + 1, t, v] for i, (t, v) in enumerate(zip(training, validations, strict=True))
        ]
        return Progress(total_steps=9, history=history).should_stop_early(patience)

    falling = [5.0, 4.0, 3.0, 2.0, 1.0]
    assert stops([2.0, 1.0, 1.1, 1.1, 1.1], falling)
    assert not stops([2.0, 1.0, 1.1, 1.01, 1.1], falling)
    assert not stops([2.0, 1.0, 1.1, 1.1, 1.1], falling[::-1])
    assert not stops([2.0, 2.0, 1.0, 1.1, 1.1], falling)
    assert not stops([1.0, 1.1, 1.1], falling[:3])
    assert not stops([2.0, 1.0, 1.1, 1.1, 1.1], falling, patience=0)
    assert not stops([None] * 5, falling)
    assert not stops([None, 1.0, 1.1, 1.1, 1.1], falling)


def test_a_model_that_takes_long_to_save_is_saved_less_often(corpus_file, tmp_path):
    now = [0.0]
    run = started(corpus_file, tmp_path / "m", steps=9, clock=lambda: now[0])
    write = run.writer._write_state

    def write_slowly(state):
        now[0] += 3.0
        write(state)

    run.writer._write_state = write_slowly
    run.writer.save_all(run._state())
    for seconds, is_due in (29, False), (31, False), (99, False), (101, True):
        now[0] = 3.0 + seconds
        assert run.writer.is_due(30.0) == is_due
    assert run.writer.is_due(0)
