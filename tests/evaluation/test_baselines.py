"""N-gram and xz baselines, compared with counts in dictionaries and with the xz format."""

import json
import math
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import charrnn
from charrnn.evaluation import baselines as module
from charrnn.evaluation.baselines import (
    MIN_EVAL_CHARS,
    NGRAM_ORDERS,
    baselines,
    ngram_losses,
)
from charrnn.text.streams import split
from charrnn.text.vocabulary import ByteVocabulary, CharVocabulary


def naive_probability(train, context, x, vocab_size):
    """p(x | context) by Witten and Bell, with a pass over the text for each order."""
    if context is None:
        return 1 / vocab_size
    k = len(context)
    followers = Counter(train[i] for i in range(k, len(train)) if train[i - k : i] == context)
    shorter = naive_probability(train, context[1:] if k else None, x, vocab_size)
    n, t = followers.total(), len(followers)
    return (followers[x] + t * shorter) / (n + t) if n else shorter


def naive_losses(train, evaluated, vocab_size):
    text, n = train + evaluated, len(train)
    losses = defaultdict(float)
    for k in NGRAM_ORDERS:
        for i in range(n, len(text)):
            context = text[max(0, i - k) : i]
            losses[k] -= math.log(naive_probability(train, context, text[i], vocab_size))
    return [losses[k] / len(evaluated) for k in NGRAM_ORDERS]


def ids_of(values):
    return np.array(values, np.uint16)


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 30, 5000])
@pytest.mark.parametrize("length, num_evaluated", [(1, 1), (2, 7), (4, 5), (60, 20), (300, 50)])
def test_ngram_losses_equal_the_naive_ones(vocab_size, length, num_evaluated):
    """Texts of few characters repeat long contexts; others need no table of all pairs."""
    rng = np.random.default_rng(length)
    text = (rng.random(length + num_evaluated) ** 3 * vocab_size).astype(int).tolist()
    train, rest = text[:length], text[length:]
    found = ngram_losses(ids_of(train), ids_of(rest), vocab_size)
    assert found == pytest.approx(naive_losses(train, rest, vocab_size), rel=1e-12, abs=0)


@given(st.text("ab", min_size=1, max_size=40), st.text("abc", min_size=1, max_size=4))
def test_ngram_losses_of_any_text_equal_the_naive_ones(train, rest):
    train, rest = ([ord(c) - 97 for c in part] for part in (train, rest))
    found = ngram_losses(ids_of(train), ids_of(rest), 3)
    assert found == pytest.approx(naive_losses(train, rest, 3), rel=1e-12)


def test_ngram_probabilities_sum_to_one():
    """Over all characters, unseen ones included, after seen and unseen contexts."""
    rng, vocab_size = np.random.default_rng(1), 9
    train = rng.integers(0, 6, 400)
    for before in [], [0], [8], [1, 2, 3, 4, 5], [8, 8, 8, 8, 8], [8, 1, 2]:
        sums = np.zeros(len(NGRAM_ORDERS))
        for x in range(vocab_size):
            # The mean over n characters, minus the part of the characters before x.
            whole = np.array(ngram_losses(train, ids_of([*before, x]), vocab_size))
            part = np.array(ngram_losses(train, ids_of(before), vocab_size)) if before else 0
            sums += np.exp(-(whole * (len(before) + 1) - part * len(before)))
        np.testing.assert_allclose(sums, 1, rtol=1e-12)


def test_ngram_loss_of_certain_and_of_unseen_characters():
    """The only character costs nothing, an unseen one has a part of the escape probability."""
    assert ngram_losses(ids_of([0] * 50), ids_of([0] * 9), 1) == [0.0] * 6
    assert math.copysign(1, ngram_losses(ids_of([0, 0]), ids_of([0]), 1)[0]) == 1
    found = ngram_losses(ids_of([0, 1, 0, 1]), ids_of([2]), 4)
    assert found[0] == pytest.approx(-math.log(2 / (4 + 2) / 4))


def test_ngram_losses_are_the_same_without_a_table_of_pairs(monkeypatch):
    text = ids_of(np.random.default_rng(2).integers(0, 5, 4000))
    with_table = ngram_losses(text[:3000], text[3000:], 5)
    monkeypatch.setattr(np, "cumsum", None)
    with pytest.raises(TypeError):  # the table was used
        ngram_losses(text[:3000], text[3000:], 5)
    monkeypatch.undo()
    monkeypatch.setattr(
        module,
        "_number_pairs",
        lambda c, x, *_: _distinct(c.astype(np.int64) * 5 + x),
    )
    assert ngram_losses(text[:3000], text[3000:], 5) == with_table


