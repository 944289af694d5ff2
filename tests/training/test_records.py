"""Training on records: what is learned, validated and saved, and what is refused."""

import re

import numpy as np
import pytest
from helpers import naive
from helpers.random_models import model_of, naive_start
from helpers.runs import log_of, result_of, started, stopped_after, trained

import charrnn
from charrnn.errors import CharRNNError, UsageError
from charrnn.evaluation.baselines import ngram_losses
from charrnn.evaluation.loss import Validator, surprisals
from charrnn.text import spool
from charrnn.text.disk_ids import JoinedIds
from charrnn.training.start import prepare_run

NAMES = "".join(f"{a}{b}{c}\n" for a in "abcde" for b in "xyz" for c in ("", "um", "elinor"))


@pytest.fixture(scope="session")
def names_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("names") / "names.txt"
    path.write_text(NAMES + "\r\n\naxum")
    return path


def loss_of_each(model, params, ids, end_id):
    """The losses of the ids of each record, computed alone by the reference implementation."""
    losses = []
    for record in np.split(ids, np.flatnonzero(ids == end_id) + 1)[:-1]:
        x = np.concatenate([[end_id], record[:-1]])[:, None]
        start = naive_start(model, model.zero_state(1))
        logits, _ = naive.forward(params, model.config, x, *start)
        p = np.exp(logits[:, 0] - logits[:, 0].max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        losses.append(-np.log(p[np.arange(len(record)), record]))
    return losses


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_validation_reads_each_record_from_its_start(rows):
    model, params = model_of("gru", 7, ngrams=2, record_end_id=3)
    rng = np.random.default_rng(rows)
    ids = np.where(rng.random(300) < 0.2, 3, rng.integers(0, 7, 300)).astype(np.uint8)
    ids[-1] = 3
    losses = np.concatenate(loss_of_each(model, params, ids, 3))
    assert Validator(model, ids, rows).loss() == pytest.approx(losses.mean(), rel=1e-5)
    np.testing.assert_allclose(np.concatenate(list(surprisals(model, ids))), losses, atol=1e-4)


def test_a_part_of_the_records_is_validated():
    model, params = model_of("lstm", 7, record_end_id=3)
    ids = np.tile(np.array([1, 2, 5, 3], np.uint8), 200)
    (losses, *_) = loss_of_each(model, params, ids, 3)
    assert Validator(model, ids, 4, max_chars=64).loss() == pytest.approx(losses.mean(), rel=1e-5)


@pytest.mark.parametrize(
    "how",
    [
        {"dropout": 0.2},
        {"recurrent_dropout": 0.4, "ensemble": 2},
        {"recurrent_dropout": 0.4, "ensemble": 3, "cell": "gru", "num_layers": 2, "dropout": 0.2},
    ],
    ids=["one model", "ensemble", "ensemble of two layers"],
)
def test_a_resumed_run_of_records_is_the_same(names_file, tmp_path, how):
    """It is stopped before, at and after the first end of an epoch, where records are shuffled."""
    how = {"separator": "\n", "epochs": 3, **how}
    run = trained(names_file, tmp_path / "a", **how)
    chunks = run.streams.num_chunks
    assert 3 < chunks < run.options.steps
    stopped_after(started(names_file, tmp_path / "b", **how), chunks - 2)
    for steps in 2, 2:
        stopped_after(started(names_file, tmp_path / "b", resume=True, threads=3), steps)
    resumed = trained(names_file, tmp_path / "b", resume=True, threads=2)
    assert resumed.summary.resumed_step == chunks + 2
    assert result_of(tmp_path / "a") == result_of(tmp_path / "b")


def test_records_on_disk_are_learned_as_those_in_memory(names_file, tmp_path, monkeypatch):
    for name, limit in ("a", spool.SMALL_BYTES), ("b", 1):
        monkeypatch.setattr(spool, "SMALL_BYTES", limit)
        run = trained(names_file, tmp_path / name, separator="\n", steps=2, val_fraction=0.3)
    assert len(run.summary.files) == 3
    a, b = (log_of(tmp_path / name) for name in "ab")
    assert a[0].keys() == b[0].keys()  # the orders differ, the text is the same
    assert len(list(tmp_path.iterdir())) == 6


def test_a_model_of_records_says_so(names_file, tmp_path, invoke):
    trained(names_file, tmp_path / "m", separator="\n", steps=2)
    model = charrnn.load(tmp_path / "m")
    assert model.separator == "\n"
    assert model.model.start.ids.tolist() == [model.config.record_end_id]
    assert not model.model.start.states.hidden.any()
    assert r"each ended by '\n'" in invoke("info", tmp_path / "m").output
    assert model.loss("axum\r\n\nbx") == pytest.approx(model.loss("bx\naxum\n"))


def test_the_summary_counts_records(names_file, tmp_path):
    run = started(names_file, tmp_path / "m", separator="\n", steps=2, val_fraction=0.2)
    (note,) = [note for note in run.summary.notes if "records" in note]
    num_train, num_val = map(int, re.match(r"(\d+) records .*, (\d+) for", note).groups())
    assert num_train + num_val == 46
    assert r"ended by '\n'; 2 empty ones were left out; 1 repeat an earlier one" in note
    assert run.summary.characters == run.summary.train_characters + run.summary.val_characters
    assert run.summary.characters == len(NAMES) + len("axum\n")


@pytest.mark.parametrize(
    ("text", "how", "found"),
    [
        ("ab\ncd\n", {"separator": ";"}, "single record"),
        ("ab\nab\nab", {"separator": "\n"}, "records are all the same"),
        ("\n\r\n\n", {"separator": "\n"}, "no record that is not empty"),
        ("ab\ncd\n", {"separator": ""}, "separator"),
    ],
)
def test_texts_without_several_records_are_refused(text, how, found, tmp_path):
    (tmp_path / "text").write_bytes(text.encode())
    with pytest.raises(CharRNNError, match=found):
        started(tmp_path / "text", tmp_path / "m", steps=2, **how)
    assert [path.name for path in tmp_path.iterdir()] in (["text"], ["text", "m.lock"])


@pytest.mark.parametrize(
    "text",
    ["a\nb\n", "a\nb\nc\nd\ne\n", "a" * 3000 + "\n" + "b" * 50 + "\n" + "ab\n"],
    ids=["two", "short", "long"],
)
def test_odd_records_are_learned(text, tmp_path):
    (tmp_path / "text").write_text(text)
    run = trained(tmp_path / "text", tmp_path / "m", separator="\n", epochs=2, seed=1)
    assert run.finished and run.progress.best_val_loss is not None


def test_a_run_of_records_is_resumed_with_its_separator(names_file, tmp_path):
    trained(names_file, tmp_path / "m", separator="\n", steps=2)
    with pytest.raises(UsageError, match="separator"):
        started(names_file, tmp_path / "m", resume=True, separator=";")


def test_ngrams_of_the_baseline_begin_with_the_record():
    """The order of records does not matter to it, nor what stands before one."""
    rng = np.random.default_rng(0)
    records = [np.append(rng.integers(1, 4, rng.integers(1, 6)), 0) for _ in range(60)]
    losses = []
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(40)
        train = np.concatenate([records[i] for i in order])
        losses.append(ngram_losses(train, np.concatenate(records[40:]), 4, 0))
    np.testing.assert_allclose(*losses)
    ids = np.concatenate(records)
    assert ngram_losses(ids[:120], ids[120:], 4) != ngram_losses(ids[:120], ids[120:], 4, 0)


# --- validation texts


def split_of(paths, tmp_path, **how):
    val_file = how.pop("val_file", None)
    prepared = prepare_run(paths, tmp_path / "m", {"steps": 2, **how}, val_file=val_file)
    prepared.lock.release()
    corpus = prepared.corpus
    return prepared, *(corpus.vocabulary.decode(ids[:]) for ids in prepared.split[:2])


def write(tmp_path, **texts):
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / name for name in texts]


