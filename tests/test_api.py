"""charrnn from Python: texts, losses, training, and the errors of each."""

import itertools
import sys
import tracemalloc

import numpy as np
import pytest
from helpers.random_models import unwritable_model

import charrnn
from charrnn import api
from charrnn.config import ModelConfig
from charrnn.errors import CharRNNError, UsageError
from charrnn.evaluation import loss as evaluate
from charrnn.generation import batch as writing
from charrnn.generation.sampler import SamplingOptions, generate
from charrnn.text.vocabulary import UnknownCharacters
from charrnn.training.start import prepare_run


@pytest.fixture(scope="module")
def model(model_file):
    return charrnn.load(model_file)


def test_importing_modules_does_not_hide_the_functions_of_the_package():
    assert charrnn.train is api.train and charrnn.load is api.load
    assert charrnn.LanguageModel is api.LanguageModel
    assert callable(prepare_run)
    assert set(charrnn.__all__) <= set(dir(charrnn))
    with pytest.raises(AttributeError, match="nonsense"):
        charrnn.nonsense  # noqa: B018


def test_a_loaded_model_has_its_config_vocabulary_and_training(model, text):
    assert model.config.hidden_size == 16
    assert model.vocabulary.characters == "".join(sorted(set(text)))
    assert model.training["total_steps"] == 30


def naive_text(model, length, prime, seed, index=0, **how):
    """One character after the other, by the iterator of ids."""
    prime = model.vocabulary.encode(prime)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    ids = generate(model.model, prime, rng, SamplingOptions(**how))
    return model.vocabulary.decode(list(itertools.islice(ids, length)))


@pytest.mark.parametrize("how", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.7}])
def test_sample_draws_what_the_model_draws(model, how):
    for index in 0, 3:
        expected = naive_text(model, 40, "TOM: ", 4, index, **how)
        assert model.sample(40, prime="TOM: ", seed=4, first=index, **how) == expected


def test_without_a_prime_a_text_starts_like_a_line(model):
    assert model.sample(40, seed=1) == naive_text(model, 40, "", 1)


def test_stream_yields_the_text_of_sample_in_pieces(model):
    pieces = list(model.stream(200, seed=2))
    assert "".join(pieces) == model.sample(200, seed=2)
    assert len(pieces) > 1


def test_stream_generates_only_what_is_read(model):
    for length in 10**9, None:
        stream = model.stream(length, seed=2)
        begun = "".join(itertools.islice(stream, 5))
        assert begun == model.sample(len(begun), seed=2) and len(begun) < 1000


ENDINGS = [
    {"length": 20},
    {"length": 40, "stop": ["\n", "a"]},
    {"length": None, "lines": 1},
    {"length": 30, "lines": 2, "stop": "e"},
    {"length": 0},
]


@pytest.mark.parametrize("ending", ENDINGS, ids=str)
@pytest.mark.parametrize("count, rows", [(1, 8), (3, 8), (40, 8), (9, 1)])
def test_texts_generated_in_a_batch_equal_texts_generated_alone(
    model, monkeypatch, count, rows, ending
):
    monkeypatch.setattr(writing, "ROWS", rows)
    how = ending | {"temperature": 1.5, "min_p": 0.02}
    together = [b"".join(pieces).decode() for pieces in model.texts(count, seed=7, **how)]
    assert together == [model.sample(seed=7, first=i, **how) for i in range(count)]


def test_texts_do_not_depend_on_the_number_of_threads(model_file):
    one, two = (charrnn.load(model_file, threads) for threads in (1, 2))
    how = {"count": writing.ROWS + 30, "length": 50, "seed": 3}
    texts = [[b"".join(pieces) for pieces in m.texts(**how)] for m in (one, two)]
    assert texts[0] == texts[1] and len(set(texts[0])) == writing.ROWS + 30


@pytest.mark.parametrize("kept", [1, 50, 300])
def test_texts_too_long_to_be_kept_are_written_again(model, monkeypatch, kept):
    monkeypatch.setattr(writing, "MAX_BUFFERED_UNBOUNDED", kept)
    how = {"length": None, "lines": 8, "seed": 2}
    together = [b"".join(pieces).decode() for pieces in model.texts(20, **how)]
    assert together == [model.sample(**how | {"first": i}) for i in range(20)]


def test_an_unending_text_needs_no_memory_beside_other_texts(model, monkeypatch):
    in_memory = writing.MAX_BUFFERED_UNBOUNDED / writing.STEPS * sys.getsizeof("x" * writing.STEPS)
    assert in_memory < 2**21
    monkeypatch.setattr(writing, "MAX_BUFFERED_UNBOUNDED", 1000)
    for how in ({}, {"stop": "never\n\n\n"}, {"lines": 10**9}):
        first = next(model.texts(5, None, seed=1, **how))
        for _ in range(100):
            next(first)
        tracemalloc.start()
        for _ in range(300):
            next(first)
        assert tracemalloc.get_traced_memory()[0] < 10_000, how  # 300 pieces take 20 KB
        tracemalloc.stop()


