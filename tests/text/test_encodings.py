"""Guesses of a text's encoding: likely encodings, and UTF-16 without its mark."""

import logging
import os

import pytest

from charrnn.errors import CharRNNError
from charrnn.text.corpus import read_corpus
from charrnn.text.encodings import likely_encodings, unmarked_unicode

RUSSIAN = "Привет, как дела? Съешь ещё этих мягких булок.\n"
UNMARKED = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize(
    "codec, text",
    [
        ("cp1252", "café\n"),
        ("cp1252", "Größe und Maß, “naïve” façade – L'élève créée\n"),
        ("cp1251", RUSSIAN),
        ("cp1251", "Київ, їжак, єдність\n"),
        ("koi8-r", RUSSIAN),
        ("cp866", RUSSIAN),
        ("iso8859-5", RUSSIAN),
        ("cp1250", "Zażółć gęślą jaźń\n"),
        ("iso8859-2", "Zażółć gęślą jaźń\n"),
        ("cp1253", "Καλημέρα κόσμε, πώς είσαι;\n"),
        ("cp1254", "Güneş doğdu, ışık çıktı\n"),
        ("gb18030", "你好，世界。今天天气很好，我们去公园玩吧。\n"),
        ("big5", "你好，世界。今天天氣很好，我們去公園玩吧。\n"),
        ("cp932", "今日はとても良い天気ですね。カメラを買いました。\n"),
        ("euc-jp", "今日はとても良い天気ですね。カメラを買いました。\n"),
        ("cp949", "안녕하세요. 오늘은 날씨가 좋네요.\n"),
        ("cp850", "café, Größe, élève\n"),
        ("mac-roman", "café, Größe, élève\n"),
        ("utf-8", "café\n"),
        ("utf-16", "café\n"),
        *((codec, "café\n") for codec in UNMARKED),
    ],
)
def test_the_encoding_of_a_text_is_the_likeliest(codec, text):
    data = text.encode(codec)
    assert likely_encodings(lambda: [data])[0] == codec


def test_likely_encodings_decode_all_of_a_text():
    data = "grün ".encode("latin-1") * 50_000 + b"\x81"  # which cp1252 lacks
    found = likely_encodings(lambda: [data[:200_000], data[200_000:]])
    assert "cp1252" not in found
    for codec in found:
        data.decode(codec)


@pytest.mark.parametrize("data", [bytes(range(256)), b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" * 9])
def test_binary_data_has_no_likely_encoding(data):
    assert likely_encodings(lambda: [data]) == []


@pytest.mark.parametrize("text", ["hello world\n", RUSSIAN, "你好，世界。\n今天\n"])
@pytest.mark.parametrize("codec", UNMARKED)
def test_utf_16_and_32_are_recognized_without_a_mark(codec, text):
    data = text.encode(codec)
    for cut in len(data), len(data) - 1:
        assert unmarked_unicode(data[:cut], "utf-8") == codec
        assert unmarked_unicode(data[:cut], "latin-1") == codec
    assert unmarked_unicode(data, codec) is None


@pytest.mark.parametrize(
    "data", [b"", b"plain\n", "é\n".encode(), b"one\0two\0three\0" * 9, b"\0" * 100]
)
def test_other_texts_are_not_taken_for_utf_16(data):
    assert unmarked_unicode(data, "utf-8") is None


def test_an_unmarked_text_gets_a_note_once(tmp_path, caplog):
    for name in "ab":
        (tmp_path / name).write_bytes("hello world\n".encode("utf-16-le"))
    read_corpus([tmp_path / "a", tmp_path / "b"])
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "UTF-16-LE" in record.getMessage()
    assert "--encoding utf-16-le" in record.getMessage()


def test_an_error_names_the_encodings_that_decode_the_text(tmp_path):
    (tmp_path / "a").write_bytes(RUSSIAN.encode("koi8-r") * 3)
    with pytest.raises(CharRNNError, match=r"--encoding \(it decodes as koi8-r, ") as caught:
        read_corpus(tmp_path / "a")
    assert "--bytes" not in str(caught.value)
    (tmp_path / "b").write_bytes("é".encode())
    with pytest.raises(CharRNNError, match=r"is not ascii.*decodes as utf-8, "):
        read_corpus(tmp_path / "b", encoding="ascii")
    (tmp_path / "c").write_bytes(os.urandom(5000))
    with pytest.raises(CharRNNError, match=r"name its encoding with --encoding\.$"):
        read_corpus(tmp_path / "c")
