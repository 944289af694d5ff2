"""Models that read a text from its end to its beginning, compared with models of reversed texts."""

import json

import numpy as np
import pytest
from helpers.runs import result_of, started, stopped_after, trained
from hypothesis import given
from hypothesis import strategies as st

import charrnn
from charrnn.errors import UsageError
from charrnn.storage.checkpoint import load_model
from charrnn.text.disk_ids import JoinedIds
from charrnn.text.reversal import in_reading_order, reversed_ids
from charrnn.text.splitting import split_corpus

SHORT = {"steps": 30, "hidden_size": 8, "num_layers": 1, "learning_rate": 0.02}


# --- ids


@given(st.lists(st.integers(0, 9)), st.integers(0, 20), st.integers(0, 20))
def test_ids_are_reversed_and_values_put_back(values, a, b):
    ids = np.array(values, np.int32)
    assert np.asarray(reversed_ids(ids)).tolist() == values[::-1]
    assert in_reading_order(np.asarray(reversed_ids(ids)), ids).tolist() == values
    joined = JoinedIds(ids, [(0, min(a, len(values))), (min(a, len(values)), len(values))])
    assert np.asarray(reversed_ids(joined)).tolist() == values[::-1]
    part = JoinedIds(ids, [(min(a, b, len(values)), min(max(a, b), len(values)))])
    assert np.asarray(reversed_ids(part)).tolist() == np.asarray(part).tolist()[::-1]


@given(st.lists(st.text("abc", max_size=4)))
def test_records_keep_their_ends(records):
    text = "".join(r + "\n" for r in records)
    ids = np.frombuffer(text.encode(), np.uint8)
    found = np.asarray(reversed_ids(ids, ord("\n"))).tobytes().decode()
    assert found == "".join(r[::-1] + "\n" for r in reversed(records))
    numbers = np.arange(len(ids))  # of each id; those of a record stay with it
    ends = np.flatnonzero(ids == ord("\n"))
    parts = np.split(numbers, ends + 1)[:-1]
    values = np.concatenate([np.append(p[:-1][::-1], p[-1]) for p in parts[::-1]] or [numbers])
    assert in_reading_order(values, ids, ord("\n")).tolist() == numbers.tolist()


# --- training


def reversed_copy(path, folder):
    """A file whose training and validation texts are those of `path`, reversed."""
    text = path.read_text()
    place = len(text) - int(len(text) * 0.1)
    (folder / "train").write_text(text[:place][::-1])
    (folder / "val").write_text(text[place:][::-1])
    return folder / "train", folder / "val"


def test_a_backward_run_learns_the_reversed_text(corpus_file, tmp_path):
    run = trained(corpus_file, tmp_path / "m", backward=True, **SHORT)
    train, val = reversed_copy(corpus_file, tmp_path)
    other = trained(train, tmp_path / "o", val_file=val, **SHORT)
    model, forward = charrnn.load(tmp_path / "m"), charrnn.load(tmp_path / "o")
    # The vocabularies are sorted, so that they agree.
    assert model.vocabulary == forward.vocabulary
    assert model.backward and not forward.backward
    assert np.array_equal(model.model.parameters.flat, forward.model.parameters.flat)
    assert run.progress.best_val_loss == other.progress.best_val_loss
    assert run.sample(40) == other.sample(40)[::-1]


def test_a_backward_run_resumes_exactly(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "whole", backward=True, **SHORT)
    run = started(corpus_file, tmp_path / "m", backward=True, **SHORT)
    stopped_after(run, 11)
    trained(corpus_file, tmp_path / "m", resume=True)
    assert result_of(tmp_path / "m") == result_of(tmp_path / "whole")


def test_the_new_model_reads_as_the_initial_one(corpus_file, tmp_path):
    trained(corpus_file, tmp_path / "old", backward=True, **SHORT)
    run = trained(corpus_file, tmp_path / "m", init_from=str(tmp_path / "old"), steps=3)
    assert run.config.backward and charrnn.load(tmp_path / "m").backward
    assert run.summary.initial.loss == pytest.approx(charrnn_val_loss(tmp_path / "old"), rel=1e-4)
    trained(corpus_file, tmp_path / "forward", **SHORT)
    with pytest.raises(UsageError, match="has backward False, not True"):
        started(
            corpus_file, tmp_path / "n", init_from=str(tmp_path / "forward"), backward=True, steps=1
        )


def charrnn_val_loss(path):
    return charrnn.load(path).training["val_loss"]