def test_beam_search_finds_a_likelier_text_than_greedy_sampling(model):
    greedy = model.sample(30, temperature=0, prime="TOM", forbid="e")
    text, nats = model.beam(1, 30, prime="TOM", forbid="e")
    assert text.decode() == greedy
    better, more = model.beam(20, 30, prime="TOM", forbid="e")
    assert more >= nats and b"e" not in better
    whole = model.beam(5, 60)[0].decode()
    line = model.beam(5, 60, lines=1)[0].decode()
    assert len(whole) == 60 and line.count("\n") == line.endswith("\n")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"allow": "Té"}, "é"),
        ({"allow": ""}, "nothing left"),
        ({"allow": "at", "forbid": "tab"}, "nothing left"),
        ({"length": None, "lines": 2, "forbid": "\n"}, "newline"),
    ],
)
def test_options_that_allow_no_text_are_refused(model, options, message):
    for call in model.sample, lambda **how: model.beam(2, **how):
        with pytest.raises(UsageError, match=message):
            call(**options)


def test_allow_and_forbid_restrict_the_characters(model, bytes_model_file):
    assert set(model.sample(300, allow="TOM:", forbid="Oé", seed=1)) == set("TM:")
    of_bytes = charrnn.load(bytes_model_file)
    assert set(of_bytes.sample(300, allow="üa", seed=1)) <= set("üa\ufffd")


def test_sample_of_a_bytes_model_replaces_invalid_utf_8(bytes_model_file):
    model = charrnn.load(bytes_model_file)
    [pieces] = model.texts(1, 500, seed=3)
    assert model.sample(500, seed=3) == b"".join(pieces).decode("utf-8", "replace")


def test_a_text_of_a_bytes_model_has_every_byte(bytes_model_file):
    """Also a last byte that might begin a UTF-8 character."""
    model = charrnn.load(bytes_model_file)
    odd = {"allow": "a\n\udce9\udcc3", "temperature": 9}
    texts = [b"".join(t) for t in model.texts(40, 40, seed=0, **odd)]
    assert {len(t) for t in texts} == {40} and {t[-1:] for t in texts} >= {b"\xe9", b"\xc3"}
    for i, text in enumerate(texts[:20]):
        how = odd | {"seed": 0, "first": i}
        escaped = model.sample(40, errors="surrogateescape", **how)
        assert escaped.encode("utf-8", "surrogateescape") == text
        line = next(model.texts(1, 40, stop="\n", **how))
        assert b"".join(line) == text.partition(b"\n")[0]
        line = next(model.texts(1, 40, lines=1, **how))
        assert b"".join(line) == b"".join(text.partition(b"\n")[:2])
    assert model.beam(3, 20, allow="\udce9")[0] == b"\xe9" * 20


@pytest.mark.parametrize(
    "options",
    [
        {"length": -1},
        {"length": 1.5},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 2},
        {"top_k": -1},
        {"stop": ""},
        {"stop": ["a", ""]},
        {"lines": 0},
        {"min_p": 1.5},
        {"repetition_penalty": 0},
        {"seed": -1},
        {"seed": 1.5},
        {"first": -1},
    ],
    ids=str,
)
def test_stream_refuses_impossible_values_when_called(model, options):
    with pytest.raises(UsageError, match=next(iter(options)).replace("_", " ")):
        model.stream(**options)


def test_a_prime_with_unknown_characters_is_refused(model):
    with pytest.raises(UnknownCharacters, match="ü") as caught:
        model.sample(prime="Tür")
    assert caught.value.characters == "ü"


def test_loss_is_the_mean_loss_of_the_text(model, text):
    ids = model.vocabulary.encode(text[:500])
    assert model.loss(text[:500]) == evaluate.mean_loss(model.model, ids)
    assert 0 < model.loss(text[:500]) < model.loss(text[500:0:-1])
    assert model.loss("T") == pytest.approx(-model.beam(1, 1, allow="T")[1], rel=1e-5)
    with pytest.raises(CharRNNError, match="short"):
        model.loss("")


