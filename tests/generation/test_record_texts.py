"""Texts of a model of records, compared with the probabilities of all records."""

import itertools
import math
import re
from collections import Counter

import pytest
from helpers.random_models import model_of

import charrnn
from charrnn.api import LanguageModel
from charrnn.errors import CharRNNError, UsageError
from charrnn.evaluation.loss import StreamingScorer
from charrnn.generation import filters
from charrnn.generation.filters import TextFilter, read_known_texts
from charrnn.generation.suggester import Suggester
from charrnn.text.vocabulary import SEPARATOR, UNKNOWN, ByteVocabulary, CharVocabulary


@pytest.fixture(scope="module")
def model(records_model):
    return charrnn.load(records_model, threads=1)


@pytest.fixture(scope="module")
def of_bars():
    """A model of records that end with two bars, and may have bars in them."""
    network, _ = model_of("gru", V=3, scale=0.3, record_end_id=1)
    return LanguageModel(network, CharVocabulary("|" + SEPARATOR + "a", "||"), {})


def records_up_to(length):
    return ["".join(r) for n in range(1, length + 1) for r in itertools.product("ab", repeat=n)]


def log_probability(model, record):
    return -model.loss(record) * (len(record) + 1)


def test_sampled_records_have_their_probabilities(model):
    found = list(model.samples(4000, 3, seed=1))
    probabilities = {r: math.exp(log_probability(model, r)) for r in records_up_to(3)}
    assert {s.text for s in found} == set(probabilities)
    by_record = {s.text: math.exp(s.log_probability) for s in found}
    total = sum(probabilities.values())
    assert sum(by_record.values()) == pytest.approx(total, rel=1e-4)
    counts = Counter(s.text for s in found)
    for record, p in probabilities.items():
        assert by_record[record] == pytest.approx(p, rel=1e-4)
        expected = 4000 * p / total
        assert abs(counts[record] - expected) < 5 * math.sqrt(expected), record


@pytest.mark.parametrize("how", [{}, {"temperature": 0.3}, {"allow": "b"}, {"min_p": 0.5}])
def test_log_probability_is_that_of_the_record_after_its_prime(model, how):
    [sample] = model.answers([["ab"]], seed=3, **how)
    whole = log_probability(model, sample.prime + sample.text)
    ids = model.vocabulary.encode("ab" + sample.text + "\n")
    nats = StreamingScorer(model.model).read(ids)["nats"]
    assert nats.sum() == pytest.approx(-whole, rel=1e-5)
    assert sample.log_probability == pytest.approx(-nats[2:].sum(), rel=1e-4)


def test_records_that_are_cut_are_left_out_and_counted(model, caplog):
    caplog.set_level("INFO", "charrnn")
    plain = list(model.samples(300, None, seed=2))
    found = list(model.samples(100, 2, seed=2))
    short = [s for s in plain if len(s.text) <= 2][:100]
    assert [(s.text, s.log_probability) for s in found] == [
        (s.text, s.log_probability) for s in short
    ]
    indices = {s.index for s in plain}
    between = [i for i in range(found[-1].index) if i in indices]
    assert f"{len(between) + 1 - 100} too long" in caplog.text
    assert any(len(s.text) > 2 for s in plain)


def test_records_above_the_greatest_length_are_left_out(model, caplog):
    caplog.set_level("INFO", "charrnn")
    plain = [s.text for s in model.samples(90, seed=2)]
    limit = sorted(map(len, plain))[45]
    wanted = [text for text in plain if len(text) <= limit]
    found = list(model.samples(len(wanted), seed=2, max_length=limit))
    assert [s.text for s in found] == wanted and all(s.stopped for s in found)
    assert re.search(r"rejected: \d+ too long, \d+ empty", caplog.text)


def test_records_have_no_length_limit_but_one(model):
    texts = [s.text for s in model.samples(300, 1, seed=4)]
    assert set(texts) == {"a", "b"}
    with pytest.raises(UsageError, match="length"):
        model.samples(1, 0)


def test_an_api_text_is_a_whole_record(model):
    assert [len(model.sample(2, seed=i)) in (1, 2) for i in range(9)] == [True] * 9
    assert model.sample(prime="aa", seed=1) == next(model.samples(prime="aa", seed=1)).text
    [[pieces], [more]] = map(list, model.texts(2, 3, seed=5))
    assert [pieces, more] == [s.data for s in model.samples(2, 3, seed=5)]


def test_rejected_records_end_with_an_error(model, monkeypatch):
    monkeypatch.setattr(filters, "MAX_REJECTED", 50)
    with pytest.raises(CharRNNError, match="50 texts in a row were rejected"):
        list(model.samples(1, 3, match="c"))
    with pytest.raises(CharRNNError, match=r"\d+ too long.* in all\); raise --length"):
        list(model.samples(1, 1, prime="a" * 9, forbid="b", unique=True, match="^b"))