def _distinct(pairs):
    distinct, numbers = np.unique(pairs, return_inverse=True)
    return numbers, len(distinct)


def test_the_best_ngram_order_is_returned():
    """Order 0 for independent draws, a higher one for a random walk."""
    rng, vocabulary = np.random.default_rng(3), CharVocabulary("abcde")
    drawn, walked = rng.integers(0, 5, 9000), np.cumsum(rng.integers(0, 2, 9000)) % 5
    for ids, orders, choices in (drawn, {0}, 5), (walked, {1, 2, 3}, 2):
        train, evaluated = split(ids.astype(np.uint8), 0.1)
        losses = ngram_losses(train, evaluated, 5)
        found = baselines(train, evaluated, vocabulary)
        assert found.ngram == min(losses) == losses[found.order] and found.order in orders
        assert found.ngram == pytest.approx(math.log(choices), rel=0.02)
        assert (found.eval_chars, found.train_chars, found.truncated) == (900, 8100, False)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_xz_loss_is_the_size_of_xz_files(as_bytes):
    """Except for the container: some bytes, padded to multiples of four."""
    lzma = pytest.importorskip("lzma")
    rng = np.random.default_rng(4)
    words = ["Grüße ", "aus ", "東京, ", "ça va? ", "und ", "fort\n"]
    text = "".join(rng.choice(words, 4000).tolist())
    vocabulary = ByteVocabulary() if as_bytes else CharVocabulary("".join(sorted(set(text))))
    train, evaluated = split(vocabulary.encode(text), 0.25)
    found = baselines(train, evaluated, vocabulary)
    as_files = bytes if as_bytes else lambda ids: vocabulary.decode(ids).encode()
    sizes = [
        len(lzma.compress(part, preset=9))
        for part in (as_files(train), as_files(train) + as_files(evaluated))
    ]
    size = found.xz / math.log(2) / 8 * len(evaluated)
    assert size == pytest.approx(sizes[1] - sizes[0], abs=8) and size > 500


def test_large_texts_are_truncated_at_the_ends_that_do_not_meet(monkeypatch):
    monkeypatch.setattr(module, "NGRAM_CHARS", 1000)
    monkeypatch.setattr(module, "XZ_BYTES", 500)
    monkeypatch.setattr(module, "EVAL_CHARS", 300)
    vocabulary = CharVocabulary("abcdé")
    ids = np.random.default_rng(5).integers(0, 5, 3000).astype(np.uint8)
    whole = baselines(ids[:2000], ids[2000:], vocabulary)
    assert whole.truncated and (whole.train_chars, whole.eval_chars) == (1000, 300)
    part = baselines(ids[1000:2000], ids[2000:2300], vocabulary)
    assert not part.truncated and (part.ngram, part.xz) == (whole.ngram, whole.xz)
    assert baselines(ids[1001:2000], ids[2000:2300], vocabulary).ngram != whole.ngram


@pytest.mark.parametrize("length", [0, 1, MIN_EVAL_CHARS - 1])
def test_short_evaluated_texts_have_no_baselines(length):
    ids = np.zeros(1000, np.uint8)
    assert baselines(ids, ids[:length], CharVocabulary("ab")) is None
    assert baselines(ids, ids[:MIN_EVAL_CHARS], CharVocabulary("ab")) is not None


# --- Baselines on the command line


def test_python_without_lzma_has_no_xz(monkeypatch, invoke, corpus_file, model_file, tmp_path):
    monkeypatch.setattr(module, "lzma", None)
    trained = invoke("train", corpus_file, "-o", tmp_path / "m.safetensors", *SMALL, "--steps", 1)
    command = ["eval", corpus_file, "-m", model_file, "--corpus", corpus_file]
    table, as_json = invoke(*command), invoke(*command, "--json")
    assert trained.exit_code == table.exit_code == as_json.exit_code == 0
    assert "n-gram" in trained.stderr and not numbers(trained.stderr, "xz")
    assert "n-gram" in table.stdout and "xz" not in table.stdout
    values = json.loads(as_json.stdout)
    assert "ngram_nats_per_character" in values and "xz_nats_per_character" not in values


SMALL = ["--hidden-size", 8, "--num-layers", 1, "--batch-size", 4]


def numbers(stderr, name):
    """The nats and the rest of each line labelled `name`."""
    found = re.findall(rf"^{name} +(\S+) nats \(\S+ bits\) per character(.*)$", stderr, re.M)
    return [(float(nats), rest) for nats, rest in found]