def test_each_file_gives_its_end_where_a_line_begins(tmp_path):
    lines = {name: "".join(f"{name}{i:02}\n" for i in range(50)) for name in "abc"}
    paths = write(tmp_path, **lines)
    prepared, train, val = split_of(paths, tmp_path, val_fraction=0.11)
    assert isinstance(prepared.split.val_ids, JoinedIds)
    assert val == "".join("".join(f"{name}{i}\n" for i in range(44, 50)) for name in "abc")
    assert train == "".join(text[:-24] for text in lines.values())


@pytest.mark.parametrize("max_chars", [None, 60])
def test_the_end_of_a_file_is_read_after_the_text_before_it(tmp_path, max_chars):
    rng = np.random.default_rng(4)
    ids = rng.integers(0, 5, 900).astype(np.uint8)
    model, params = model_of("rnn", 5)
    joined = JoinedIds(ids, [(250, 300), (540, 580), (880, 900)])
    total, count = 0.0, 0
    for first, start, end in (0, 250, 300), (300, 540, 580), (624, 880, 900):
        end = end if max_chars is None else start + round((end - start) * 60 / 110)
        zero = naive_start(model, model.zero_state(1))
        logits, _ = naive.forward(params, model.config, ids[first : end - 1, None], *zero)
        z = logits[start - first - 1 :, 0]
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        total -= log_p[np.arange(end - start), ids[start:end]].sum()
        count += end - start
    for rows in 1, 2, 7:
        loss = Validator(model, joined, rows, max_chars).loss()
        assert loss == pytest.approx(total / count, rel=2e-3)


