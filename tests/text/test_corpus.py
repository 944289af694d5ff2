"""Text files to ids: decoding, joining, encoding, and errors in the files."""

import hashlib
import io
import logging
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.errors import CharRNNError, UsageError
from charrnn.text import corpus as corpus_module
from charrnn.text import reader, spool
from charrnn.text.corpus import read_corpus, require_varied
from charrnn.text.disk_ids import DiskIds
from charrnn.text.reader import EncodingOptions
from charrnn.text.vocabulary import (
    SEPARATOR,
    UNKNOWN,
    ByteVocabulary,
    CharVocabulary,
    UnknownCharacters,
)

TEXT = "plain\r\nline\rNUL\x00 ESC\x1b e\u0301 é \u2028 mid\ufeffdle 日本語 🙂\U0010ffff\n"


@pytest.fixture(params=[1, 2, 3, 7, 1 << 20])
def chunk_bytes(request, monkeypatch):
    """Read this many bytes at a time."""
    monkeypatch.setattr(reader, "CHUNK_BYTES", request.param)


@pytest.fixture
def every_text_is_large(monkeypatch):
    """Write all ids and standard input to files on the disk."""
    monkeypatch.setattr(spool, "SMALL_BYTES", 1)


@pytest.fixture
def set_stdin(monkeypatch):
    def replace(data):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))

    return replace


def write(path, data):
    path.write_bytes(data)
    return path


def text_of(read):
    return read.vocabulary.decode(read.ids)


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32", "gb18030", "utf-7"])
def test_every_character_is_preserved(tmp_path, encoding):
    corpus = read_corpus(write(tmp_path / "a", TEXT.encode(encoding)), encoding=encoding)
    assert text_of(corpus) == TEXT
    assert corpus.vocabulary.characters == "".join(sorted(set(TEXT)))
    assert corpus.num_bytes == len(TEXT.encode(encoding))
    assert corpus.skipped_characters == ""
    with pytest.raises(ValueError, match="read-only"):
        corpus.ids[0] = 0


@settings(deadline=None, max_examples=40)
@given(st.text(min_size=1), st.integers(1, 9))
def test_any_text_is_preserved_in_any_chunks(tmp_path_factory, text, chunk_bytes):
    path = write(tmp_path_factory.getbasetemp() / "any", text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "CHUNK_BYTES", chunk_bytes)
        if text == "\ufeff":
            pytest.raises(CharRNNError, read_corpus, path)
        else:
            assert text_of(read_corpus(path)) == text.removeprefix("\ufeff")


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "UTF8", "utf-16", "utf-16-le", "utf-32", "utf-32-be"]
)
def test_the_byte_order_mark_of_each_file_is_dropped(tmp_path, encoding):
    written = "utf-8" if "8" in encoding else encoding
    mark = "" if encoding in ("utf-16", "utf-32") else "\ufeff"  # these two codecs write one
    paths = [write(tmp_path / n, f"{mark}{n}\ufeffx".encode(written)) for n in "ab"]
    assert text_of(read_corpus(paths, encoding=encoding)) == "a\ufeffx\nb\ufeffx"


def test_files_are_joined_in_order(tmp_path):
    paths = [write(tmp_path / name, name.encode()) for name in ("second", "first")]
    corpus = read_corpus(paths)
    assert text_of(corpus) == "second\nfirst"
    assert corpus.names == tuple(map(str, paths))
    assert text_of(read_corpus(paths[::-1])) == "first\nsecond"
    assert text_of(read_corpus(iter(paths))) == "second\nfirst"
    assert text_of(read_corpus(os.fsencode(paths[1]))) == "first"


@pytest.mark.usefixtures("every_text_is_large")
@pytest.mark.parametrize("large", [False, True])
def test_standard_input_is_read_between_files(tmp_path, set_stdin, monkeypatch, large):
    if not large:
        monkeypatch.setattr(spool, "SMALL_BYTES", 1 << 20)
    set_stdin(TEXT.encode())
    corpus = read_corpus([write(tmp_path / "a", b"before\n"), "-"], folder=tmp_path)
    assert text_of(corpus) == "before\n" + TEXT
    assert corpus.names[1] == "-"
    assert isinstance(corpus.ids, DiskIds) == large
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_closed_standard_input_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CharRNNError, match="standard input: it is closed"):
        read_corpus("-")


def test_a_pipe_is_read_like_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(TEXT.encode(),))
    writer.start()
    assert text_of(read_corpus(tmp_path / "pipe")) == TEXT
    writer.join()


