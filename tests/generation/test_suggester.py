"""Suggester, compared with `LanguageModel.sample`."""

import pytest
from helpers.random_models import unwritable_model

import charrnn
from charrnn.generation.suggester import STEPS, Suggester


@pytest.fixture(scope="module")
def model(model_file):
    return charrnn.load(model_file, threads=1)


def suggester_of(model, text="", **how):
    return Suggester(model.model, model.vocabulary, text, **{"length": 30, "seed": 5} | how)


def completed(suggester):
    """The suggestion after all its steps."""
    while suggester.step():
        pass
    return suggester.suggestion


@pytest.mark.parametrize("prime", ["", "M", "MARA: The tide", "TOM: Then wait.\n" * 20])
@pytest.mark.parametrize("temperature", [0, 0.5, 1, 1e-310])
def test_suggestion_equals_the_sampled_text(model, prime, temperature):
    expected = model.sample(30, prime=prime, temperature=temperature, seed=5)
    assert completed(suggester_of(model, prime, temperature=temperature)) == expected


def test_resample_suggests_the_next_text_of_the_seed(model):
    suggester = suggester_of(model, "TOM: ")
    completed(suggester)
    suggester.resample()
    assert completed(suggester) == model.sample(30, prime="TOM: ", seed=5, first=1)


def test_suggestion_stays_while_the_text_grows_into_it(model):
    suggester = suggester_of(model, "TOM: ")
    stream = model.sample(60, prime="TOM: ", seed=5)
    for taken in 0, 1, 2, 20, 30, 10, 0:  # deletions go back
        suggester.update("TOM: " + stream[:taken])
        assert completed(suggester).startswith(stream[taken : taken + 30])
    assert len(completed(suggester_of(model, "TOM: "))) == 30


def test_update_with_another_text_starts_a_new_suggestion(model):
    long = "MARA: The tide is late, and so is he.\n" * 10
    suggester = suggester_of(model, "TOM: ", temperature=0)
    for text in [long, long[:-1] + "T", long[: 3 * STEPS], long[: STEPS + 1], "T", "", "MA", long]:
        suggester.update(text)
        assert completed(suggester) == model.sample(30, prime=text, temperature=0), text


def test_update_reads_only_new_characters(model, monkeypatch):
    suggester = suggester_of(model, "MARA: The tide\n" * 100)
    completed(suggester)
    read = []
    forward = suggester._stack.forward
    monkeypatch.setattr(suggester._stack, "forward", lambda x: (read.append(len(x)), forward(x)))
    suggester.update("MARA: The tide\n" * 100 + "ne")
    suggester.resample()
    completed(suggester)
    assert sum(read) == 2 + 30  # two unread characters before the last, then the suggestion
    for i in range(2 * STEPS):  # must not save a state per key
        suggester.update("MARA: The tide\n" * 100 + "n" * i)
        suggester.step()
    assert len(suggester._states) <= (1500 + 2 * STEPS) // STEPS + 3
    read.clear()
    suggester.update("MARA: The tide\n" * 50)
    completed(suggester)
    assert sum(read) <= STEPS + 30


def test_each_step_reads_at_most_one_chunk(model, monkeypatch):
    suggester = suggester_of(model, "MARA: The tide\n" * 100)
    read = []
    forward = suggester._stack.forward
    monkeypatch.setattr(suggester._stack, "forward", lambda x: (read.append(len(x)), forward(x)))
    while not suggester.suggestion:
        read.clear()
        suggester.step()
        assert sum(read) <= STEPS


def test_suggester_skips_and_lists_unknown_characters(model):
    suggester = suggester_of(model, "TüOM東ü: ")
    assert suggester.unknown == "ü東"
    assert completed(suggester) == model.sample(30, prime="TOM: ", seed=5)
    suggester.update("TOM: The ")
    assert suggester.unknown == ""


def test_character_word_and_line_of_a_suggestion(model, monkeypatch):
    suggester = suggester_of(model)
    cases = {
        " a boat, he\n\nTOM: no": (" ", " a", " a boat, he\n"),
        "\n\nTOM: no": ("\n", "\n\nTOM:", "\n"),
        "re is": ("r", "re", "re is"),
        "": ("", "", ""),
        " \n": (" ", " \n", " \n"),
    }
    for suggestion, parts in cases.items():
        monkeypatch.setattr(suggester, "_drawn", suggestion)
        assert (suggester.character, suggester.word, suggester.line) == parts


def test_byte_model_suggests_complete_characters(bytes_model_file):
    model = charrnn.load(bytes_model_file, threads=1)
    for seed in range(5):
        suggester = suggester_of(model, "Grüße aus 東", length=40, seed=seed)
        suggestion = completed(suggester)
        ids = model.vocabulary.encode(suggestion)
        data = b"".join(next(model.texts(1, len(ids) + 4, prime="Grüße aus 東", seed=seed)))
        assert data.startswith(suggestion.encode("utf-8", "surrogateescape"))
        assert 40 <= len(suggestion) <= 42  # bytes that are not UTF-8 become known together


@pytest.mark.parametrize("temperature", [0, 1])
def test_the_unknown_symbol_is_never_suggested(temperature):
    model = unwritable_model()
    suggester = suggester_of(model, "aéb", temperature=temperature)
    expected = model.sample(30, prime="aéb", temperature=temperature, seed=5)
    assert completed(suggester) == expected
    assert suggester.unknown == ""
