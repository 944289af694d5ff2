"""Characters and bytes to ids and back."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.errors import CharRNNError
from charrnn.text.vocabulary import UnknownCharacters, Vocabulary

TEXTS = [
    "a",
    "hello\r\nworld\x00\x1b[31m",
    "e\u0301 \u00e9 \u2028 \ufeff",
    "日本語 🙂 𝔘𝔫𝔦",
    "\U0010ffff\x7f\ud7ff\ue000",
]


def vocabulary_of(text):
    return Vocabulary("".join(sorted(set(text))))


@pytest.mark.parametrize("text", TEXTS)
def test_decode_undoes_encode(text):
    vocabulary = vocabulary_of(text)
    ids = vocabulary.encode(text)
    assert ids.shape == (len(text),)
    assert ids.dtype == np.uint8
    assert vocabulary.decode(ids) == text
    assert Vocabulary.of_bytes().decode(Vocabulary.of_bytes().encode(text)) == text


@settings(deadline=None, max_examples=50)
@given(st.text(min_size=1), st.text())
def test_encode_agrees_with_a_dictionary(known, text):
    vocabulary = vocabulary_of(known)
    id_of = {c: i for i, c in enumerate(vocabulary.characters)}
    assert vocabulary.encode(text, "skip").tolist() == [id_of[c] for c in text if c in id_of]
    assert vocabulary.unknown(text) == "".join(dict.fromkeys(c for c in text if c not in id_of))


def test_ids_are_places_in_characters():
    assert Vocabulary("zab").encode("abz").tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)],
)
def test_dtype_is_the_smallest_that_fits(size, dtype):
    vocabulary = Vocabulary("".join(map(chr, range(0xE000, 0xE000 + size))))
    assert vocabulary.dtype == dtype
    assert len(vocabulary) == size
    ids = vocabulary.encode(vocabulary.characters)
    assert ids.dtype == dtype
    assert np.array_equal(ids, np.arange(size))
    assert vocabulary.decode(ids) == vocabulary.characters


def test_unknown_characters_are_named_in_order_each_once():
    with pytest.raises(UnknownCharacters) as caught:
        Vocabulary("abc").encode("\x1bab🙂c\x1b日")
    assert caught.value.characters == "\x1b🙂日"
    assert "'\\x1b' (U+001B), '🙂' (U+1F642), '日' (U+65E5)" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_only_the_first_ten_unknown_characters_are_named():
    with pytest.raises(UnknownCharacters, match="'j' .* and 3 more") as caught:
        Vocabulary("-").encode("abcdefghijklm")
    assert "'k'" not in str(caught.value)


def test_skip_leaves_unknown_characters_out():
    ids = Vocabulary("abc").encode("xaybzc\ud800", unknown="skip")
    assert ids.tolist() == [0, 1, 2]


def test_bytes_vocabulary_knows_every_byte():
    vocabulary = Vocabulary.of_bytes()
    assert (len(vocabulary), vocabulary.is_bytes, vocabulary.dtype) == (256, True, np.uint8)
    everything = bytes(range(256))
    assert vocabulary.encode(everything).tobytes() == everything
    # As an argument of the command line that is not UTF-8 arrives in Python.
    assert vocabulary.encode(os.fsdecode(b"a\xff")).tobytes() == b"a\xff"
    assert vocabulary.unknown("é\udcff") == ""


def test_bytes_vocabulary_refuses_surrogates_that_stand_for_no_byte():
    vocabulary = Vocabulary.of_bytes()
    with pytest.raises(UnknownCharacters) as caught:
        vocabulary.encode("a\ud800b")
    assert caught.value.characters == "\ud800"
    assert vocabulary.encode("a\ud800b", "skip").tobytes() == b"ab"


def test_bytes_decode_replaces_what_is_not_utf8():
    assert Vocabulary.of_bytes().decode([0x61, 0xFF, 0x62]) == "a\ufffdb"


@settings(deadline=None, max_examples=50)
@given(st.binary())
def test_byte_decoder_passes_every_byte_on_in_time(data):
    decoder = Vocabulary.of_bytes().decoder()
    written = b"".join(decoder.feed([byte]) for byte in data)
    # Only an unfinished character, of 3 bytes at most, may be missing.
    assert data.startswith(written)
    assert len(data) - len(written) <= 3
    assert decoder.finish() == b""


def test_byte_decoder_writes_whole_characters_only():
    decoder = Vocabulary.of_bytes().decoder()
    pieces = [decoder.feed([byte]) for byte in "a🙂é".encode()]
    assert pieces == [b"a", b"", b"", b"", "🙂".encode(), b"", "é".encode()]
    assert decoder.feed([0xC3]) == b""
    assert decoder.feed([0x28]) == b"\xc3("  # invalid: passes through
    assert decoder.feed([0xE6, 0x97]) == b""
    assert decoder.finish() == b""
    assert decoder.feed([0x61]) == b"a"


def test_character_decoder_writes_utf8():
    vocabulary = Vocabulary("aé🙂")
    decoder = vocabulary.decoder()
    assert [decoder.feed([i]) for i in (0, 1, 2)] == [b"a", "é".encode(), "🙂".encode()]
    assert decoder.feed(np.array([2, 1])) == "🙂é".encode()


@pytest.mark.parametrize(
    ("vocabulary", "start"),
    [
        (Vocabulary("\n ab"), 0),
        (Vocabulary("\t\n a"), 1),
        (Vocabulary("! a"), 1),
        (Vocabulary("ab"), 0),
        (Vocabulary.of_bytes(), 10),
    ],
)
def test_line_start_is_newline_or_space_or_the_first(vocabulary, start):
    assert vocabulary.line_start == start


@pytest.mark.parametrize("characters", ["", "aba", "a\ud800", "a\udfff", "ab" * 0x110000])
def test_impossible_vocabularies_are_refused(characters):
    with pytest.raises(CharRNNError):
        Vocabulary(characters)


def test_equality_is_that_of_the_characters():
    assert Vocabulary("ab") == Vocabulary("ab") != Vocabulary("ba")
    assert Vocabulary.of_bytes() == Vocabulary.of_bytes() != Vocabulary("a")
    assert len({Vocabulary("ab"), Vocabulary("ab")}) == 1


@pytest.mark.parametrize("size", [1, 60, 128, 255, 256, 257, 600])
def test_ascii_is_encoded_as_all_else_is(size):
    """It takes a way of its own, on which an id is a byte and 255 perhaps nothing."""
    characters = "".join(map(chr, range(size + 39, 39, -1)))  # the smallest points have large ids
    vocabulary = Vocabulary(characters)
    known = "".join(c for c in characters if c.isascii())
    for text in known, known[-1] * 9, known + characters[0], "":
        ids = vocabulary.encode(text)
        assert ids.dtype == vocabulary.dtype
        assert ids.tolist() == list(map(characters.index, text))
    assert vocabulary.encode("\x01" + known + "\x02", "skip").tolist() == [
        *map(characters.index, known)
    ]
    with pytest.raises(UnknownCharacters, match=r"U\+0001"):
        vocabulary.encode(known + "\x01")