@pytest.mark.usefixtures("chunk_bytes")
def test_bytes_are_not_decoded(tmp_path):
    data = b"\xef\xbb\xbf" + bytes(range(256))
    corpus = read_corpus(write(tmp_path / "a", data), as_bytes=True)
    assert corpus.ids.tobytes() == data
    assert corpus.vocabulary.is_bytes


@pytest.mark.usefixtures("every_text_is_large")
def test_more_than_65536_different_characters_have_ids_of_32_bits(tmp_path):
    text = "".join(map(chr, range(0x10000, 0x10000 + 70_000)))
    corpus = read_corpus(write(tmp_path / "a", text.encode()), folder=tmp_path)
    assert corpus.ids.dtype == np.uint32
    assert text_of(corpus) == text


def test_a_given_vocabulary_encodes_the_text(tmp_path):
    path = write(tmp_path / "a", b"abcabd")
    vocabulary = CharVocabulary("xcba")
    with pytest.raises(UnknownCharacters, match="'d'"):
        read_corpus(path, vocabulary=vocabulary)
    corpus = read_corpus(path, vocabulary=vocabulary, unknown="skip")
    assert corpus.ids.tolist() == [3, 2, 1, 3, 2]
    assert corpus.skipped_characters == "d"
    assert read_corpus(path, vocabulary=ByteVocabulary()).ids.tobytes() == b"abcabd"
    with pytest.raises(CharRNNError, match="knows no character of"):
        read_corpus(path, vocabulary=CharVocabulary("x"), unknown="skip")


def test_the_fingerprint_depends_on_the_bytes_and_the_encoding(tmp_path):
    paths = [write(tmp_path / name, f"{name}\n".encode()) for name in ("ab", "cd")]
    joined = write(tmp_path / "joined", b"ab\ncd\n")
    fingerprint = read_corpus(paths).fingerprint
    assert fingerprint == hashlib.sha256(b"ab\ncd\nutf-8").hexdigest()
    assert fingerprint == read_corpus(joined, encoding="U8").fingerprint
    assert fingerprint == read_corpus(joined, encoding="utf-8-sig").fingerprint
    others = [read_corpus(joined, encoding="latin-1"), read_corpus(joined, as_bytes=True)]
    others += [read_corpus(paths[::-1]), read_corpus(paths[0])]
    assert len({fingerprint, *(other.fingerprint for other in others)}) == 5


@pytest.mark.usefixtures("chunk_bytes")
def test_progress_counts_the_bytes_of_all_passes(tmp_path):
    path = write(tmp_path / "a", b"x" * 10 + b"y")
    for options, total in [({}, 22), ({"as_bytes": True}, 11)]:
        calls = []
        read_corpus(path, progress=lambda *call: calls.append(call), **options)  # noqa: B023
        assert calls[-1] == (total, total)
        assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize(
    ("data", "encoding", "offset", "found"),
    [
        (b"abc\xe9def", "utf-8", 3, "e9"),
        (b"\xef\xbb\xbfab\xff", "utf-8-sig", 5, "ff"),
        ("日本".encode() + b"\xe6\x97", "utf-8", 6, "e6 97"),
        (b"a" * 9 + b"\xf0\x9f\x99a", "utf-8", 9, "f0 9f 99"),
        ("ab".encode("utf-16") + b"\x00\xdca\x00", "utf-16", 6, "00 dc"),
        ("ab".encode("utf-16") + b"a", "utf-16", 6, "61"),
        ("日本".encode("euc_jp") + b"\xff", "euc_jp", 4, "ff"),
        (b"ab\x81", "cp1252", 2, "81"),
        (b"ab\x80", "ascii", 2, "80"),
    ],
)
def test_undecodable_bytes_are_reported_with_their_offset(tmp_path, data, encoding, offset, found):
    paths = [write(tmp_path / "good", "".encode(encoding)), write(tmp_path / "bad", data)]
    with pytest.raises(CharRNNError) as caught:
        read_corpus(paths, encoding=encoding, options=EncodingOptions("--encoding", "--bytes"))
    message = str(caught.value)
    assert message.startswith(str(paths[1]))
    assert f"at byte offset {offset}, found {found};" in message
    assert "--encoding" in message
    assert "--bytes" in message


def test_utf16_without_a_byte_order_mark_is_an_error(tmp_path):
    with pytest.raises(CharRNNError, match="is not utf-16: .*BOM"):
        read_corpus(write(tmp_path / "a", b"abcd"), encoding="utf-16")


