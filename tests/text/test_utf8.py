"""Which bytes may follow in UTF-8, against Python's decoder."""

import pytest

from charrnn.text.utf8 import begun_character, is_utf8, next_bytes

SOME = "a\x7f\x80é߿ࠀ東퟿\ue000￿𐀀🙂\U0010ffff"  # the ends of all ranges


CODE_POINTS = [*range(0x1000), *range(0x1000, 0x110000, 64)]
CHARACTERS = [chr(c).encode() for c in CODE_POINTS if not 0xD800 <= c < 0xE000]


def following(begun, room):
    """The bytes after `begun`, after which at most `room` more make a character whole."""
    whole = [c for c in CHARACTERS if len(begun) < len(c) <= len(begun) + 1 + room]
    return {c[len(begun)] for c in whole if c.startswith(begun)}


@pytest.mark.parametrize("begun", [b"", b"\xe0", b"\xed", b"\xf0", b"\xf4", b"\xc3", b"\xf1\x80"])
def test_next_bytes_are_those_of_characters(begun):
    for room in (0, 2) if begun else (0, 3):
        assert set(next_bytes(begun, room).nonzero()[0]) == following(begun, room)


def test_next_bytes_leave_room_for_the_whole_character():
    assert next_bytes(b"", 0).sum() == 128
    assert not next_bytes(b"", 1)[0xE3] and next_bytes(b"", 2)[0xE3]
    assert not next_bytes(b"\xe3", 0).any() and next_bytes(b"\xe3\x81", 0)[0x82]


@pytest.mark.parametrize("character", SOME)
def test_a_begun_character_is_at_the_end(character):
    data = character.encode()
    for text in b"", b"ab", "é".encode():
        assert begun_character(text + data) == b""
        for count in range(1, len(data)):
            assert begun_character(text + data[:count]) == data[:count]
            assert not is_utf8(text + data[:count])
