"""Text to ids and back, by character and by byte."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.errors import CharRNNError
from charrnn.text.vocabulary import (
    SEPARATOR,
    UNKNOWN,
    ByteVocabulary,
    CharVocabulary,
    UnknownCharacters,
    vocabulary_of,
)

TEXTS = [
    "a",
    "hello\r\nworld\x00\x1b[31m",
    "e\u0301 \u00e9 \u2028 \ufeff",
    "日本語 🙂 𝔘𝔫𝔦",
    "\U0010ffff\x7f\ud7ff\ue000",
]


def characters_of(text):
    return CharVocabulary("".join(sorted(set(text))))


# --- Text to ids


@pytest.mark.parametrize("text", TEXTS)
def test_decode_inverts_encode(text):
    vocabulary = characters_of(text)
    ids = vocabulary.encode(text)
    assert ids.shape == (len(text),)
    assert ids.dtype == np.uint8
    assert vocabulary.decode(ids) == text
    assert ByteVocabulary().decode(ByteVocabulary().encode(text)) == text


@settings(deadline=None, max_examples=50)
@given(st.text(min_size=1), st.text())
def test_encode_agrees_with_a_dictionary(known, text):
    vocabulary = characters_of(known)
    id_of = {c: i for i, c in enumerate(vocabulary.characters)}
    assert vocabulary.encode(text, "skip").tolist() == [id_of[c] for c in text if c in id_of]
    assert vocabulary.unknown(text) == "".join(dict.fromkeys(c for c in text if c not in id_of))


def test_ids_are_positions_in_the_characters():
    assert CharVocabulary("zab").encode("abz").tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)],
)
def test_dtype_is_the_smallest_that_fits(size, dtype):
    vocabulary = CharVocabulary("".join(map(chr, range(0xE000, 0xE000 + size))))
    assert vocabulary.dtype == dtype
    assert len(vocabulary) == size
    ids = vocabulary.encode(vocabulary.characters)
    assert ids.dtype == dtype
    assert np.array_equal(ids, np.arange(size))
    assert vocabulary.decode(ids) == vocabulary.characters


def test_unknown_characters_are_named_in_order_each_once():
    with pytest.raises(UnknownCharacters) as caught:
        CharVocabulary("abc").encode("\x1bab🙂c\x1b日")
    assert caught.value.characters == "\x1b🙂日"
    assert "'\\x1b' (U+001B), '🙂' (U+1F642), '日' (U+65E5)" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_only_the_first_ten_unknown_characters_are_named():
    with pytest.raises(UnknownCharacters, match="'j' .* and 3 more") as caught:
        CharVocabulary("-").encode("abcdefghijklm")
    assert "'k'" not in str(caught.value)


def test_skip_omits_unknown_characters():
    ids = CharVocabulary("abc").encode("xaybzc\ud800", unknown="skip")
    assert ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [1, 60, 128, 255, 256, 257, 600])
def test_ascii_is_encoded_like_other_text(size):
    """ASCII text is encoded by a table of bytes, in which 255 may mean "unknown"."""
    characters = "".join(map(chr, range(size + 39, 39, -1)))  # the smallest points have large ids
    vocabulary = CharVocabulary(characters)
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


def test_characters_do_not_encode_bytes():
    with pytest.raises(TypeError, match="str, not bytes"):
        CharVocabulary("ab").encode(b"ab")


def test_byte_vocabulary_encodes_every_byte():
    vocabulary = ByteVocabulary()
    assert (len(vocabulary), vocabulary.is_bytes, vocabulary.dtype) == (256, True, np.uint8)
    every_byte = bytes(range(256))
    assert vocabulary.encode(every_byte).tobytes() == every_byte
    # A command-line argument that is not UTF-8 reaches Python in this form.
    assert vocabulary.encode(os.fsdecode(b"a\xff")).tobytes() == b"a\xff"
    assert vocabulary.unknown("é\udcff") == ""


def test_byte_vocabulary_refuses_surrogates_that_are_not_escaped_bytes():
    vocabulary = ByteVocabulary()
    with pytest.raises(UnknownCharacters) as caught:
        vocabulary.encode("a\ud800b")
    assert caught.value.characters == "\ud800"
    assert vocabulary.encode("a\ud800b", "skip").tobytes() == b"ab"


@pytest.mark.parametrize(
    ("vocabulary", "newline", "start"),
    [
        (CharVocabulary("\n ab"), 0, 0),
        (CharVocabulary("\t\n a"), 1, 1),
        (CharVocabulary("! a"), -1, 1),
        (CharVocabulary("ab"), -1, 0),
        (ByteVocabulary(), 10, 10),
    ],
)
def test_line_start_is_newline_else_space_else_the_first_id(vocabulary, newline, start):
    assert vocabulary.newline_id == newline
    assert vocabulary.line_start == start


def test_ids_of_another_vocabulary_are_its_symbols_here():
    here, other = CharVocabulary("ab🙂"), CharVocabulary("b-🙂a")
    assert here.ids_of(other).tolist() == [1, -1, 2, 0]
    assert ByteVocabulary().ids_of(ByteVocabulary()).tolist() == list(range(256))


def test_utf8_files_are_decoded_for_each_vocabulary():
    assert CharVocabulary("a").from_utf8("\ufeffaé".encode()) == "aé"
    with pytest.raises(UnicodeDecodeError):
        CharVocabulary("a").from_utf8(b"a\xff")
    assert ByteVocabulary().from_utf8("\ufeffa".encode() + b"\xff") == "\ufeffa\udcff"


# --- Special symbols


def with_unknown(known):
    return CharVocabulary("".join(dict.fromkeys(known)) + UNKNOWN)


@settings(deadline=None, max_examples=50)
@given(st.text(min_size=1), st.text(st.characters(exclude_categories=[])))
def test_characters_without_an_id_are_encoded_as_the_unknown_symbol(known, text):
    vocabulary = with_unknown(known)
    id_of = {c: i for i, c in enumerate(dict.fromkeys(known))}
    assert vocabulary.encode(text).tolist() == [id_of.get(c, len(id_of)) for c in text]
    assert vocabulary.encode(text, "skip").tolist() == vocabulary.encode(text).tolist()
    assert vocabulary.unknown(text) == ""
    assert vocabulary.unwritable(text) == "".join(dict.fromkeys(c for c in text if c not in id_of))
    shown = "".join(c if c in id_of else "\ufffd" for c in text)
    assert vocabulary.decode(vocabulary.encode(text)) == shown
    assert stream(vocabulary, [[i] for i in vocabulary.encode(text)]) == [c.encode() for c in shown]


def test_line_start_is_no_unknown_symbol():
    vocabulary = with_unknown("ab")
    assert (vocabulary.newline_id, vocabulary.line_start, vocabulary.unknown_id) == (-1, 0, 2)
    assert CharVocabulary("ab").unknown_id == ByteVocabulary().unknown_id == -1


def test_ids_of_another_vocabulary_are_the_unknown_symbol_where_missing():
    assert with_unknown("ab").ids_of(CharVocabulary("b-🙂a")).tolist() == [1, 2, 2, 0]
    assert with_unknown("ab").ids_of(with_unknown("b-")).tolist() == [1, 2, 2]


PIECES = st.lists(st.sampled_from(["a", "b", "%", "\n", "%%", "%%\n", SEPARATOR, "é"])).map("".join)


def naive_ids(text, separator, id_of, unknown_id):
    """The ids of a text, read from left to right."""
    ids, at = [], 0
    while at < len(text):
        if text.startswith(separator, at):
            ids.append(id_of[SEPARATOR])
            at += len(separator)
        else:
            known = text[at] != SEPARATOR and text[at] in id_of
            ids.append(id_of[text[at]] if known else unknown_id)
            at += 1
    return ids


@settings(deadline=None, max_examples=100)
@given(PIECES, st.sampled_from(["%%", "%%\n", "%\n%", "ab", "é%"]))
def test_each_separator_is_one_id(text, separator):
    characters = f"a%{SEPARATOR}b\n"
    id_of = {c: i for i, c in enumerate(characters)}
    ids = naive_ids(text, separator, id_of, None)
    vocabulary = CharVocabulary(characters, separator)
    assert vocabulary.encode(text, "skip").tolist() == [i for i in ids if i is not None]
    assert (None in ids) == bool(vocabulary.unknown(text)) == bool(vocabulary.unwritable(text))
    whole = CharVocabulary(characters + UNKNOWN, separator)
    assert whole.encode(text).tolist() == naive_ids(text, separator, id_of, 5)
    known = "".join(c for c in text if c in "a%b\n")
    encoded = vocabulary.encode(known)
    assert vocabulary.decode(encoded) == known
    assert vocabulary.to_symbols(known) == vocabulary.symbols(encoded)
    assert b"".join(stream(vocabulary, [[i] for i in encoded])) == known.encode()
    lengths = [len(separator) if i == id_of[SEPARATOR] else 1 for i in encoded]
    sizes = [size for length in lengths for size in [1, *[0] * (length - 1)]]
    assert vocabulary.ids_per_character(known).tolist() == sizes


def test_special_symbols_have_names():
    vocabulary = CharVocabulary(f"a{SEPARATOR}\n{UNKNOWN}", "%\n")
    assert vocabulary.display_names() == ["a", "%\\n", "\\n", "(unknown)"]
    assert vocabulary.json_names() == ["a", "%\n", "\n", None]
    assert vocabulary.describe() == (
        "2 characters, the separator '%\\n', a symbol for all others: a\\n"
    )


# --- Ids to text


@settings(deadline=None, max_examples=50)
@given(st.text(min_size=1))
def test_there_is_one_symbol_per_id(text):
    for vocabulary in characters_of(text), ByteVocabulary():
        ids = vocabulary.encode(text)
        symbols = vocabulary.symbols(ids)
        assert len(symbols) == len(ids)
        assert symbols == vocabulary.to_symbols(text)
        assert vocabulary.to_utf8(ids) == text.encode()
        per_character = vocabulary.ids_per_character(text)
        assert len(per_character) == len(text)
        assert per_character.sum() == len(ids)


def test_byte_symbols_represent_escaped_bytes_and_refuse_other_surrogates():
    assert ByteVocabulary().to_symbols("é\udcff") == "\xc3\xa9\xff"
    assert ByteVocabulary().ids_per_character("é\udcff🙂").tolist() == [2, 1, 4]
    with pytest.raises(UnicodeEncodeError):
        ByteVocabulary().to_symbols("\ud800")


def test_byte_decode_replaces_or_escapes_bytes_that_are_not_utf8():
    assert ByteVocabulary().decode([0x61, 0xFF, 0x62]) == "a\ufffdb"
    assert ByteVocabulary().decode([0x61, 0xFF, 0x62], "surrogateescape") == "a\udcffb"


def stream(vocabulary, pieces):
    return list(vocabulary.stream_utf8(map(vocabulary.symbols, pieces)))


@settings(deadline=None, max_examples=50)
@given(st.binary())
def test_byte_stream_delays_at_most_three_bytes(data):
    decoder = ByteVocabulary().decoder()
    written = ""
    for count, byte in enumerate(data, 1):
        written += decoder.feed(chr(byte))
        received = written.encode("utf-8", "surrogateescape")
        assert data.startswith(received)
        assert count - len(received) <= 3
    written += decoder.feed("", final=True)
    assert written.encode("utf-8", "surrogateescape") == data


def test_byte_stream_never_cuts_a_character():
    text = "a🙂é".encode()
    assert stream(ByteVocabulary(), [[byte] for byte in text]) == [
        b"a",
        "🙂".encode(),
        "é".encode(),
    ]
    assert stream(ByteVocabulary(), [[0xC3], [0x28]]) == [b"\xc3("]  # invalid: passes unchanged
    assert stream(ByteVocabulary(), [[0x61], [0xE6, 0x97]]) == [b"a", b"\xe6\x97"]  # unfinished


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=3)))
def test_byte_stream_loses_no_byte(pieces):
    assert b"".join(stream(ByteVocabulary(), map(list, pieces))) == b"".join(pieces)


def test_character_stream_is_utf8():
    vocabulary = CharVocabulary("aé🙂")
    pieces = [[0], [1], [2], np.array([2, 1])]
    assert stream(vocabulary, pieces) == [c.encode() for c in ("a", "é", "🙂", "🙂é")]


# --- Names


def test_names_of_the_ids_are_printable_and_those_for_json_are_exact():
    vocabulary = CharVocabulary("a\n🙂\x1b")
    assert vocabulary.display_names() == ["a", "\\n", "🙂", "\\x1b"]
    assert vocabulary.json_names() == ["a", "\n", "🙂", "\x1b"]
    assert vocabulary.describe() == "4 characters: a\\n🙂\\x1b"
    names = ByteVocabulary().display_names()
    assert [names[i] for i in (0, 10, 97, 127, 128, 255)] == [
        *("\\x00", "\\n", "a", "\\x7f", "\\x80", "\\xff")
    ]
    assert ByteVocabulary().json_names() == list(range(256))
    assert ByteVocabulary().describe() == "256 bytes"


# --- Vocabularies


@pytest.mark.parametrize(
    "characters",
    ["", "aba", "a\ud800", "a\udffd", "ab" * 0x110000, UNKNOWN, "a" + UNKNOWN * 2, "a" + SEPARATOR],
)
def test_impossible_vocabularies_are_refused(characters):
    with pytest.raises(CharRNNError):
        CharVocabulary(characters)


@pytest.mark.parametrize("separator", ["", "%", "%" * 1001, "%\ud800", SEPARATOR * 2])
def test_impossible_separators_are_refused(separator):
    with pytest.raises(CharRNNError):
        CharVocabulary("a" + SEPARATOR, separator)
    if separator:
        with pytest.raises(CharRNNError):
            CharVocabulary("a", separator)


def test_vocabularies_are_equal_if_their_characters_are():
    assert CharVocabulary("ab") == CharVocabulary("ab") != CharVocabulary("ba")
    assert ByteVocabulary() == ByteVocabulary() != CharVocabulary("a")
    assert len({CharVocabulary("ab"), CharVocabulary("ab")}) == 1
    assert len({ByteVocabulary(), ByteVocabulary()}) == 1


def test_a_model_file_stores_characters_or_none_for_bytes():
    special = CharVocabulary(UNKNOWN + "ab" + SEPARATOR, "b\n")
    for vocabulary in CharVocabulary("ab"), special, ByteVocabulary():
        assert vocabulary_of(vocabulary.characters, vocabulary.separator) == vocabulary


@pytest.mark.parametrize(
    "known, given, offered",
    [
        ("e\u0301", "caf\u00e9", "'e\u0301' (U+0065 U+0301), the Unicode form NFD"),
        ("\u00e9", "cafe\u0301", "'\u00e9' (U+00E9), the Unicode form NFC"),
        ("a\u0323\u0302", "\u1ead", "'a\u0323\u0302' (U+0061 U+0323 U+0302), the Unicode form NFD"),
        ("\uac00", "\u1100\u1161", "'\uac00' (U+AC00), the Unicode form NFC"),
        ("\u1100\u1161", "\uac00", "(U+1100 U+1161), the Unicode form NFD"),
        ("\u00c5", "\u212b", "'\u00c5' (U+00C5), the Unicode form NFC"),
        ("fi", "\ufb01", "'fi' (U+0066 U+0069), the Unicode form NFKC"),
        ("A", "\uff21", "'A' (U+0041), the Unicode form NFKC"),
        ("e", "caf\u00e9", None),
        ("\u00e8", "cafe\u0301", None),
    ],
)
def test_unknown_characters_offer_a_known_unicode_form(known, given, offered):
    vocabulary = CharVocabulary("".join(dict.fromkeys("caf" + known)))
    with pytest.raises(UnknownCharacters) as caught:
        vocabulary.encode("c" * 20 + given + "c" * 20)
    assert (offered in str(caught.value)) if offered else ("form" not in str(caught.value))
    assert str(caught.value).endswith("--unknown skip leaves such characters out.")
