"""Training runs: exact in every bit, whatever interrupts them, and right in what they compute."""

import json
import math
import sys

import numpy as np
import pytest
from helpers import naive
from helpers.runs import SMALL, files_in, log_of, result_of, started, stopped_after, trained

import charrnn
from charrnn.api import start
from charrnn.config import OPTIMIZER_NAMES, SCHEDULE_NAMES, ModelConfig, TrainOptions, tensor_shapes
from charrnn.errors import CharRNNError, UsageError
from charrnn.evaluation.loss import Validator, mean_loss
from charrnn.network.cells import CELLS
from charrnn.network.model import Model
from charrnn.network.stack import loss_and_gradients
from charrnn.storage.checkpoint import load_model, load_state
from charrnn.text.corpus import read_corpus
from charrnn.text.streams import clamp_batch_shape, split
from charrnn.training.run import MAX_RECOVERIES, Diverged
from charrnn.training.state import Progress

STEPS = 44  # an epoch of the text has 39 chunks


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch):
    """These tests are about numbers, and a disk may take longer to flush than a run to train."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def same_after_interruptions(corpus_file, folder, stops, **settings):
    """Whether a run stopped after each of `stops` steps, and resumed, is as one never stopped."""
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
    """The arrays in memory, padding and all, and the random numbers to come."""
    assert np.array_equal(run.model.parameters.flat, other.model.parameters.flat)
    assert np.array_equal(run.learner.stack.get_state(), other.learner.stack.get_state())
    for name, array in run.learner.optimizer.arrays.items():
        assert np.array_equal(array, other.learner.optimizer.arrays[name])
    assert run.rng.random() == other.rng.random()


# --- interrupted and resumed


@pytest.mark.parametrize("stops", [[1], [4], [5], [6], [38], [39], [40], [43], [1] * 43], ids=str)
def test_a_run_interrupted_and_resumed_is_one_never_interrupted(corpus_file, tmp_path, stops):
    run = same_after_interruptions(corpus_file, tmp_path, stops)
    # The steps above are before, at and after a validation and the end of an epoch.
    assert (run.streams.num_chunks, run._validate_every) == (39, 5)


@pytest.mark.parametrize("cell", CELLS)
def test_so_are_runs_of_every_cell_with_all_that_is_random(corpus_file, tmp_path, cell):
    settings = {"cell": cell, "dropout": 0.3, "num_layers": 2, "embedding_size": 5, "seed": 7}
    same_after_interruptions(corpus_file, tmp_path, [7, 2], **settings)


@pytest.mark.parametrize("schedule", SCHEDULE_NAMES)
@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
def test_so_are_runs_with_every_optimizer_and_schedule(corpus_file, tmp_path, optimizer, schedule):
    settings = {"optimizer": optimizer, "schedule": schedule, "lr_decay_after": 0, "steps": 80}
    same_after_interruptions(corpus_file, tmp_path, [17, 30], learning_rate=0.01, **settings)


def test_so_are_runs_of_bytes_without_a_text_held_out(corpus_file, tmp_path):
    as_bytes = {"as_bytes": True}
    whole = trained(corpus_file, tmp_path / "whole", val_fraction=0.0, steps=9, **as_bytes)
    run = started(corpus_file, tmp_path / "parts", val_fraction=0.0, steps=9, **as_bytes)
    stopped_after(run, 4)
    run = started(corpus_file, tmp_path / "parts", resume=True, **as_bytes)
    stopped_after(run, 9)
    assert result_of(tmp_path / "parts") == result_of(tmp_path / "whole")
    assert np.array_equal(whole.model.parameters.flat, run.model.parameters.flat)


def test_saving_often_changes_nothing(corpus_file, tmp_path):
    for save_every in 0, 30:
        trained(corpus_file, tmp_path / f"{save_every}", save_every=save_every, steps=STEPS)
    assert result_of(tmp_path / "0") == result_of(tmp_path / "30")


def test_a_run_that_is_finished_resumes_to_its_end(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "m", steps=3)
    before = result_of(tmp_path / "m")
    run = started(corpus_file, tmp_path / "m", resume=True)
    assert list(run) == [] and run.finished
    assert result_of(tmp_path / "m") == before


def test_a_run_stopped_before_it_begins_leaves_a_model(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m")
    run.stop()
    assert list(run) == [] and not run.finished
    assert charrnn.load(tmp_path / "m").sample(5)
    same_after_interruptions(corpus_file, tmp_path, [1])


def test_a_run_left_in_the_middle_is_resumed_from_its_last_save(corpus_file, tmp_path):
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


def test_the_time_of_training_adds_up(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=STEPS)
    stopped_after(run, 20)
    lines = (tmp_path / "m.log.jsonl").read_text().splitlines()
    before = json.loads(lines[-1])["seconds"]
    reports = list(started(corpus_file, tmp_path / "m", resume=True))
    assert before <= reports[0].seconds < before + 5
    # The first step is not counted: it may have waited for code to be compiled.
    chars, seconds = (
        getattr(reports[-1], name) - getattr(reports[0], name) for name in ("chars", "seconds")
    )
    assert reports[-1].chars_per_second == pytest.approx(chars / seconds)


# --- the same bits


def test_threads_do_not_change_a_bit(corpus_file, tmp_path):
    for threads in 1, 2, 3:
        settings = {"threads": threads, "steps": 12, "dropout": 0.1, "num_layers": 2}
        trained(corpus_file, tmp_path / f"{threads}", **settings)
    assert result_of(tmp_path / "1") == result_of(tmp_path / "2") == result_of(tmp_path / "3")


def test_a_run_may_go_on_with_other_threads(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "whole", steps=12)
    stopped_after(started(corpus_file, tmp_path / "parts", steps=12, threads=2), 5)
    stopped_after(started(corpus_file, tmp_path / "parts", resume=True, threads=3), 12)
    assert result_of(tmp_path / "parts") == result_of(tmp_path / "whole")


def test_one_seed_one_run(corpus_file, tmp_path):
    for name, seed in ("a", 1), ("b", 1), ("c", 2):
        trained(corpus_file, tmp_path / name, seed=seed, steps=3, dropout=0.1)
    assert result_of(tmp_path / "a") == result_of(tmp_path / "b")
    assert result_of(tmp_path / "a")["model"] != result_of(tmp_path / "c")["model"]


def test_sampling_in_between_changes_nothing(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "quiet", steps=12, dropout=0.2)
    run = started(corpus_file, tmp_path / "talking", steps=12, dropout=0.2)
    texts = [run.sample(20) for _ in run]
    assert all(len(text) == 20 for text in texts)
    assert result_of(tmp_path / "talking") == result_of(tmp_path / "quiet")


def test_validation_leaves_training_alone(corpus_file, tmp_path, monkeypatch):
    """The same steps, whether the text held out is looked at or not."""
    plain = trained(corpus_file, tmp_path / "validated", steps=STEPS, dropout=0.2)
    monkeypatch.setattr(Validator, "loss", lambda self: 1.0)
    unvalidated = trained(corpus_file, tmp_path / "unvalidated", steps=STEPS, dropout=0.2)
    assert plain.progress.val_loss != unvalidated.progress.val_loss == 1.0
    require_same_run(unvalidated, plain)


# --- what is computed


def reference(corpus_file, seed, epochs, rate, momentum, **settings):
    """The weights after stateful truncated BPTT by SGD, and each step's loss: all in plain float64.

    Gradients are those of the float64 model, which test_model judges.
    """
    corpus = read_corpus(corpus_file)
    config = ModelConfig(len(corpus.vocabulary), **settings)
    model = Model(config, np.random.default_rng(seed))
    params = {name: tensor.astype(float) for name, tensor in model.state_dict().items()}
    exact = Model(config, dtype=np.float64)
    velocity = {name: np.zeros_like(p) for name, p in params.items()}
    ids, _ = split(corpus.ids, 0.1)
    batch_size, seq_length = clamp_batch_shape(len(ids), SMALL["batch_size"], SMALL["seq_length"])
    losses = []
    for _ in range(epochs):
        state = exact.zero_state(batch_size)
        for x, y in naive.chunks(ids.tolist(), batch_size, seq_length):
            exact.load_state_dict(params)
            loss, gradients, state, _ = loss_and_gradients(exact, np.array(x), np.array(y), state)
            losses.append(loss)
            for name, gradient in gradients.items():
                velocity[name] = momentum * velocity[name] + gradient
                params[name] = params[name] - rate * velocity[name]
    return params, losses


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_two_epochs_agree_with_a_plain_loop(corpus_file, tmp_path, cell):
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
    assert model.loss(text) < 0.05
    assert model.sample(200, prime=text[:100], temperature=0) == text[100:]


def test_the_model_file_holds_the_best_weights(corpus_file, tmp_path):
    """Whose loss on the text held out is what the log and the file say."""
    trained(corpus_file, tmp_path / "m", steps=200, learning_rate=0.2, schedule="constant")
    losses = {line["step"]: line["val_loss"] for line in log_of(tmp_path / "m")}
    losses = {step: loss for step, loss in losses.items() if loss is not None}
    best = min(losses, key=losses.get)
    file = load_model(tmp_path / "m", tensor_shapes)
    assert best < 200, "the test is of use only if the last weights are not the best"
    assert file.training["steps"] == best
    assert file.training["val_loss"] == losses[best]
    assert file.training["history"][-1] == [best, file.training["train_loss"], losses[best]]
    assert [step for step, *_ in file.training["history"]] == [s for s in losses if s <= best]
    model = charrnn.load(tmp_path / "m")
    corpus = read_corpus(corpus_file)
    _, val_ids = split(corpus.ids, 0.1)
    assert mean_loss(model.model, val_ids) == pytest.approx(losses[best], rel=0.02)


def test_reports_and_log_tell_the_same(corpus_file, tmp_path):
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


def test_the_log_stays_short(corpus_file, tmp_path):
    run = trained(corpus_file, tmp_path / "m", steps=1500)
    lines = log_of(tmp_path / "m")
    assert 200 <= len(lines) <= 320
    assert 10 <= sum(line["val_loss"] is not None for line in lines) <= 100
    assert len(run.progress.history) <= 100


# --- texts and options at the edge


@pytest.mark.parametrize("length", [2, 3, 5, 10, 51, 2501])
def test_tiny_texts(tmp_path, length):
    (tmp_path / "text").write_text(("ab" * length)[:length])
    run = start(tmp_path / "text", tmp_path / "m", steps=3, hidden_size=4, threads=1)
    assert len(list(run)) == 3
    assert run.streams.chars_per_epoch + run.summary.val_characters <= length - 1
    stopped = start(tmp_path / "text", tmp_path / "m", resume=True, threads=1)
    assert stopped.summary.resumed_step == 3
    assert math.isfinite(charrnn.load(tmp_path / "m").loss("abba"))


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.9])
def test_what_is_held_out(corpus_file, tmp_path, fraction):
    run = started(corpus_file, tmp_path / "m", val_fraction=fraction, steps=3)
    reports = list(run)
    assert (reports[-1].val_loss is None) == (fraction == 0)
    assert any("held out" in note for note in run.summary.notes) == (fraction == 0)
    assert run.summary.val_characters == math.floor(run.summary.characters * fraction)
    assert charrnn.load(tmp_path / "m").training["val_loss"] == reports[-1].best_val_loss


def test_without_a_text_held_out_the_last_weights_are_kept(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", val_fraction=0.0, steps=STEPS)
    stopped_after(run, 7)
    saved = load_model(tmp_path / "m", tensor_shapes)
    assert saved.training["steps"] == 7
    for name, tensor in run.model.state_dict().items():
        assert np.array_equal(saved.tensors[name], tensor)


def test_a_vocabulary_of_one_character_in_bytes(tmp_path):
    """The text itself is refused by `start`; a run of it is no harm."""
    (tmp_path / "text").write_bytes(b"a" * 500)
    with pytest.raises(CharRNNError, match="nothing to learn"):
        charrnn.train(tmp_path / "text", tmp_path / "m", as_bytes=True)
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
def test_extreme_options(corpus_file, tmp_path, settings):
    stopped_after(started(corpus_file, tmp_path / "m", **settings), 3)
    run = started(corpus_file, tmp_path / "m", resume=True)
    stopped_after(run, 2)
    assert run.progress.step == 5
    assert np.isfinite(run.model.parameters.flat).all()


# --- what is refused


def test_a_run_is_not_replaced_unasked(corpus_file, tmp_path):
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


def test_a_run_replaced_and_stopped_at_once_is_the_new_one(corpus_file, tmp_path):
    """Nothing of the old run is taken for the new one's: log, best loss, model."""
    trained(corpus_file, tmp_path / "m", steps=40, seed=1)
    old = result_of(tmp_path / "m")["model"]
    stopped_after(started(corpus_file, tmp_path / "m", overwrite=True, steps=STEPS), 1)
    assert result_of(tmp_path / "m")["model"] != old
    stopped_after(started(corpus_file, tmp_path / "m", resume=True), STEPS)
    trained(corpus_file, tmp_path / "new", steps=STEPS)
    assert result_of(tmp_path / "m") == result_of(tmp_path / "new")


