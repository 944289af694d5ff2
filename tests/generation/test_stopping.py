"""Where a text ends, against a look at each of its beginnings."""

from hypothesis import example, given
from hypothesis import strategies as st

from charrnn.generation.stopping import StopMatcher, StoppingCriteria

CHARACTERS = "ab\n"
PIECES = st.lists(st.text(CHARACTERS, max_size=4), max_size=12)
ENDINGS = st.builds(
    StoppingCriteria,
    st.none() | st.integers(0, 20),
    st.none() | st.integers(1, 4),
    st.lists(st.text(CHARACTERS, min_size=1, max_size=4), max_size=3).map(tuple),
)


def cut(text, ending):
    """The text, and whether it has ended, by looking at it a character longer each time."""
    if ending.length == 0:
        return "", True
    for n in range(1, len(text) + 1):
        stops = [stop for stop in ending.stops if text[:n].endswith(stop)]
        if stops:
            return text[: n - max(map(len, stops))], True
        if n == ending.length or text[:n].count("\n") == ending.lines:
            return text[:n], True
    return text, False


@given(PIECES, ENDINGS)
@example(["aa", "b"], StoppingCriteria(stops=("aab", "b")))
@example(["ab"], StoppingCriteria(stops=("abb", "b")))
@example(["a\nb"], StoppingCriteria(lines=1, stops=("\n",)))
def test_a_text_ends_where_it_should(pieces, ending):
    cutter, shown, read = StopMatcher(ending), "", ""
    for piece in pieces:
        if cutter.over:
            break
        read += piece
        shown += cutter.feed(piece)
        expected, over = cut(read, ending)
        assert cutter.over == over
        if over:
            assert shown == expected
        else:  # only what may be the beginning of a stop is held back
            held = expected[len(shown) :]
            assert expected.startswith(shown)
            assert not held or any(stop.startswith(held) for stop in ending.stops)


@given(PIECES, ENDINGS)
def test_what_is_left_is_counted(pieces, ending):
    cutter = StopMatcher(ending)
    for piece in pieces:
        cutter.feed(piece)
        if cutter.over:
            return
    total = sum(map(len, pieces))
    assert cutter.left == (None if ending.length is None else ending.length - total)