def test_train_returns_the_best_model_and_reports_each_step(corpus_file, tmp_path):
    reports = []
    model = charrnn.train(
        str(corpus_file), tmp_path / "m", on_report=reports.append, steps=5, hidden_size=8
    )
    assert [report.step for report in reports] == [1, 2, 3, 4, 5]
    assert model.sample(20, seed=1) == charrnn.load(tmp_path / "m").sample(20, seed=1)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"hiden_size": 8}, "hiden_size"),
        ({"vocab_size": 8}, "vocab_size"),
        ({"hidden_size": 0}, "hidden size"),
        ({"learning_rate": float("nan")}, "learning rate"),
        ({"epochs": 2, "steps": 9}, "give one of"),
        ({"time": 60, "steps": 9}, "give one of"),
        ({"time": 60, "epochs": 0.5, "steps": None}, "give one of"),
    ],
)
def test_train_refuses_wrong_settings_before_reading_the_text(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        charrnn.train(tmp_path / "missing", tmp_path / "m", **settings)
    assert list(tmp_path.iterdir()) == []


def test_train_resumes_an_interrupted_run(corpus_file, tmp_path):
    def interrupt(report):
        if report.step == 3:
            raise KeyboardInterrupt

    options = {"steps": 6, "hidden_size": 8}
    with pytest.raises(KeyboardInterrupt):
        charrnn.train(corpus_file, tmp_path / "m", on_report=interrupt, **options)
    resumed = charrnn.train(corpus_file, tmp_path / "m", resume=True)
    whole = charrnn.train(corpus_file, tmp_path / "whole", **options)
    assert resumed.sample(50, seed=1) == whole.sample(50, seed=1)


def test_settings_of_none_are_chosen_by_train(corpus_file, tmp_path):
    how = {"steps": 2, "hidden_size": None, "batch_size": None, "time": None}
    model = charrnn.train(corpus_file, tmp_path / "m", **how)
    assert model.config.hidden_size == ModelConfig.hidden_size


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 64},  # as asked: the text is too short for it
        {"batch_size": 14},  # as chosen
        {"steps": 2},
        {"val_chars": 500_000, "learning_rate": 0.01, "cell": "lstm", "dropout": 0.0},
    ],
    ids=str,
)
def test_resume_accepts_settings_as_asked_and_as_chosen(corpus_file, tmp_path, settings):
    how = {"batch_size": 64, "seq_length": 64, "hidden_size": 8, "steps": 2}
    model = charrnn.train(corpus_file, tmp_path / "m", **how)
    assert model.training["options"]["batch_size"] == 14
    charrnn.train(corpus_file, tmp_path / "m", resume=True, **settings)


@pytest.mark.parametrize("limit", [{"epochs": 0.5}, {"time": 0.5}])
def test_resume_accepts_the_limit_that_the_run_was_started_with(corpus_file, tmp_path, limit):
    model = charrnn.train(corpus_file, tmp_path / "m", hidden_size=8, batch_size=4, **limit)
    steps = model.training["options"]["steps"]
    for same in limit, {"steps": steps}:
        again = charrnn.train(corpus_file, tmp_path / "m", resume=True, **same)
        assert again.training == model.training


# --- The unknown symbol


@pytest.fixture(scope="module")
def unwritable():
    return unwritable_model()


@pytest.mark.parametrize("how", [{}, {"temperature": 0}, {"allow": "ab"}, {"top_k": 1}])
def test_the_unknown_symbol_is_never_written(unwritable, how):
    for prime in "", "aé":
        text = unwritable.sample(100, prime=prime, seed=1, **how)
        assert len(text) == 100 and set(text) <= set(how.get("allow", "\n ab"))
    beam = unwritable.beam(3, 20)[0].decode()
    assert len(beam) == 20 and set(beam) <= set("\n ab")
    assert len(set(unwritable.sample(100, seed=1))) > 1


def test_a_prime_is_read_with_the_unknown_symbol(unwritable):
    texts = [unwritable.sample(30, prime=prime, seed=1) for prime in ("aéa", "a日a", "aba")]
    assert texts[0] == texts[1] != texts[2]


def test_characters_behind_the_unknown_symbol_cannot_be_allowed(unwritable):
    with pytest.raises(UsageError, match=r"cannot write 'é' \(U\+00E9\): leave it out"):
        unwritable.sample(allow="aé")
    text = unwritable.sample(50, forbid="aé", seed=1)
    assert set(text) <= set("\n b")


def test_the_loss_of_a_text_counts_unknown_characters(unwritable):
    assert unwritable.loss("aéb") == unwritable.loss("a日b") != unwritable.loss("aab")


def test_a_run_with_rare_characters_is_resumed_exactly(tmp_path, corpus_file):
    corpus = tmp_path / "corpus.txt"
    corpus.write_bytes(corpus_file.read_bytes() + "é\xff日".encode() + b"\xfe\n")
    how = {"steps": 4, "hidden_size": 4, "num_layers": 1, "min_count": 3, "errors": "replace"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    model = charrnn.train(corpus, whole, **how)
    assert model.vocabulary.unknown("é日🙂") == "" and "\ufffd" not in model.vocabulary.characters
    run = prepare_run([corpus], parts, how).start()
    for report in run:
        assert "\ufffd" not in run.sample(50)
        if report.step == 2:
            run.stop()
    with pytest.raises(UsageError, match="the run was started with min count 3, not 2"):
        charrnn.train(corpus, parts, resume=True, min_count=2)
    charrnn.train(corpus, parts, resume=True)
    assert parts.read_bytes() == whole.read_bytes()


def test_a_model_of_bytes_has_no_rare_characters(tmp_path, corpus_file):
    with pytest.raises(UsageError, match="give --bytes or --min-count, not both"):
        charrnn.train(corpus_file, tmp_path / "m", steps=1, as_bytes=True, min_count=2)
    assert list(tmp_path.iterdir()) == []
