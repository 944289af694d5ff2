"""Ranks that share each batch: as one rank, in the same bits again, and failing together."""

import platform

import pytest
from helpers.runs import result_of, started, stopped_after, trained
from helpers.thread_ranks import make_ranks, with_followers

from charrnn.errors import CharRNNError, UsageError
from charrnn.storage.run_files import run_files
from charrnn.training import planner
from charrnn.training.data_parallel import follow
from charrnn.training.mpi import num_launched
from charrnn.training.ranks import ONE_RANK, difference, threads_of_rank
from charrnn.training.state import read_state

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