def test_joined_ids_are_read_like_an_array():
    ids = np.arange(30, dtype=np.uint8)
    joined = JoinedIds(ids, [(0, 3), (5, 5), (7, 20), (29, 30)])
    expected = np.concatenate([ids[0:3], ids[7:20], ids[29:30]])
    assert len(joined) == len(expected) and joined[-1] == 29
    for a in range(-3, 19):
        for b in range(-3, 19):
            assert joined[a:b].tolist() == expected[a:b].tolist()
    assert np.asarray(joined).tolist() == expected.tolist()


def test_a_run_of_several_files_of_an_earlier_version_reads_them_as_one(tmp_path):
    paths = write(tmp_path, a="one two\n" * 40, b="three\n" * 40)
    joined = write(tmp_path, joined="one two\n" * 40 + "three\n" * 40)
    trained(joined, tmp_path / "a.m", steps=4)
    stopped_after(started(joined, tmp_path / "b.m", steps=4), 2)
    trained(paths, tmp_path / "b.m", resume=True)  # its fingerprint is that of the bytes
    assert result_of(tmp_path / "a.m") == result_of(tmp_path / "b.m")


def test_a_validation_file_is_held_out_whole(tmp_path):
    paths = write(tmp_path, a="one\ntwo", b="three\n", v="four\nß\n")
    prepared, train, val = split_of(paths[:2], tmp_path, val_file=paths[2])
    assert (train, val.strip()) == ("one\ntwo\nthree\n", "four\nß")
    assert any("'ß' (U+00DF)" in note for note in prepared.notes)
    prepared, train, val = split_of(paths[:2], tmp_path, val_file=paths[2], separator="\n")
    assert train == "one\ntwo\nthree\n"
    assert sorted(val.split()) == ["four", "ß"]


def test_a_validation_file_without_text_is_refused(tmp_path):
    paths = write(tmp_path, a="one\ntwo\n", empty="", lines="\n\n")
    for name, how in ("empty", {}), ("empty", {"separator": "\n"}), ("lines", {"separator": "\n"}):
        with pytest.raises(CharRNNError, match="in the validation file"):
            split_of(paths[:1], tmp_path, val_file=tmp_path / name, **how)
    with pytest.raises(UsageError, match="val-fraction"):
        split_of(paths[:1], tmp_path, val_file=paths[0], val_fraction=0.2)


