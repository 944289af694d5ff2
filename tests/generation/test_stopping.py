"""Stopping criteria, compared with a check of every beginning of the text."""

from hypothesis import example, given
from hypothesis import strategies as st

from charrnn.generation.stopping import StopMatcher, StoppingCriteria

CHARACTERS = "ab\n"
PIECES = st.lists(st.text(CHARACTERS, max_size=4), max_size=12)
CRITERIA = st.builds(
    StoppingCriteria,
    st.none() | st.integers(0, 20),
    st.none() | st.integers(1, 4),
    st.lists(st.text(CHARACTERS, min_size=1, max_size=4), max_size=3).map(tuple),
)


def naive_cut(text, criteria):
    """The text up to its end, and whether it has ended, found one character at a time."""
    if criteria.length == 0:
        return "", True
    for n in range(1, len(text) + 1):
        stops = [stop for stop in criteria.stops if text[:n].endswith(stop)]
        if stops:
            return text[: n - max(map(len, stops))], True
        if n == criteria.length or text[:n].count("\n") == criteria.lines:
            return text[:n], True
    return text, False


@given(PIECES, CRITERIA)
@example(["aa", "b"], StoppingCriteria(stops=("aab", "b")))
@example(["ab"], StoppingCriteria(stops=("abb", "b")))
@example(["a\nb"], StoppingCriteria(lines=1, stops=("\n",)))
def test_stop_matcher_equals_the_naive_cut(pieces, criteria):
    matcher, text, fed = StopMatcher(criteria), "", ""
    for piece in pieces:
        if matcher.finished:
            break
        fed += piece
        text += matcher.feed(piece)
        expected, finished = naive_cut(fed, criteria)
        assert matcher.finished == finished
        if finished:
            assert text == expected
        else:  # only a possible beginning of a stop is held back
            pending = expected[len(text) :]
            assert expected.startswith(text)
            assert not pending or any(stop.startswith(pending) for stop in criteria.stops)


@given(PIECES, CRITERIA)
def test_stop_matcher_counts_the_remaining_characters(pieces, criteria):
    matcher = StopMatcher(criteria)
    for piece in pieces:
        matcher.feed(piece)
        if matcher.finished:
            return
    total = sum(map(len, pieces))
    assert matcher.remaining == (None if criteria.length is None else criteria.length - total)