def test_several_files_each_give_their_own_end(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(f"{name}xyz zyx.\n" * 40)
    run = started([tmp_path / "a", tmp_path / "b"], tmp_path / "m", backward=True, **SHORT)
    split = split_corpus(run.corpus, 0.1)
    decode = run.corpus.vocabulary.decode
    validation = decode(np.asarray(split.reversed(-1).val_ids))
    assert validation == decode(np.asarray(split.val_ids))[::-1]
    assert "a" in validation and "b" in validation
    for _ in run:
        pass


# --- the model


@pytest.fixture(scope="module")
def pair(corpus_file, tmp_path_factory):
    """A backward model, and a forward model of the same weights."""
    folder = tmp_path_factory.mktemp("backward")
    trained(corpus_file, folder / "m", backward=True, **SHORT | {"steps": 60})
    train, val = reversed_copy(corpus_file, folder)
    trained(train, folder / "o", val_file=val, **SHORT | {"steps": 60})
    return charrnn.load(folder / "m"), charrnn.load(folder / "o"), folder / "m"


@pytest.mark.parametrize("how", [{}, {"lines": 2}, {"stop": "de"}, {"temperature": 0}])
def test_texts_are_those_of_the_reversed_model_reversed(pair, how):
    model, forward, _ = pair
    mirrored = how | ({"stop": how["stop"][::-1]} if "stop" in how else {})
    for prime in "", "tide":
        text = model.sample(60, prime=prime, seed=3, **how)
        assert text == forward.sample(60, prime=prime[::-1], seed=3, **mirrored)[::-1]
    [(text, nats)] = model.beams(3, 1, 20, prime="tide")
    [(mirror, expected)] = forward.beams(3, 1, 20, prime="edit")
    assert text == mirror[::-1] and nats == expected


def test_losses_and_probabilities_are_those_of_the_reversed_text(pair):
    model, forward, _ = pair
    text = "MARA: The tide"
    assert model.losses(text).tolist() == forward.losses(text[::-1])[::-1].tolist()
    assert model.loss(text) == forward.loss(text[::-1])
    assert model.probabilities("tide") == forward.probabilities("edit")


def test_a_state_of_an_ending_is_continued(pair):
    model, _, _ = pair
    state = model.state("The ", after=model.state("tide"))
    assert state.text == "The tide"
    expected = model.sample(30, prime="The tide", seed=1)
    assert model.sample(30, state=state, seed=1) == expected


def test_filters_see_text_and_ending_in_their_order(pair):
    model, _, _ = pair
    samples = model.samples(3, 30, prime="tide", seed=1, match=r"[a-z] tide$")
    assert all((sample.text + "tide").endswith(" tide") for sample in samples)


def test_a_saved_model_still_reads_backwards(pair, tmp_path):
    model, _, path = pair
    model.save(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    from charrnn.config import tensor_shapes

    file = load_model(path, tensor_shapes)
    assert file.format_version == 4 and file.config["backward"] is True


def test_what_a_backward_model_cannot_do_is_refused(pair):
    model, forward, _ = pair
    with pytest.raises(UsageError, match="needs an end"):
        model.stream(None)
    with pytest.raises(UsageError, match="fill needs one that reads forwards"):
        model.fill("a", "b", 1)
    with pytest.raises(UsageError, match="cannot be mixed"):
        charrnn.Mixture([forward, model])


def test_bytes_are_put_into_their_order(tmp_path):
    (tmp_path / "text").write_text("Grüße an alle.\n" * 60, encoding="utf-8")
    model = charrnn.train(
        tmp_path / "text", tmp_path / "m", as_bytes=True, backward=True, **SHORT | {"steps": 120}
    )
    assert "rüße an alle." in model.sample(60, prime="e.\n", temperature=0) + "e.\n"


def test_records_are_written_before_their_ending(tmp_path):
    (tmp_path / "list").write_text("Anna\nHanna\nJohanna\n" * 40)
    model = charrnn.train(
        tmp_path / "list", tmp_path / "m", separator="\n", backward=True, **SHORT | {"steps": 150}
    )
    texts = {s.text + "nna" for s in model.samples(30, 20, prime="nna", seed=1)}
    assert texts & {"Anna", "Hanna", "Johanna"}
    assert not np.isnan(model.losses("Anna\nHanna\n")).any()
    assert model.losses("Anna\nHanna\n")[:5] == pytest.approx(model.losses("Anna\n"), rel=1e-4)


# --- the commands


def test_sample_writes_the_text_before_the_prime(pair, invoke):
    model, _, path = pair
    expected = model.sample(40, prime="tide", seed=2)
    command = "sample", "-m", path, "--seed", 2, "--length", 40, "--prime", "tide"
    assert invoke(*command).stdout == expected + "tide"
    assert invoke(*command, "--omit-prime").stdout == expected
    found = json.loads(invoke(*command, "--jsonl").stdout)
    assert (found["prime"], found["text"]) == ("tide", expected)
    assert invoke("sample", "-m", path, "--length", 0).exit_code == 2


def test_eval_and_score_read_backwards_and_say_so(pair, invoke, tmp_path):
    model, _, path = pair
    text = "MARA: The tide is here.\nTOM: The tide.\n"
    (tmp_path / "text").write_text(text)
    result = invoke("eval", tmp_path / "text", "-m", path, "--json")
    assert json.loads(result.stdout)["nats_per_character"] == pytest.approx(model.loss(text))
    assert "reads backwards" in result.stderr
    result = invoke("score", tmp_path / "text", "-m", path, "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    losses = model.losses(text)
    assert lines[0]["nats"] == pytest.approx(losses[:24].sum(), rel=1e-5)
    assert "predicted from those after it" in result.stderr
    page = tmp_path / "page.html"
    assert invoke("score", tmp_path / "text", "-m", path, "--html", page).exit_code == 0
    assert "backwards" in invoke("info", path).stdout


@pytest.mark.parametrize("command", ["inspect", "fill"])
def test_commands_that_read_forwards_refuse_it(pair, invoke, tmp_path, command):
    (tmp_path / "text").write_text("MARA: The t[?]e is here.\n")
    result = invoke(command, tmp_path / "text", "-m", pair[2])
    assert f"reads backwards: {command} needs" in result.stderr and result.exit_code == 2


def test_train_reads_backwards(invoke, corpus_file, tmp_path):
    command = "train", corpus_file, "-o", tmp_path / "m", "--hidden-size", 8
    assert invoke(*command, "--steps", 4, "--backward").exit_code == 0
    assert charrnn.load(tmp_path / "m").backward
    assert invoke(*command[:4], "--resume", "--steps", 6).exit_code == 0
    assert charrnn.load(tmp_path / "m").backward


# --- both directions


@pytest.fixture(scope="module")
def forward_file(corpus_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("forward") / "forward"
    trained(corpus_file, path, **SHORT | {"steps": 60})
    return path


def test_scores_of_both_sides_are_the_normalised_product(pair, forward_file, invoke, tmp_path):
    """p(c | before) p(c | after) / p(c), with probabilities of `probabilities`."""
    backward, forward = pair[0], charrnn.load(forward_file)
    text = "MARA: The tide is\nTOM: There.\n"
    (tmp_path / "text").write_text(text)
    models = "-m", pair[2], "-m", forward_file
    result = invoke("score", tmp_path / "text", *models, "--bidirectional", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    found = np.concatenate([line["surprisals"] for line in lines])
    counts = {c: text.count(c) + 1 for c in forward.vocabulary.characters}
    for i in (0, 1, 7, 17, 18, len(text) - 2):
        left, right = forward.probabilities(text[:i]), backward.probabilities(text[i + 1 :])
        p = {c: left[c] * right[c] / n for c, n in counts.items()}
        assert found[i] == pytest.approx(-np.log(p[text[i]] / sum(p.values())), abs=2e-3)


def test_a_misprint_stands_out_of_both_sides(pair, forward_file, invoke, tmp_path):
    (tmp_path / "text").write_text("MARA: The tide is here.\nMARA: The tiTe is here.\n")
    score = "score", tmp_path / "text", "-m", forward_file, "-m", pair[2], "--bidirectional"
    result = invoke(*score, "--json")
    right, wrong = [json.loads(line)["surprisals"] for line in result.stdout.splitlines()]
    assert np.argmax(wrong) == 12 and wrong[12] > max(right)
    page = tmp_path / "page.html"
    assert invoke(*score, "--html", page).exit_code == 0 and "both sides" in page.read_text()
    (tmp_path / "text").write_text("MARA: The tide is here.\n")
    right = json.loads(invoke(*score, "--json").stdout)["surprisals"]
    (tmp_path / "text").write_text("MARA: \u4e00The tide is here.\n")
    assert "never seen" in invoke(*score).stderr
    result = invoke(*score, "--json", "--unknown", "skip")
    skipped = json.loads(result.stdout)["surprisals"]
    assert skipped[6] == 50 and np.allclose(skipped[:6] + skipped[7:], right, atol=1e-3)


def test_bidirectional_scores_need_two_models_that_fit(pair, forward_file, invoke, tmp_path):
    (tmp_path / "text").write_text("MARA: The tide is here.\n")
    score = "score", tmp_path / "text", "--bidirectional"
    for models, reason in (
        ((forward_file,), "needs two models, not 1"),
        ((forward_file, forward_file), "both models read forwards"),
        ((pair[2], pair[2]), "both models read backwards"),
    ):
        result = invoke(*score, *(a for m in models for a in ("-m", m)))
        assert reason in result.stderr and result.exit_code == 2