def test_a_run_is_resumed_with_its_validation_file(tmp_path):
    paths = write(tmp_path, a="one\ntwo\n" * 40, v="two\none\n" * 9)
    trained(paths[0], tmp_path / "m", steps=2, val_file=paths[1])
    with pytest.raises(UsageError, match="val-file"):
        prepare_run(paths[0], tmp_path / "m", {}, resume=True)
    with pytest.raises(UsageError, match="val-file"):
        prepare_run(paths, tmp_path / "m", {}, resume=True)
    prepare_run(paths[0], tmp_path / "m", {}, resume=True, val_file=paths[1]).lock.release()


# --- notes


def notes_of(paths, tmp_path, **how):
    return "\n".join(split_of(paths, tmp_path, **how)[0].notes)


def random_words(count, seed=0):
    rng = np.random.default_rng(seed)
    letters = list("aeioukmnrst")
    return ["".join(rng.choice(letters, rng.integers(3, 9))) for _ in range(count)]


@pytest.mark.parametrize("order", [list, sorted])
@pytest.mark.parametrize("num_words", [1, 3])
def test_a_list_gets_a_note(tmp_path, order, num_words):
    words = iter(random_words(1500 * num_words))
    lines = [" ".join(group) for group in zip(*[words] * num_words, strict=True)]
    text = "".join(f"{line}\n" for line in order(lines))
    assert "--records" in notes_of(write(tmp_path, a=text), tmp_path)
    assert "--records" not in notes_of(write(tmp_path, a=text), tmp_path, separator="\n")


def wrapped(words, width):
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word + " "
    return "".join(line.rstrip() + "\n" for line in lines)


def sentences(words, rng):
    """Words of which some end a sentence, and the next begins with a capital."""
    ends = rng.random(len(words)) < 0.2
    starts = np.append(True, ends[:-1])
    pairs = zip(words, starts, ends, strict=True)
    return [(w.title() if start else w) + ("." if end else "") for w, start, end in pairs]


TEXTS = {
    "prose": lambda words, rng: wrapped(sentences(words, rng), 40),
    "lower case": lambda words, rng: wrapped(words, 60),
    "verse": lambda words, rng: "".join(rng.choice(["AA said:\n", "so,\nbut.\n"], 900)),
    "paragraphs": lambda words, rng: "".join(
        f"{' '.join(words[i : i + 20])}\n" for i in range(0, 4000, 20)
    ),
    "few lines": lambda words, rng: "\n".join(words[:50]),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_running_text_gets_no_note(kind, tmp_path):
    text = TEXTS[kind](random_words(4000), np.random.default_rng(2))
    assert "--records" not in notes_of(write(tmp_path, a=text), tmp_path)


def test_copies_in_the_validation_text_are_told(tmp_path):
    words = random_words(4000)
    text = " ".join(words)
    half = text[: len(text) // 20] + " ".join(random_words(250, seed=1))
    assert "also stand" not in notes_of(write(tmp_path, a=text, v=half)[:1], tmp_path)
    notes = notes_of(write(tmp_path, a=text, v=half)[:1], tmp_path, val_file=tmp_path / "v")
    assert "of the runs of 50 characters of the validation text also stand" in notes
    assert 40 < int(notes.split("%")[0]) < 60
    lines = "\n".join(words)
    known = "\n".join(words[:100] + random_words(100, seed=1))
    paths = write(tmp_path, a=lines, v=known)
    notes = notes_of(paths[:1], tmp_path, val_file=paths[1], separator="\n")
    assert "% of the records of the validation text" in notes
    assert "% of the lines of the validation text" in notes_of(
        paths[:1], tmp_path, val_file=paths[1]
    )


def test_a_sample_of_a_run_has_whole_records(tmp_path):
    (tmp_path / "text").write_text("ab||b||aab||" * 40)
    run = started(tmp_path / "text", tmp_path / "m", separator="||", steps=40)
    for _ in run:
        pass
    model = charrnn.load(tmp_path / "m")
    lines = run.sample(60).split("\n")
    assert len(lines) > 5 and set("".join(lines)) == {"a", "b"}
    assert sum(map(len, lines)) + len(lines) <= 60
    assert lines[0] == model.sample(seed=run.options.seed)
    assert run.sample(1) in ("a", "b", "")