def test_an_impossible_setting_leaves_an_old_run_alone(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "m", steps=3)
    before = result_of(tmp_path / "m")
    for settings in {"cell": "cnn"}, {"steps": 0}, {"val_fraction": 0.9999}:
        with pytest.raises(CharRNNError):
            started(corpus_file, tmp_path / "m", overwrite=True, **settings)
    assert result_of(tmp_path / "m") == before
    assert files_in(tmp_path) == ["m", "m.log.jsonl", "m.state.safetensors"]


def test_resume_needs_a_run(corpus_file, tmp_path):
    with pytest.raises(CharRNNError, match="no run to resume"):
        started(corpus_file, tmp_path / "m", resume=True)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("change", ["text", "encoding"])
def test_resume_refuses_another_text(corpus_file, tmp_path, text, change):
    trained(corpus_file, tmp_path / "m", steps=3)
    (tmp_path / "other").write_text(text[:-1] + "!" if change == "text" else text)
    encoding = "latin-1" if change == "encoding" else "utf-8"
    with pytest.raises(UsageError, match="not the one"):
        started(tmp_path / "other", tmp_path / "m", resume=True, encoding=encoding)


@pytest.mark.parametrize(
    "settings",
    [{"hidden_size": 9}, {"cell": "gru"}, {"learning_rate": 0.5}, {"steps": 4}, {"epochs": 2.0}],
    ids=str,
)
def test_resume_refuses_other_settings_and_names_the_difference(corpus_file, tmp_path, settings):
    trained(corpus_file, tmp_path / "m", steps=3)
    ((name, value),) = settings.items()
    with pytest.raises(UsageError) as caught:
        started(corpus_file, tmp_path / "m", resume=True, **settings)
    assert name.replace("_", " ") in str(caught.value) and str(value) in str(caught.value)
    started(corpus_file, tmp_path / "m", resume=True, **SMALL, steps=3)


