"""Ranks that share each batch: as one rank, in the same bits again, and failing together."""

import platform
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers.runs import result_of, started, stopped_after, trained
from helpers.thread_ranks import make_ranks, with_followers

from charrnn.config import ModelConfig, ResolvedOptions
from charrnn.errors import CharRNNError, UsageError
from charrnn.storage.run_files import run_files
from charrnn.training import planner
from charrnn.training.data_parallel import follow, make_trainer
from charrnn.training.mpi import num_launched
from charrnn.training.ranks import ONE_RANK, difference, threads_of_rank
from charrnn.training.state import read_state
from charrnn.training.trainer import Trainer

HOW = {"steps": 45, "dropout": 0.3, "recurrent_dropout": 0.2, "clip_norm": 0.5, "overwrite": True}


def shared_run(size, corpus_file, output, **more):
    with_followers(size, lambda ranks: trained(corpus_file, output, ranks=ranks, **more))
    return result_of(output)


@pytest.fixture(scope="module")
def of_three(corpus_file, tmp_path_factory):
    """The result of three ranks, which have 2, 3 and 3 of the 8 rows."""
    return shared_run(3, corpus_file, tmp_path_factory.mktemp("three") / "m.safetensors", **HOW)


def test_several_ranks_train_as_one_does(of_three, corpus_file, tmp_path):
    """Sums differ in their order. Masks, clipping and n-grams are those of the whole batch."""
    trained(corpus_file, tmp_path / "one.safetensors", **HOW)
    one = result_of(tmp_path / "one.safetensors")
    assert [line["step"] for line in of_three["log"]] == [line["step"] for line in one["log"]]
    for shared, alone in zip(of_three["log"], one["log"], strict=True):
        assert shared["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-3)
    assert of_three["model"] != one["model"]


def test_as_many_ranks_train_the_same_bits_again(of_three, corpus_file, tmp_path):
    assert shared_run(3, corpus_file, tmp_path / "m.safetensors", **HOW) == of_three


def test_resumed_ranks_train_the_same_bits(of_three, corpus_file, tmp_path):
    output = tmp_path / "m.safetensors"

    def interrupted(ranks):
        stopped_after(started(corpus_file, output, ranks=ranks, **HOW), 20)

    with_followers(3, interrupted)
    assert shared_run(3, corpus_file, output, resume=True) == of_three


@pytest.fixture(scope="module")
def of_local_steps(corpus_file, tmp_path_factory):
    """The result of three ranks that average their weights after four updates."""
    output = tmp_path_factory.mktemp("local") / "m.safetensors"
    return shared_run(3, corpus_file, output, local_steps=4, **HOW)


def plain_average(trainers):
    """Give all trainers the mean weights and arrays; of a row of n-grams, of those that used it."""
    first = trainers[0]
    for arrays in zip(*(
        [t.model.parameters.dense, *t.optimizer.arrays.values()] for t in trainers
    ), strict=True):  # fmt: skip
        mean = np.mean(arrays, axis=0)
        for array in arrays:
            array[:] = mean
    for row in range(len(first.model.parameters.ngram_rows)):
        users = [t for t in trainers if row in t.used]
        if users:
            rows = [np.mean([t.model.parameters.ngram_rows[row] for t in users], axis=0),
                    np.mean([t.row_optimizer.mean_square[row] for t in users], axis=0),
                    max(t.row_optimizer.last_step[row] for t in trainers)]  # fmt: skip
            for t in trainers:
                t.model.parameters.ngram_rows[row], t.row_optimizer.mean_square[row] = rows[:2]
                t.row_optimizer.last_step[row] = rows[2]
    for t in trainers:
        t.used = set()
        t.model.pack()


@pytest.mark.parametrize("optimizer", ["cautious-adam", "sgd"])
def test_ranks_with_local_steps_train_as_trainers_alone_that_are_averaged(optimizer):
    config = ModelConfig(7, hidden_size=5, num_layers=1, ngrams=2, num_ngrams=20)
    ngrams = (np.argwhere(np.ones((4, 5))).astype(np.int32),)
    options = ResolvedOptions(
        steps=1, learning_rate=0.01, batch_size=5, seq_length=6, local_steps=3, optimizer=optimizer
    )
    alone = [replace(options, batch_size=rows, local_steps=1) for rows in (2, 3)]
    trainers = [Trainer(config, o, np.random.default_rng(0), 1, ngrams) for o in alone]
    for t in trainers:
        t.used = set()
    chunks = np.random.default_rng(1).integers(0, 7, (8, 2, 6, 5)).astype(np.int32)

    def lead(ranks):
        shared = make_trainer(ranks, config, options, np.random.default_rng(0), 1, ngrams)
        for x, y in chunks:
            _, norm = shared.compute(x, y)
            shared.update(0.01, norm)
        shared.synchronize()
        return shared

    shared = with_followers(2, lead)
    for count, (x, y) in enumerate(chunks, 1):
        for t, rows in zip(trainers, (slice(0, 2), slice(2, 5)), strict=True):
            own = [np.ascontiguousarray(ids[:, rows]) for ids in (x, y)]
            _, norm = t.compute(*own)
            t.used |= set(t.stack.ngram_gradients.used.tolist())
            t.update(0.01, norm)
        if count in (3, 6, 8):
            plain_average(trainers)
    expected, found = trainers[0].flat_arrays(), shared.flat_arrays()
    assert expected["weights"].any() and expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-7, err_msg=name)


