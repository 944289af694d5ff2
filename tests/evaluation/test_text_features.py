"""Features of texts, compared with values worked out by hand."""

import pytest
from helpers.html_pages import EVIL

from charrnn.evaluation.text_features import features


def marks(name, text):
    """A feature as a string: a digit per character, or # for true and . for false."""
    found = features(text)[name]
    assert len(found) == len(text)
    if found.dtype == bool:
        return "".join("#" if v else "." for v in found)
    return "".join(map(str, found))


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("inside double quotes", 'a "b c" d "e" f', "..####....##..."),
        ("inside double quotes", '"a\nb" "c\n\nd" e', "####..###..###"),
        ("inside double quotes", "\u201ca \u201cb\u201d \u00abc\u00bb \u201d", "#####..##..."),
        ("inside single quotes", "a 'b c' don't 'it's' x", "..####........#####..."),
        ("inside single quotes", "'tis the dog's x", "................"),
        ("inside single quotes", "'a\nb' \u2018c d\u2019s e\u2019", "......########."),
        ("inside ( )", "a(b(c)d)e)(f", ".######...##"),
        ("inside ( )", "(a\nb\n\nc)", "#####..."),
        ("inside [ ]", "[a](b)[", "##....#"),
        ("inside < >", "<a>b<c\nd>", "##..##..."),
        ("depth of { }", "}{a{\n\n}b}}{", "01122211001"),
        ("position in the line", "abc\n\nde", "1230012"),
        ("line ends within 5", "abcdefgh\nab\n", "...#####.##."),
        ("line ends within 5", "abc", "..."),
        ("indentation", "  a b\n\tc\n \nd  ", "12222011010000"),
        ("lines since an empty one", "a\nb\n\nc\nd\n\n\n", "01120011200"),
        ("position in the word", "ab1-c \u00e9t", "12301012"),
        ("letter", "aB1 \u6771_", "##..#."),
        ("upper case", "aB\u00c9\u6771", ".##."),
        ("word in capitals", "A AB c\nDE", "..##...##"),
        ("digit", "a1\u0663", ".##"),
        ("space", "a \t\n\u3000", ".##.#"),
        ("newline", "a\n\n", ".##"),
        ("punctuation", "a.+\u3002 ", ".###."),
        ("space next", "a b\n ", "#..#."),
        ("newline next", "a\n\nb", "##.."),
        ("upper case next", "aBCd", "##.."),
    ],
)
def test_feature_values(name, text, expected):
    assert marks(name, text) == expected


def test_features_of_odd_texts_have_one_value_per_character():
    names = set(features("a"))
    for text in "\n", "'", '"', "{" * 50, "\udcff\udce6", "\U0001f600", EVIL, "a" * 3:
        found = features(text)
        assert set(found) == names
        assert all(a.shape == (len(text),) for a in found.values())


def test_features_take_linear_time():
    for text in "'a" * 100_000, "(" * 200_000, '"' * 200_000, " '" * 100_000:
        features(text)