def test_the_most_likely_record_that_is_too_long_is_an_error(model):
    likeliest = model.sample(temperature=0)
    assert len(likeliest) > 1
    assert model.sample(len(likeliest), temperature=0) == likeliest
    with pytest.raises(CharRNNError, match=r"1 too long\): raise --length"):
        model.sample(len(likeliest) - 1, temperature=0)


@pytest.mark.parametrize("length, count", [(3, 14), (3, 5), (2, 3), (1, 2), (1, 9)])
def test_beams_are_the_likeliest_records(model, length, count):
    ranked = sorted(records_up_to(length), key=lambda r: -log_probability(model, r))
    found = model.beams(40, count, length)
    assert [text.decode() for text, _ in found] == ranked[:count]
    for text, nats in found:
        assert nats == pytest.approx(log_probability(model, text.decode()), rel=1e-4)


def test_a_beam_continues_a_prime_to_the_end_of_its_record(model):
    ranked = sorted(
        ["ab" + r for r in ["", *records_up_to(2)]], key=lambda r: -log_probability(model, r)
    )
    found = model.beams(40, 3, 2, prime="ab")
    assert ["ab" + text.decode() for text, _ in found] == ranked[:3]


@pytest.mark.parametrize("how", ["stop", "lines", "mid_line", "prime", "forbid"])
@pytest.mark.parametrize("method", ["samples", "beams", "texts"])
def test_options_of_running_text_are_refused(model, how, method):
    value = {"stop": "a", "lines": 1, "mid_line": True, "prime": "ab\n", "forbid": "\n"}[how]
    with pytest.raises(UsageError, match="omit --|already ends the record|no record would end"):
        list(getattr(model, method)(3, 3, **{how: value}))


def test_allow_always_allows_the_end(model):
    assert {s.text for s in model.samples(50, 3, allow="b", seed=1)} == {"b", "bb", "bbb"}
    with pytest.raises(UsageError, match="nothing left"):
        model.samples(1, allow="\n")


def test_no_record_has_its_separator_inside(of_bars, caplog):
    caplog.set_level("INFO", "charrnn")
    texts = [s.text for s in of_bars.samples(200, 9, seed=1)]
    assert any("|" in text for text in texts) and not any("||" in text for text in texts)
    assert "with a separator inside" in caplog.text
    with pytest.raises(UsageError, match="already ends"):
        of_bars.sample(prime="a||")


@pytest.mark.parametrize(
    "data, end, known, unknown",
    [
        (b"ab\r\nb\n\nba", b"\n", [b"ab", b"b", b"ba"], [b"a", b"ab\r", b"ab\nb"]),
        (b"ab||b|||a\n||", b"||", [b"ab", b"b", b"|a\n"], [b"a\n", b"ab||b", b"|"]),
    ],
)
def test_known_records_are_whole_records(tmp_path, data, end, known, unknown):
    (tmp_path / "known").write_bytes(data)
    for vocabulary in CharVocabulary("ab"), ByteVocabulary():
        found = read_known_texts(tmp_path / "known", vocabulary, end)
        assert all(text in found for text in known)
        assert not any(text in found for text in unknown)


def test_a_filter_of_records_names_its_reasons():
    wanted = TextFilter(record_end=b"||")
    texts = [(b"a", True), (b"a", False), (b"", True), (b"a||", True), (b"a|", True)]
    assert [wanted.accepts(t, len(t), stopped) for t, stopped in texts] == [1, 0, 0, 0, 1]
    assert wanted.describe() == "1 too long, 1 empty, 1 with a separator inside"


def completed(suggester):
    while suggester.step():
        pass
    return suggester.suggestion


def test_a_suggestion_ends_with_its_record(model):
    for seed in range(5):
        suggester = Suggester(model.model, model.vocabulary, "aab\nb\na", seed=seed)
        [sample] = model.samples(1, None, prime="a", seed=seed)
        assert completed(suggester) == suggester.line == sample.text + "\n"


def test_after_a_record_the_next_one_is_suggested(model):
    suggester = Suggester(model.model, model.vocabulary, "a", seed=1)
    text, records = "a", []
    for _ in range(4):
        line = completed(suggester)
        assert line.count("\n") == 1 and line.endswith("\n")
        for character in line:  # accepted one by one
            assert suggester.character == character
            text += character
            suggester.update(text)
        records.append(line)
    assert len(set(records)) > 1


def test_no_empty_record_is_suggested(model):
    for seed in range(40):
        assert completed(Suggester(model.model, model.vocabulary, "ab\n", seed=seed)) != "\n"
    network, _ = model_of("gru", V=2, record_end_id=0)
    suggester = Suggester(network, CharVocabulary("\n" + UNKNOWN), length=3)
    assert completed(suggester) == "\n"