@pytest.mark.parametrize("encoding", ["no-such", "hex", "rot13", "", "\x1b[31m", "a\0b", "\udcff"])
def test_an_unknown_encoding_is_a_usage_error(tmp_path, encoding):
    with pytest.raises(UsageError, match="unknown encoding") as caught:
        read_corpus(write(tmp_path / "a", b"abc"), encoding=encoding)
    assert str(caught.value).isprintable()


def test_a_text_with_half_a_surrogate_pair_is_refused(tmp_path):
    with pytest.raises(CharRNNError, match=r"U\+D800"):
        read_corpus(write(tmp_path / "a", rb"a\ud800"), encoding="raw-unicode-escape")


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("vocabulary", [None, CharVocabulary("a")])
def test_an_empty_text_is_refused(tmp_path, data, vocabulary):
    paths = [write(tmp_path / "a", data), write(tmp_path / "b", b"")]
    with pytest.raises(CharRNNError, match="a and 1 more is empty"):
        read_corpus(paths, vocabulary=vocabulary)


def test_a_path_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(CharRNNError, match="cannot read .*nothing: No such file"):
        read_corpus(tmp_path / "nothing")
    with pytest.raises(CharRNNError, match="there is no file in"):
        read_corpus(tmp_path)
    with pytest.raises(CharRNNError, match="null"):
        read_corpus("a\0b")
    with pytest.raises(CharRNNError, match="no text"):
        read_corpus([])
    with pytest.raises(CharRNNError) as caught:
        read_corpus(b"new\nline \x1b[31m \xff")
    assert str(caught.value).isprintable()


@pytest.mark.usefixtures("every_text_is_large")
def test_a_missing_folder_for_temporary_files_is_an_error(tmp_path, set_stdin):
    with pytest.raises(CharRNNError, match="temporary files in .*nowhere: No such file"):
        read_corpus(write(tmp_path / "a", b"abc"), folder=tmp_path / "nowhere")
    set_stdin(b"abc")
    with pytest.raises(CharRNNError, match="temporary files in .*nowhere"):
        read_corpus("-", folder=tmp_path / "nowhere")


@pytest.mark.parametrize("after", [b"abx", b"ab", b"aba", b"bac", b""])
def test_a_file_that_changes_between_the_passes_is_an_error(tmp_path, after):
    path = write(tmp_path / "a", b"abc")

    def change(done, total):
        if done == 3:
            path.write_bytes(after)

    with pytest.raises(CharRNNError, match="changed while it was read"):
        read_corpus(path, progress=change)


def test_more_files_than_the_open_file_limit_are_read(tmp_path):
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))\n"
        "from charrnn.text.corpus import read_corpus; print(len(read_corpus(sys.argv[1:]).ids))"
    )
    paths = [write(tmp_path / f"{i}", b"ab") for i in range(60)]
    result = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert result.stdout == "179\n", result.stderr


def test_reading_texts_and_models_does_not_import_numba_or_click():
    imports = "import sys, charrnn.text.corpus, charrnn.storage.checkpoint"
    code = f"{imports}; print({{'numba', 'click'}} & {{*sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_text_of_one_repeated_character_is_refused(tmp_path, as_bytes):
    corpus = read_corpus(write(tmp_path / "a", b"\x1b" * 1000), as_bytes=as_bytes)
    with pytest.raises(CharRNNError, match=r"'\\x1b', 1,000 times"):
        require_varied(corpus)
    require_varied(read_corpus(write(tmp_path / "b", b"ab"), as_bytes=as_bytes))


@pytest.mark.usefixtures("every_text_is_large")
def test_a_large_text_of_one_repeated_character_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "COMPARED_AT_ONCE", 7)
    with pytest.raises(CharRNNError, match="'a', 100 times"):
        require_varied(read_corpus(write(tmp_path / "a", b"a" * 100), folder=tmp_path))
    require_varied(read_corpus(write(tmp_path / "b", b"a" * 99 + b"b"), folder=tmp_path))


# --- Rare characters


