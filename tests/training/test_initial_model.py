"""Runs that start from the model of an earlier run."""

from dataclasses import asdict

import numpy as np
import pytest
from helpers.random_models import model_of
from helpers.runs import result_of, started, stopped_after, trained

import charrnn
from charrnn.config import TrainOptions
from charrnn.errors import CharRNNError, UsageError
from charrnn.network.cells import CELLS
from charrnn.network.model import Model
from charrnn.storage.checkpoint import save_model
from charrnn.text.vocabulary import SEPARATOR, UNKNOWN, CharVocabulary
from charrnn.training.initial_model import InitialModel, make_learnable

OLD = "\nabcdefghij"


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def old_file(corpus_file, tmp_path_factory):
    """The model of a short run, with n-grams."""
    path = tmp_path_factory.mktemp("old") / "old"
    trained(corpus_file, path, steps=60, learning_rate=0.02)
    return path


@pytest.fixture(scope="module")
def other_text(tmp_path_factory):
    """A text that shares some characters with conftest's."""
    path = tmp_path_factory.mktemp("other") / "text"
    path.write_text("Ärger: The tide has gone, ça va.\nzebras wait & wait\n" * 60)
    return path


def saved(path, characters, **shape):
    """Save a random model; returns it as charrnn loads it."""
    separator = "||" if SEPARATOR in characters else ""
    vocabulary = CharVocabulary(characters, separator)
    model, _ = model_of(V=len(characters), scale=0.5, **shape)
    ngrams = model.ngrams.table
    save_model(path, model.state_dict(), asdict(model.config), vocabulary, {}, ngrams=ngrams)
    return charrnn.load(path, threads=1)


def weights_for(path, characters, prune=False):
    """The weights for a text of these characters, and the model that has them."""
    options = TrainOptions(init_from=str(path), prune_vocabulary=prune)
    initial = InitialModel(options, {}, as_bytes=False)
    vocabulary = initial.vocabulary(CharVocabulary(characters))
    weights = initial.weights(vocabulary)
    config = charrnn.load(path, threads=1).config
    changed = {"vocab_size": len(vocabulary), "num_ngrams": sum(map(len, weights.ngrams))}
    model = Model(type(config)(**asdict(config) | changed), ngrams=weights.ngrams)
    model.load_state_dict(weights.tensors)
    return charrnn.LanguageModel(model, vocabulary, {}), weights


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding", [0, 6])
@pytest.mark.parametrize("new", [OLD[::-1], OLD[2:5], OLD + "xyz", "\nzyjxa" + UNKNOWN])
def test_new_characters_do_not_change_the_loss_of_old_texts(tmp_path, cell, embedding, new):
    old = saved(tmp_path / "old", OLD, cell=cell, ngrams=3, embedding_size=embedding)
    model, weights = weights_for(tmp_path / "old", new)
    text = "".join(np.random.default_rng(0).choice(list(OLD), 300))
    assert model.loss(text) == old.loss(text)
    assert set(model.vocabulary.characters) == set(OLD) | set(new)
    assert weights.num_new == len(set(new) - set(OLD))


@pytest.mark.parametrize("shift", [-1000, -60, 60, 1000])
def test_a_shift_of_all_logits_changes_nothing(tmp_path, shift):
    """The softmax does not depend on it; the logits of new characters must follow."""
    old = saved(tmp_path / "old", OLD, cell="gru")
    old.model.load_state_dict(shifted(old.model.state_dict(), shift))
    old.save(tmp_path / "old", overwrite=True)
    model, _ = weights_for(tmp_path / "old", OLD + "xyz")
    text = "".join(np.random.default_rng(0).choice(list(OLD), 300))
    assert model.loss(text) == old.loss(text)
    make_learnable(model.model.parameters)
    bias = model.model.state_dict()["output.bias"]
    np.testing.assert_allclose(bias[-3:], bias[:-3].mean(), rtol=1e-4)


def shifted(tensors, shift):
    return tensors | {"output.bias": (tensors["output.bias"] + shift).astype(np.float32)}


