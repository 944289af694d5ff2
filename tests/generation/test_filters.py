"""Conditions on texts: sets of texts, files of texts, and the counts of what is rejected."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.errors import CharRNNError, UsageError
from charrnn.generation import filters
from charrnn.generation.filters import KnownTexts, TextFilter, TextSet, read_known_texts
from charrnn.text.vocabulary import ByteVocabulary, CharVocabulary


@given(st.lists(st.binary(max_size=2)), st.lists(st.binary(max_size=2)))
def test_a_set_of_texts_is_a_set(added, asked):
    texts, expected = TextSet(), set()
    for text in added:
        assert texts.add(text) == (text not in expected)
        expected.add(text)
        assert len(texts) == len(expected)
    assert all((text in texts) == (text in expected) for text in added + asked)
    assert all((text in TextSet(added)) == (text in expected) for text in asked)


def test_a_set_of_texts_takes_at_most_32_bytes_each():
    texts = TextSet(b"%d" % i for i in range(3000))
    assert 8 * len(texts._table) <= 32 * len(texts) == 32 * 3000
    assert all(b"%d" % i in texts for i in range(3000)) and b"3000" not in texts


def test_texts_with_one_place_in_the_table_are_told_apart(monkeypatch):
    monkeypatch.setattr(filters, "_hash", lambda text: int(text) << 40 | 7)
    texts = TextSet(b"%d" % i for i in range(1, 40))
    assert [i for i in range(1, 80) if b"%d" % i in texts] == list(range(1, 40))


@pytest.mark.parametrize(
    "data, known, unknown",
    [
        (b"anna\nbo\n", [b"anna", b"bo\n", b"bo\r\n", b"anna\nbo", b"nna\nb"], [b"ann", b"o", b""]),
        (b"anna\r\nbo", [b"anna", b"anna\r\n", b"bo", b"anna\nbo\n"], [b"bo\nanna", b""]),
        (b"", [], [b"", b"\n", b"a"]),
        (b"\na", [b"", b"\n", b"a"], []),
    ],
)
def test_a_line_is_looked_up_and_several_lines_are_searched(data, known, unknown):
    texts = KnownTexts(data)
    assert all(text in texts for text in known)
    assert not any(text in texts for text in unknown)


def test_a_file_of_texts_is_utf8_or_bytes(tmp_path):
    file = tmp_path / "known"
    file.write_bytes("\ufeffübel\n".encode())
    assert "übel".encode() in read_known_texts(file, CharVocabulary("a"))
    file.write_bytes(b"a\n\xff\n")
    assert b"\xff" in read_known_texts(file, ByteVocabulary())
    with pytest.raises(CharRNNError, match="byte at 2"):
        read_known_texts(file, CharVocabulary("a"))
    for name in "missing", "", "a\x00b":
        with pytest.raises(CharRNNError, match="cannot read"):
            read_known_texts(tmp_path / name, CharVocabulary("a"))


def test_a_filter_equals_plain_conditions():
    rng = random.Random(1)
    texts = ["".join(rng.choices("ab\n", k=rng.randrange(5))) for _ in range(400)]
    wanted = TextFilter(True, KnownTexts(b"ab\nb"), "a$", 2)
    accepted = []
    for text in texts:
        body = text.removesuffix("\n")
        is_known = body in "ab\nb" if "\n" in body else body in ("ab", "b")
        plain = len(text) >= 2 and body.endswith("a") and not is_known and text not in accepted
        assert wanted.accepts(text.encode(), len(text)) == plain, text
        if plain:
            accepted.append(text)
    assert len(accepted) > 5 and wanted.rejected.total() == 400 - len(accepted)
    assert set(wanted.rejected) == {"too short", "without a match", "repeated"}


def test_a_text_that_was_rejected_is_not_taken_for_written():
    wanted = TextFilter(unique=True, min_length=2)
    assert not wanted.accepts(b"ab", 1)
    assert wanted.accepts(b"ab", 2) and not wanted.accepts(b"ab", 2)


def test_too_many_rejected_texts_in_a_row_are_an_error(monkeypatch):
    monkeypatch.setattr(filters, "MAX_REJECTED", 3)
    wanted = TextFilter(match="a")
    for text in b"b", b"b", b"a", b"b", b"b":
        wanted.accepts(text, 1)
    with pytest.raises(CharRNNError, match=r"3 texts in a row .* \(5 without a match in all\)"):
        wanted.accepts(b"b", 1)


@pytest.mark.parametrize("match", ["(", "[", "a{2,1}", "(?P<a", "\\", "*", "(" * 10**4, "a{9" * 9])
@pytest.mark.filterwarnings("error")
def test_a_wrong_expression_is_one_sentence(match):
    if match == "a{9" * 9:  # is a text like any other
        assert TextFilter(match=match).accepts(match.encode(), 1)
        return
    with pytest.raises(UsageError, match="regular expression") as failed:
        TextFilter(match=match)
    assert "\n" not in str(failed.value) and len(str(failed.value)) < 250


@pytest.mark.filterwarnings("error")
def test_an_expression_that_python_warns_about_is_no_failure():
    assert TextFilter(match="[[a]").accepts(b"[", 1)