def test_train_shows_baselines_before_and_after_and_when_resumed(
    invoke, corpus_file, text, tmp_path
):
    vocabulary = CharVocabulary("".join(sorted(set(text))))
    ids = vocabulary.encode(text)
    expected = baselines(*split(ids, 0.1), vocabulary)
    run = ["train", corpus_file, "-o", tmp_path / "m.safetensors"]
    first = invoke(*run, *SMALL, "--steps", 3)
    again = invoke(*run, "--resume")
    assert first.exit_code == again.exit_code == 0 and len(text) // 10 >= MIN_EVAL_CHARS
    for name, nats in ("n-gram", expected.ngram), ("xz", expected.xz):
        before, after = numbers(first.stderr, name)
        assert before[0] == after[0] == pytest.approx(nats, abs=1e-4)
        assert numbers(again.stderr, name) == [before]
    assert f"with {expected.order} characters of context" in first.stderr
    labels = [line[:6].strip() for line in first.stderr.splitlines()]
    assert labels.index("files") < labels.index("n-gram") < labels.index("best")


@pytest.mark.parametrize("more", [["-q"], ["--val-fraction", 0], ["--val-fraction", 0.02]])
def test_train_shows_no_baselines_if_quiet_or_without_enough_validation_text(
    invoke, corpus_file, tmp_path, more
):
    result = invoke("train", corpus_file, "-o", tmp_path / "m", *SMALL, "--steps", 2, *more)
    assert result.exit_code == 0 and "n-gram  " not in result.stderr and "xz" not in result.stderr


def test_a_resumed_run_has_the_same_validation_text(invoke, corpus_file, tmp_path):
    run = ["train", corpus_file, "-o", tmp_path / "m"]
    first = invoke(*run, *SMALL, "--steps", 2, "--val-fraction", 0.4)
    again = invoke(*run, "--resume")
    for name in "n-gram", "xz":
        assert numbers(first.stderr, name)[0] == numbers(again.stderr, name)[0]


def test_eval_with_a_training_text_shows_baselines(invoke, model_file, text, tmp_path):
    other, train = tmp_path / "other.txt", tmp_path / "train.txt"
    other.write_text(text[-700:], newline="")
    train.write_text(text[:-700], newline="")
    run = ["eval", "-m", model_file, other]
    plain = json.loads(invoke(*run, "--json").stdout)
    values = json.loads(invoke(*run, "--json", "--corpus", train).stdout)
    vocabulary = CharVocabulary("".join(sorted(set(text))))
    expected = baselines(vocabulary.encode(text[:-700]), vocabulary.encode(text[-700:]), vocabulary)
    for name in "ngram", "xz":
        nats = values.pop(f"{name}_nats_per_character")
        assert nats == getattr(expected, name)
        assert values.pop(f"{name}_bits_per_character") == pytest.approx(nats / math.log(2))
    assert values == plain
    table = invoke(*run, "--corpus", train)
    assert f"n-gram, context {expected.order}   {expected.ngram:.4f} nats" in table.stdout


def test_eval_joins_training_texts_and_refuses_missing_ones(invoke, model_file, text, tmp_path):
    cut = text.index("\n", 2000) + 1
    parts = [text[:cut], text[cut:-700], text[-700:], text[:100]]
    files = [tmp_path / name for name in "abcd"]
    for file, part in zip(files, parts, strict=True):
        file.write_text(part, newline="")
    (tmp_path / "ab").write_text(text[:-700], newline="")
    run = ["eval", "-m", model_file, files[2], "--json"]
    joined = invoke(*run, "--corpus", files[0], "--corpus", files[1])
    assert joined.stdout == invoke(*run, "--corpus", tmp_path / "ab").stdout != ""
    assert invoke(*run, "--corpus", tmp_path / "missing").exit_code == 1
    short = invoke("eval", "-m", model_file, files[3], "--corpus", files[0])
    assert short.exit_code == 0 and "xz" not in short.stdout and "fewer than" in short.stderr


def test_eval_in_windows_equals_windowed_loss(invoke, model_file, corpus_file, text):
    from charrnn.evaluation.loss import windowed_loss

    run = ["eval", "-m", model_file, corpus_file, "--window", 30]
    values = json.loads(invoke(*run, "--json").stdout)
    model = charrnn.load(model_file)
    expected = windowed_loss(model.model, model.vocabulary.encode(text), 30)
    assert values["window_nats_per_character"] == expected != values["nats_per_character"]
    assert f"in windows of 30    {expected:.4f} nats" in invoke(*run).stdout
    assert invoke(*run[:-1], 0).exit_code == 2
    assert invoke(*run[:-1], len(text)).exit_code == 1