# --- blowing up


def blown_up(run, step, times=1):
    """Let the gradients of so many attempts at a step hold a NaN."""
    compute = run.learner.stack.loss_and_gradients
    left = [times]

    def poisoned(x, y, seed):
        loss = compute(x, y, seed)
        if run.progress.step == step and left[0]:
            left[0] -= 1
            run.learner.stack.gradients.flat[5] = math.nan
        return loss

    run.learner.stack.loss_and_gradients = poisoned


@pytest.mark.parametrize("fraction", [0.1, 0.0])
def test_a_run_that_blows_up_goes_on_from_the_best_weights(corpus_file, tmp_path, fraction):
    settings = {"steps": 40, "schedule": "constant", "val_fraction": fraction}
    run = started(corpus_file, tmp_path / "m", **settings)
    blown_up(run, step=22)
    seen = {}
    compute = run.learner.compute

    def watched(x, y, seed):
        seen[run.progress.step, run.progress.recoveries] = run.model.parameters.flat.copy()
        return compute(x, y, seed)

    run.learner.compute = watched
    reports = list(run)
    assert [report.step for report in reports] == list(range(1, 41)) and run.finished
    notices = {report.step: report.notice for report in reports if report.notice}
    assert list(notices) == [23] and "step 23" in notices[23]
    assert "best weights" in notices[23] and "half the learning rate" in notices[23]
    rates = [report.learning_rate for report in reports]
    assert rates == [rates[0]] * 22 + [rates[0] / 2] * 18
    assert np.array_equal(seen[22, 1], seen[20, 0])  # step 20 was validated
    assert not np.array_equal(seen[22, 1], seen[22, 0])