@pytest.mark.parametrize("embedding", [0, 6])
def test_pruning_keeps_the_weights_of_what_remains(tmp_path, embedding):
    old = saved(tmp_path / "old", OLD, cell="gru", ngrams=4, embedding_size=embedding)
    kept = "hcb\naeXi"
    model, weights = weights_for(tmp_path / "old", kept, prune=True)
    assert model.vocabulary.characters == kept
    ids = old.vocabulary.look_up(kept)
    name = old.config.lookup_table_name
    old_table, new_table = old.model.state_dict()[name], weights.tensors[name]
    if not embedding:
        old_table, new_table = old_table.T, new_table.T
    known = ids >= 0
    assert np.array_equal(new_table[: len(kept)][known], old_table[ids[known]])
    old_rows = rows_by_ngram(old.vocabulary, old.model.ngrams.table, old_table)
    new_rows = rows_by_ngram(model.vocabulary, weights.ngrams, new_table)
    assert new_rows.keys() == {ngram for ngram in old_rows if set(ngram) <= set(kept)}
    assert 0 < len(new_rows) < len(old_rows)
    assert all(np.array_equal(row, old_rows[ngram]) for ngram, row in new_rows.items())
    bias = old.model.state_dict()["output.bias"]
    assert np.array_equal(weights.tensors["output.bias"][known], bias[ids[known]])


def rows_by_ngram(vocabulary, table, lookup_table):
    ngrams = [vocabulary.symbols(ids) for level in table for ids in level]
    return dict(zip(ngrams, lookup_table[len(vocabulary) :], strict=True))


def test_new_characters_become_learnable(tmp_path):
    saved(tmp_path / "old", OLD, cell="lstm")
    model, _ = weights_for(tmp_path / "old", "\nxay")
    parameters = model.model.parameters
    before = parameters.state_dict()
    make_learnable(parameters)
    after = parameters.state_dict()
    for name in "output.weight", "output.bias":
        assert np.array_equal(after[name][: len(OLD)], before[name][: len(OLD)])
        mean = before[name][: len(OLD)].mean(0)
        np.testing.assert_allclose(after[name][len(OLD) :], [mean, mean], rtol=1e-4, atol=1e-6)
    make_learnable(parameters)
    assert np.array_equal(parameters.state_dict()["output.weight"], after["output.weight"])


def test_new_characters_stay_learnable_after_a_divergence(old_file, other_text, tmp_path):
    """The best weights, from which it recovers, are the old model's."""
    run = started(other_text, tmp_path / "m", init_from=str(old_file), steps=40)
    member = run.ensemble.members[0]
    compute = member.compute

    def poisoned(x, y, seed):
        loss, norm = compute(x, y, seed)
        diverges = run.progress.step == 2 and not run.progress.recoveries
        return float("nan") if diverges else loss, norm

    member.compute = poisoned
    for _ in run:
        if run.progress.step == 3:
            assert run.has_initial_best
            assert member.model.state_dict()["output.bias"].min() > -20
    assert run.finished and run.progress.recoveries == 1


def test_a_run_starts_from_the_old_loss_and_learns(old_file, corpus_file, other_text, tmp_path):
    run = started(other_text, tmp_path / "m", init_from=str(old_file), steps=40)
    assert run.config.hidden_size == 8 and run.config.num_ngrams > 0
    assert run.summary.initial.loss == run.progress.best_val_loss
    assert run.summary.initial.num_new == len(set("Äçz&") | set("rgbw")) - len(
        set("rgbw") & set(corpus_file.read_text())
    )
    for _ in run:
        pass
    assert run.progress.best_val_loss < run.summary.initial.loss and not run.has_initial_best
    model = charrnn.load(tmp_path / "m")
    assert set(corpus_file.read_text()) <= set(model.vocabulary.characters)
    assert model.sample(20, prime="MARA", seed=1)


