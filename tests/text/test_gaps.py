"""Marks of gaps in a text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.errors import UsageError
from charrnn.text.gaps import LONGEST, Gap, parse_marks, parse_mask

FREE = Gap(1, 20)


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("", []),
        ("no gap [!]", ["no gap [!]"]),
        ("a[?]b", ["a", FREE, "b"]),
        ("[?5]b", [Gap(5, 5), "b"]),
        ("a[?12]", ["a", Gap(12, 12)]),
        ("[?]", [FREE]),
        ("[?3][?]", [Gap(4, 23)]),
        ("[?3][?4]", [Gap(7, 7)]),
        (r"a\[?]b[?]", ["a[?]b", FREE]),
        (r"\[?5]", ["[?5]"]),
        (r"\\[?]", ["\\[?]"]),  # a backslash stays unless it stands before a mark
        ("[?x][?", ["[?x][?"]),
        ("a\r\n[?]\r\n", ["a\r\n", FREE, "\r\n"]),
    ],
)
def test_marks_are_gaps(text, pieces):
    assert parse_marks(text) == pieces


@pytest.mark.parametrize(
    "mark, text, pieces",
    [
        ("___", "a___b__4_c", ["a", FREE, "b", Gap(4, 4), "c"]),
        ("*", "a*b9*", ["a", FREE, "b9", FREE]),
        ("<.+>", "<.+> <x> <.+7>", [FREE, " <x> ", Gap(7, 7)]),
    ],
)
def test_marks_of_another_kind(mark, text, pieces):
    assert parse_marks(text, mark) == pieces


def test_the_maximum_length_is_that_of_marks_without_a_number():
    assert parse_marks("[?][?2]", max_length=3) == [Gap(3, 5)]
    assert parse_marks("[?]", max_length=1) == [Gap(1, 1)]


@pytest.mark.parametrize("mark", ["", "x9", "a\\b", "\\"])
def test_impossible_marks_are_refused(mark):
    with pytest.raises(UsageError, match="cannot mark a gap"):
        parse_marks("text", mark)


@pytest.mark.parametrize("text", ["[?0]", f"[?{LONGEST + 1}]", "[?" + "9" * 5000 + "]"])
def test_impossible_lengths_are_refused(text):
    with pytest.raises(UsageError, match="impossible length"):
        parse_marks(text)
    with pytest.raises(UsageError, match="max length"):
        parse_marks("[?]", max_length=LONGEST + 1)


def test_each_sign_of_a_mask_is_a_character():
    assert parse_mask("th_ c__t_", "_") == ["th", Gap(1, 1), " c", Gap(2, 2), "t", Gap(1, 1)]
    assert parse_mask("[?].", ".") == ["[?]", Gap(1, 1)]
    assert parse_mask("", "_") == []
    for sign in "", "__":
        with pytest.raises(UsageError, match="one character"):
            parse_mask("a", sign)
    with pytest.raises(UsageError, match="impossible length"):
        parse_mask("_" * (LONGEST + 1), "_")


@given(st.text("ab[?]\\1"), st.sampled_from(["[?]", "?", "[?"]))
def test_nothing_of_a_text_is_lost(text, mark):
    """With the gaps marked again, the pieces are the text without the escapes."""
    try:
        pieces = parse_marks(text, mark)
    except UsageError:
        return
    assert all(pieces) and not any(
        type(a) is type(b) for a, b in zip(pieces, pieces[1:], strict=False)
    )
    digits = "[0-9]*" if len(mark) > 1 else ""
    pattern = rf"(\\?){re.escape(mark[:-1])}{digits}{re.escape(mark[-1])}"
    rest = re.sub(pattern, lambda m: m[0][1:] if m[1] else "", text)
    assert "".join(p for p in pieces if isinstance(p, str)) == rest