def test_before_the_first_validation_it_begins_anew(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=40)
    first = run.model.parameters.flat.copy()
    blown_up(run, step=2)
    update, begun = run.learner.update, []
    run.learner.update = lambda rate: (begun.append(run.model.parameters.flat.copy()), update(rate))
    reports = list(run)
    assert "first weights" in reports[2].notice
    assert np.array_equal(begun[0], first) and np.array_equal(begun[2], first)


@pytest.mark.parametrize("stop", [21, 23, 30])
def test_interrupted_after_blowing_up_it_goes_on_exactly(corpus_file, tmp_path, stop):
    whole = started(corpus_file, tmp_path / "whole", steps=40)
    blown_up(whole, step=22)
    list(whole)
    run = started(corpus_file, tmp_path / "parts", steps=40)
    blown_up(run, step=22)
    stopped_after(run, stop)
    run = started(corpus_file, tmp_path / "parts", resume=True)
    blown_up(run, step=22)
    list(run)
    assert result_of(tmp_path / "parts") == result_of(tmp_path / "whole")
    require_same_run(run, whole)


def test_a_run_that_blows_up_again_and_again_ends(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", learning_rate=1e9, steps=100, clip_norm=0.0)
    with pytest.raises(Diverged, match=r"try a smaller --learning-rate than 3\.1") as caught:
        list(run)
    assert run.progress.recoveries == MAX_RECOVERIES
    assert "best model so far is kept" in str(caught.value) or run.progress.step < 10
    assert all(
        np.isfinite(a).all() for a in load_state(tmp_path / "m.state.safetensors")[0].values()
    )


def test_a_learning_rate_somewhat_too_large_is_put_right(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", optimizer="sgd", learning_rate=300.0, steps=100)
    notices = [report.notice for report in run if report.notice]
    assert run.finished and 1 <= len(notices) <= MAX_RECOVERIES
    assert run.progress.best_val_loss < 3


def test_a_run_that_blows_up_late_keeps_its_best_model(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=100, save_every=0)
    blown_up(run, step=50, times=MAX_RECOVERIES + 1)
    with pytest.raises(Diverged, match="best model so far is kept"):
        list(run)
    assert charrnn.load(tmp_path / "m").training["steps"] in (40, 50)
    assert files_in(tmp_path) == ["m", "m.log.jsonl", "m.state.safetensors"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("fraction", [0.1, 0.0])
def test_a_weight_that_is_no_number_is_never_saved(corpus_file, tmp_path, value, fraction):
    """Even one that no gradient touches."""
    run = started(corpus_file, tmp_path / "m", save_every=0, steps=100, val_fraction=fraction)
    step = run.learner.optimizer.step

    def poisoned(w, g, rate):
        step(w, g, rate)
        if run.progress.step >= 6:
            run.model.parameters.view("output.bias")[..., 3] = value

    run.learner.optimizer.step = poisoned
    with pytest.raises(Diverged, match="(not a number|nan|inf)"):
        list(run)
    arrays, info = load_state(tmp_path / "m.state.safetensors")
    assert info["progress"]["step"] == 6
    assert all(np.isfinite(array).all() for array in arrays.values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_is_noticed_at_its_step(corpus_file, tmp_path, value):
    run = started(corpus_file, tmp_path / "m", steps=100)
    compute = run.learner.stack.loss_and_gradients

    def poisoned(x, y, seed):
        loss = compute(x, y, seed)
        if run.progress.step == 6:
            run.learner.stack.gradients.flat[5] = value
        return loss

    run.learner.stack.loss_and_gradients = poisoned
    with pytest.raises(Diverged, match="step 7 .*gradient norm (nan|inf)"):
        list(run)
    assert np.isfinite(run.model.parameters.flat).all()


def test_weights_that_cannot_be_kept_are_not_the_best(corpus_file, tmp_path):
    """A validation that finds them good, while the optimizer has an infinite number."""
    run = started(corpus_file, tmp_path / "m", steps=40)
    validate, seen = run._validate, []

    def spoiled():
        if run.progress.step == 20 and not run.progress.recoveries:
            run.learner.optimizer.arrays["mean"][3] = math.inf
            run._validation.loss = lambda: seen.append(1) or 0.1
        try:
            validate()
        finally:
            run._validation.__dict__.pop("loss", None)

    run._validate = spoiled
    for _ in run:
        pass
    assert run.finished and run.progress.recoveries == 1 and not seen
    file = load_model(tmp_path / "m", tensor_shapes)
    assert file.training["val_loss"] == run.progress.best_val_loss > 0.1


def test_a_loss_that_is_no_number_is_noticed_at_its_step(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=100)
    run.learner.stack.loss_and_gradients = lambda x, y, seed: math.nan
    with pytest.raises(Diverged, match="step 1 .*loss nan"):
        list(run)


# --- learning by heart


def random_text(folder):
    """Of which nothing can be foreseen, but all can be learned by heart."""
    letters = np.random.default_rng(0).choice(list("abcdefgh \n"), 1000)
    (folder / "text").write_text("".join(letters))
    return folder / "text"


@pytest.mark.parametrize("deadline", [None, 1e6])
def test_learning_by_heart_is_stopped(tmp_path, monkeypatch, deadline):
    """Also with a time to keep to, of which some is left."""
    monkeypatch.setattr(sys.modules["charrnn.training.run"], "TIMED_AGAIN", 0.0)
    settings = {"hidden_size": 64, "epochs": 100, "learning_rate": 0.01, "schedule": "constant"}
    run = started(random_text(tmp_path), tmp_path / "m", patience=4, **settings)
    run.progress.deadline = deadline
    run._seconds = lambda: run.progress.step * 1e6 / run.summary.steps
    reports = list(run)
    assert run.finished and len(reports) < run.summary.steps / 2
    assert "learned by heart" in reports[-1].notice
    losses = [entry[2] for entry in run.progress.history]
    assert all(loss > 1.02 * min(losses) for loss in losses[-4:])
    assert charrnn.load(tmp_path / "m").training["val_loss"] == min(losses)
    assert list(started(tmp_path / "text", tmp_path / "m", resume=True)) == []


def test_patience_0_never_stops(tmp_path):
    settings = {"hidden_size": 64, "epochs": 60, "learning_rate": 0.01, "schedule": "constant"}
    run = trained(random_text(tmp_path), tmp_path / "m", patience=0, **settings)
    assert run.progress.step == run.summary.steps


def test_what_is_no_better_for_a_while_is_not_by_heart():
    """Neither noise, nor a loss in training that has not fallen, nor too few validations."""

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