def test_the_old_weights_stay_when_training_does_not_better_them(
    old_file, corpus_file, tmp_path, invoke
):
    command = ["train", corpus_file, "--init-from", old_file, "-o", tmp_path / "m", "--steps", "9"]
    result = invoke(*command, "--learning-rate", "3", "--batch-size", "8", "--seq-length", "12")
    assert result.exit_code == 0, result.stderr
    assert "note    training did not lower the loss of --init-from" in result.stderr
    [start] = [line for line in result.stderr.splitlines() if line.startswith("start ")]
    [best] = [line for line in result.stderr.splitlines() if line.startswith("best ")]
    assert start.split()[1] == best.split()[1] and start.endswith(f"with {old_file}")
    old, new = charrnn.load(old_file), charrnn.load(tmp_path / "m")
    assert new.training["steps"] == 0
    assert new.loss(corpus_file.read_text()) == old.loss(corpus_file.read_text())
    for name, tensor in old.model.state_dict().items():
        assert np.array_equal(tensor, new.model.state_dict()[name]), name


@pytest.mark.parametrize("stops", [[0], [1, 7]])
@pytest.mark.parametrize("ensemble", [1, 2])
def test_an_interrupted_run_resumes_without_the_old_model(
    corpus_file, other_text, tmp_path, stops, ensemble
):
    sizes = {"hidden_size": 16, "num_layers": 1, "ensemble": ensemble}
    trained(corpus_file, tmp_path / "old", steps=9, **sizes)
    settings = {"init_from": str(tmp_path / "old"), "steps": 12, "dropout": 0.2}
    sizes = dict.fromkeys(("hidden_size", "num_layers"))
    whole = trained(other_text, tmp_path / "whole", **settings, **sizes)
    assert whole.options.ensemble == ensemble
    run = started(other_text, tmp_path / "parts", **settings, **sizes)
    (tmp_path / "old").unlink()
    for steps in stops:
        if steps:
            stopped_after(run, steps)
        else:
            run.stop()
            assert list(run) == []
        run = started(other_text, tmp_path / "parts", resume=True)
    for _ in run:
        pass
    assert result_of(tmp_path / "parts") == result_of(tmp_path / "whole")


def test_a_run_that_was_killed_before_its_model_was_saved_is_resumed(
    old_file, corpus_file, tmp_path
):
    settings = {"init_from": str(old_file), "steps": 3, "learning_rate": 3.0}
    trained(corpus_file, tmp_path / "whole", **settings)
    run = started(corpus_file, tmp_path / "parts", **settings)
    run.stop()
    assert list(run) == []
    (tmp_path / "parts").unlink()
    run = trained(corpus_file, tmp_path / "parts", resume=True)
    whole, parts = (charrnn.load(tmp_path / name) for name in ("whole", "parts"))
    assert run.has_initial_best and whole.training == parts.training
    assert np.array_equal(whole.model.parameters.flat, parts.model.parameters.flat)


def test_a_run_may_replace_the_model_that_it_starts_from(corpus_file, other_text, tmp_path, invoke):
    trained(corpus_file, tmp_path / "m", steps=9)
    command = ["train", other_text, "--init-from", tmp_path / "m", "-o", tmp_path / "m"]
    before = (tmp_path / "m").read_bytes()
    assert "--overwrite" in invoke(*command, "--steps", "3").stderr
    assert (tmp_path / "m").read_bytes() == before
    result = invoke(*command, "--steps", "3", "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert "ç" in charrnn.load(tmp_path / "m").vocabulary.characters


def test_settings_that_the_old_model_decides_may_be_repeated(old_file, corpus_file, tmp_path):
    run = started(corpus_file, tmp_path / "m", init_from=str(old_file), cell="lstm", steps=1)
    assert run.config.cell == "lstm"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"hidden_size": 9}, "has hidden size 8, not 9: leave --hidden-size out"),
        ({"cell": "gru"}, "has cell lstm, not gru"),
        ({"ngrams": 1}, "has ngrams 3, not 1"),
        ({"embedding_size": 4}, "has embedding size 0, not 4"),
        ({"ensemble": 2}, "has ensemble 1, not 2"),
        ({"as_bytes": True}, "is a model of characters: omit --bytes"),
        ({"separator": "\n"}, "is not a model of records: omit --records"),
    ],
)
def test_what_contradicts_the_old_model_is_refused(
    old_file, corpus_file, tmp_path, settings, words
):
    with pytest.raises(UsageError, match=words):
        started(corpus_file, tmp_path / "m", init_from=str(old_file), steps=1, **settings)
    assert list(tmp_path.iterdir()) == []