def test_local_steps_train_the_same_bits_again(of_local_steps, of_three, corpus_file, tmp_path):
    output = tmp_path / "m.safetensors"
    assert shared_run(3, corpus_file, output, local_steps=4, **HOW) == of_local_steps
    first, last = of_local_steps["log"][0], of_local_steps["log"][-1]
    assert last["val_loss"] < first["train_loss"] - 0.3
    assert of_local_steps["model"] != of_three["model"]


@pytest.mark.parametrize("steps", [19, 20, 21])
def test_local_steps_resume_in_the_same_bits(of_local_steps, corpus_file, tmp_path, steps):
    """A run stops after a round of local steps, when all ranks have the same weights."""
    output = tmp_path / "m.safetensors"

    def interrupted(ranks):
        run = started(corpus_file, output, ranks=ranks, local_steps=4, **HOW)
        stopped_after(run, steps)
        return run.progress.step

    assert with_followers(3, interrupted) == 20 + 4 * (steps > 20)
    assert shared_run(3, corpus_file, output, resume=True) == of_local_steps


def test_local_steps_need_several_processes(corpus_file, tmp_path):
    with pytest.raises(UsageError, match="--local-steps is for several processes"):
        started(corpus_file, tmp_path / "m", local_steps=2, **HOW)


@pytest.mark.parametrize("before, after", [(1, 2), (2, 1), (2, 3)])
def test_a_run_with_another_number_of_ranks_says_so(corpus_file, tmp_path, before, after):
    def notes(ranks, **more):
        run = started(corpus_file, tmp_path / "m", ranks=ranks, **more)
        stopped_after(run, 3)
        return " ".join(run.summary.notes)

    assert "until now" not in with_followers(before, partial(notes, **HOW))
    found = with_followers(after, partial(notes, resume=True))
    assert f"the run had {before} process" in found and f"goes on with {after}," in found
    assert "until now" not in with_followers(after, partial(notes, resume=True))


def test_another_number_of_ranks_resumes_a_run(of_three, corpus_file, tmp_path):
    output = tmp_path / "m.safetensors"
    stopped_after(started(corpus_file, output, **HOW), 20)
    result = shared_run(2, corpus_file, output, resume=True)
    for shared, alone in zip(result["log"], of_three["log"], strict=True):
        assert shared["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-3)


def test_ranks_follow_a_run_through_divergence(corpus_file, tmp_path):
    output = tmp_path / "m.safetensors"
    shared_run(2, corpus_file, output, steps=100, learning_rate=300, optimizer="sgd")
    progress = read_state(run_files(output).state).progress
    assert progress.step == 100
    assert progress.recoveries > 0


def test_a_timed_plan_is_for_one_model_of_all_ranks(corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "TRIAL_SECONDS", 0)
    output = tmp_path / "m.safetensors"
    shared_run(2, corpus_file, output, num_layers=None, hidden_size=None, time=0.01)
    assert read_state(run_files(output).state).options.ensemble == 1


def test_several_models_and_several_ranks_are_refused(corpus_file, tmp_path):
    with pytest.raises(UsageError, match="2 processes train one model together, not 3"):
        shared_run(2, corpus_file, tmp_path / "m.safetensors", steps=2, ensemble=3)


def test_ranks_without_a_row_are_refused(corpus_file, tmp_path):
    with pytest.raises(CharRNNError, match="a batch of 2 streams cannot be shared by 3 processes"):
        shared_run(3, corpus_file, tmp_path / "m.safetensors", steps=2, batch_size=2)


def test_the_error_of_a_rank_names_it_and_ends_all():
    [ranks] = make_ranks(1)
    ranks.rank, ranks.size = 3, 4
    ranks.broadcast = lambda value: ("begin", (None, None, ()))
    with pytest.raises(CharRNNError, match="^rank 3 of 4 failed: AttributeError"):
        follow(ranks, 1)
    assert ranks.has_aborted


def test_different_options_are_told_with_their_rank():
    class Gathered:
        def gather(self, value):
            return [value, value, {**value, "seed": 2}]

    assert difference(Gathered(), {"seed": 1}).startswith("rank 2 has seed 2, rank 0 has 1: ")
    assert difference(ONE_RANK, {"seed": 1}) is None


def test_ranks_of_a_machine_share_its_cores(monkeypatch):
    cores = [(platform.node(), {0, 1}), (platform.node(), {2, 3}), ("other", {0, 1, 2, 3, 4})]

    class Gathered:
        def gather(self, value):
            return cores

    monkeypatch.setattr("charrnn.training.ranks.within_quota", lambda count: count)
    assert threads_of_rank(Gathered()) == 2


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, 1),
        ({"PMI_SIZE": "4"}, 4),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2),
        ({"PMI_SIZE": "many"}, 1),
        ({"SLURM_NTASKS": "8"}, 1),
    ],
)
def test_launchers_are_found_by_their_variables(variables, count):
    assert num_launched(variables) == count
