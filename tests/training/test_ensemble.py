"""Runs that train several models side by side and average them."""

import numpy as np
import pytest
from helpers.runs import result_of, started, stopped_after, trained
from training.test_run import require_same_after_interruptions

import charrnn
from charrnn.errors import CharRNNError, UsageError
from charrnn.network.cells import CELLS

DROPOUTS = {"dropout": 0.2, "recurrent_dropout": 0.2}


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch):
    """These tests compare numbers; flushing to disk may take longer than training."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def weights_of(run):
    return [member.model.parameters.flat for member in run.ensemble.members]


def test_the_members_are_what_runs_of_their_own_would_be(corpus_file, tmp_path):
    """Without dropout, the first member is the model of the same run without an ensemble."""
    single = trained(corpus_file, tmp_path / "one", steps=20)
    run = trained(corpus_file, tmp_path / "three", steps=20, ensemble=3)
    first, second, third = weights_of(run)
    assert np.array_equal(first, single.model.parameters.flat)
    assert np.abs(first - second).max() > 0.1 and np.abs(second - third).max() > 0.1


def test_the_members_have_different_dropout_masks(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=20, ensemble=2, **DROPOUTS)
    first, second = weights_of(run)
    second[:] = first
    run.ensemble.members[1].model.pack()
    run.ensemble.members[1].reset_state()
    stopped_after(run, 1)
    assert not np.array_equal(first, second)


def test_the_model_file_predicts_the_geometric_mean_of_the_members(corpus_file, tmp_path):
    run = trained(corpus_file, tmp_path / "m", steps=40, ensemble=2, num_layers=2)
    assert run.summary.parameters == 2 * run.config.num_parameters()
    model = charrnn.load(tmp_path / "m")
    assert model.config.hidden_size == 2 * run.config.hidden_size
    assert model.training["options"]["ensemble"] == 2
    text = corpus_file.read_text()[-500:]
    members = [
        charrnn.LanguageModel(member.model, model.vocabulary, {}) for member in run.ensemble.members
    ]
    losses = [member.loss(text) for member in members]
    assert model.loss(text) < np.mean(losses) and losses[0] != losses[1]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("count", [2, 3])
def test_an_interrupted_ensemble_resumes_exactly(corpus_file, tmp_path, cell, count):
    settings = {"cell": cell, "ensemble": count, "embedding_size": 5 * (count == 3), **DROPOUTS}
    require_same_after_interruptions(corpus_file, tmp_path, [7, 33], **settings)


def test_an_ensemble_does_not_depend_on_the_number_of_threads(corpus_file, tmp_path):
    for threads in 1, 2, 3, 6:
        settings = {"ensemble": 3, "batch_size": 9, "steps": 20, **DROPOUTS}
        trained(corpus_file, tmp_path / f"{threads}", threads=threads, **settings)
        assert result_of(tmp_path / f"{threads}") == result_of(tmp_path / "1")


def test_a_diverged_ensemble_continues_from_the_best_average(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=60, ensemble=2)
    poison_after(run, 30)
    notices = [report.notice for report in run if report.notice]
    assert any("it continues from the best weights" in notice for notice in notices)
    assert run.finished and run.progress.recoveries == 1
    assert np.isfinite(weights_of(run)).all()


def test_an_ensemble_that_diverges_at_once_starts_again(corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", steps=8, ensemble=2)
    first = [weights.copy() for weights in weights_of(run)]
    restart, seen = run.ensemble.restart, []

    def watched(*arguments):
        restart(*arguments)
        seen.extend(weights.copy() for weights in weights_of(run))

    run.ensemble.restart = watched
    poison_after(run, 0)
    assert list(run) and run.finished
    assert len(seen) == 2 and all(map(np.array_equal, seen, first))


def poison_after(run, steps):
    """Let the second member's loss be NaN once, after this many steps."""
    member = run.ensemble.members[1]
    compute = member.compute

    def poisoned(x, y, seed):
        loss, norm = compute(x, y, seed)
        if run.progress.step == steps and not run.progress.recoveries:
            loss = float("nan")
        return loss, norm

    member.compute = poisoned


def test_an_ensemble_needs_the_memory_of_all_members(corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr("charrnn.training.memory.limits", lambda: iter([3_000_000_000]))
    with pytest.raises(CharRNNError, match=r"training 64 models of 1 x 512 units .* --ensemble"):
        started(corpus_file, tmp_path / "m", steps=2, hidden_size=512, ensemble=64)
    assert not list(tmp_path.iterdir())


def test_an_average_of_too_many_units_is_refused(corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr("charrnn.training.memory.limits", lambda: iter(()))
    for module in "network.averaging", "training.ensemble":
        monkeypatch.setattr(f"charrnn.{module}.MAX_UNITS", 100)
    for sizes in {"hidden_size": 51}, {"embedding_size": 51}:
        with pytest.raises(UsageError, match=r"2 times their units, 102 here, and may have 100: "):
            started(corpus_file, tmp_path / "m", steps=2, ensemble=2, **sizes)


def test_info_tells_of_how_many_models_the_network_is_the_average(invoke, corpus_file, tmp_path):
    for count, expected in (2, "units 16 (the average of 2 models)\n"), (1, "units 8\n"):
        trained(corpus_file, tmp_path / f"{count}", steps=2, ensemble=count)
        result = invoke("info", tmp_path / f"{count}")
        assert result.exit_code == 0 and f"lstm, layers 1, {expected}" in result.stdout