def test_models_of_records_and_bytes_need_their_option(
    records_model, bytes_model_file, corpus_file, tmp_path
):
    for model, settings, words in (
        (records_model, {}, "give --records"),
        (records_model, {"separator": ";"}, "records that end with '\\\\n': give --records"),
        (bytes_model_file, {}, "give --bytes"),
    ):
        with pytest.raises(UsageError, match=words):
            charrnn.train(corpus_file, tmp_path / "m", init_from=str(model), steps=1, **settings)
    for model, settings in (
        (records_model, {"separator": "\n"}),
        (bytes_model_file, {"as_bytes": True}),
    ):
        output = tmp_path / model.name
        new = charrnn.train(corpus_file, output, init_from=str(model), steps=1, **settings)
        assert new.config.hidden_size == charrnn.load(model).config.hidden_size


def test_damaged_and_unfit_files_are_refused(old_file, corpus_file, tmp_path):
    data = old_file.read_bytes()
    (tmp_path / "cut").write_bytes(data[:-5])
    version = rb"\"format_version\": "
    (tmp_path / "newer").write_bytes(data.replace(version + b"3", version + b"9"))
    (tmp_path / "text").write_text("ЖЖЖщщщ" * 50)
    (tmp_path / "empty").write_text("")
    folder = tmp_path / "new"
    folder.mkdir()
    for text, model, words in (
        (corpus_file, tmp_path / "cut", "truncated"),
        (corpus_file, tmp_path / "newer", "newer: .*version 9"),
        (corpus_file, tmp_path / "missing", "no such file"),
        (corpus_file, corpus_file, "not a file of charrnn"),
        (tmp_path / "text", old_file, "knows no character of the text"),
        (tmp_path / "empty", old_file, "is empty"),
    ):
        with pytest.raises(CharRNNError, match=words):
            charrnn.train(text, folder / "m", init_from=str(model), steps=1)
    assert list(folder.iterdir()) == []


def test_a_model_beyond_memory_is_refused(old_file, corpus_file, tmp_path, monkeypatch):
    monkeypatch.setattr("charrnn.training.memory.limits", lambda: iter([20_000]))
    with pytest.raises(CharRNNError, match="memory"):
        started(corpus_file, tmp_path / "m", init_from=str(old_file), steps=2)
    assert not list(tmp_path.iterdir())


def test_a_false_number_of_members_is_refused(old_file, corpus_file, tmp_path):
    file = charrnn.load(old_file)
    for members in 2, 3, "x":
        training = {"options": {"ensemble": members}}
        arguments = file.model.state_dict(), asdict(file.config), file.vocabulary, training
        save_model(tmp_path / "old", *arguments, None, file.model.ngrams.table)
        with pytest.raises(CharRNNError, match="old: the file is damaged .not the average"):
            charrnn.train(corpus_file, tmp_path / "m", init_from=str(tmp_path / "old"), steps=1)
        assert not (tmp_path / "m").exists()


def test_pruning_needs_a_model(corpus_file, tmp_path):
    with pytest.raises(UsageError, match="give --init-from"):
        charrnn.train(corpus_file, tmp_path / "m", prune_vocabulary=True, steps=1)


def test_the_command_prunes(old_file, other_text, tmp_path, invoke):
    command = ["train", other_text, "--init-from", old_file, "-o", tmp_path / "m", "--steps", "2"]
    result = invoke(*command, "--prune-vocabulary")
    assert result.exit_code == 0, result.stderr
    assert set(charrnn.load(tmp_path / "m").vocabulary.characters) == set(other_text.read_text())
    resumed = invoke("train", other_text, "-o", tmp_path / "m", "--resume", "--prune-vocabulary")
    assert "there is no vocabulary to prune" in resumed.stderr