@settings(deadline=None, max_examples=60)
@given(
    st.text(st.sampled_from("abc\n\xffé日🙂"), min_size=1, max_size=40),
    st.integers(1, 6),
    st.sampled_from([1, 2, 5, 1 << 18]),
)
def test_one_symbol_stands_for_all_rare_characters(tmp_path_factory, text, min_count, chunk_bytes):
    path = write(tmp_path_factory.mktemp("rare") / "a", text.encode())
    frequent = sorted(c for c in set(text) if text.count(c) >= min_count)
    rare = set(text) - set(frequent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "CHUNK_BYTES", chunk_bytes)
        if not frequent:
            with pytest.raises(CharRNNError, match="no character occurs .* give a smaller --min-c"):
                read_corpus(path, min_count=min_count)
            return
        found = read_corpus(path, min_count=min_count)
    assert found.vocabulary.characters == "".join(frequent) + (UNKNOWN if rare else "")
    id_of = {c: i for i, c in enumerate(frequent)}
    assert found.ids[:].tolist() == [id_of.get(c, len(frequent)) for c in text]
    assert found.num_skipped == 0


@pytest.mark.parametrize(
    ("min_count", "message"),
    [
        (2, "1 different characters occur fewer than 2 times: one symbol stands for them"),
        (3, "2 different characters occur fewer than 3 times"),
        (1, None),
    ],
)
def test_rare_characters_are_counted_in_a_note(tmp_path, caplog, min_count, message):
    caplog.set_level(logging.INFO, "charrnn")
    read_corpus(write(tmp_path / "a", b"aaabbc\n\n\n"), min_count=min_count)
    assert (message in caplog.text) if message else not caplog.text


def test_a_note_says_that_no_character_is_rare(tmp_path, caplog):
    caplog.set_level(logging.INFO, "charrnn")
    found = read_corpus(write(tmp_path / "a", b"aabb"), min_count=2)
    assert found.vocabulary == CharVocabulary("ab")
    assert "no character occurs fewer than 2 times, so there is no symbol" in caplog.text


# --- Bytes that cannot be decoded


@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.sampled_from(
            ["aé日🙂\n".encode(), b"\xff", b"\xe6\x97", b"\xf0\x9f", b"a", b"\xd8\x00"]
        ),
        min_size=1,
    ).map(b"".join),
    st.sampled_from(["utf-8", "ascii", "cp1252", "utf-16-le", "utf-16-be", "gb18030", "shift_jis"]),
    st.sampled_from([1, 2, 3, 1 << 18]),
)
def test_undecodable_bytes_are_replaced_as_by_python(tmp_path_factory, data, encoding, chunk_bytes):
    path = write(tmp_path_factory.mktemp("bad") / "a", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "CHUNK_BYTES", chunk_bytes)
        found = read_corpus(path, encoding=encoding, errors="replace")
    assert text_of(found) == data.decode(encoding, "replace")


@pytest.mark.usefixtures("chunk_bytes")
def test_replaced_bytes_are_counted_once_in_a_warning(tmp_path, caplog):
    files = [
        write(tmp_path / "good", b"a\xef\xbf\xbd\n"),
        write(tmp_path / "bad", b"b\xffc\xe6\x97d\xf0\x9f\n"),
        write(tmp_path / "worse", b"\xff" * 9),
    ]
    assert text_of(read_corpus(files, errors="replace")) == (
        "a\ufffd\nb\ufffdc\ufffdd\ufffd\n" + "\ufffd" * 9
    )
    name = tmp_path / "worse"
    warning = f"14 bytes of {name} and 1 more cannot be decoded: U+FFFD stands for them"
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [warning]
    caplog.clear()
    read_corpus(files[0], errors="replace")
    assert not caplog.text
    options = EncodingOptions(errors="--errors replace")
    with pytest.raises(CharRNNError, match=r"bad is not .*, or replace such bytes with --errors "):
        read_corpus(files, options=options)


@pytest.mark.parametrize("separator", ["\n", ";", "%%"])
def test_the_end_of_a_record_is_never_rare(tmp_path, separator):
    text = separator.join(["aaab", "aba", "%ca"]) + separator
    found = read_corpus(write(tmp_path / "a", text.encode()), separator=separator, min_count=5)
    end = separator if len(separator) == 1 else SEPARATOR
    assert found.vocabulary.characters == "".join(sorted("a" + end)) + UNKNOWN
    assert found.vocabulary.symbols(found.ids[:]) == f"aaa?{end}a?a{end}??a{end}".replace(
        "?", UNKNOWN
    )
    assert found.vocabulary.symbols([found.record_end_id]) == end
    with pytest.raises(CharRNNError, match="no character occurs 9 times"):
        read_corpus(tmp_path / "a", separator=separator, min_count=9)
