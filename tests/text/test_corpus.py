"""Files to ids, the split, and the streams that training reads."""

import hashlib
import io
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
from charrnn.text.corpus import BatchStreams, clamp_batch_shape, read_corpus, require_varied, split
from charrnn.text.disk_ids import DiskIds
from charrnn.text.vocabulary import UnknownCharacters, Vocabulary

TEXT = "plain\r\nline\rNUL\x00 ESC\x1b e\u0301 é \u2028 mid\ufeffdle 日本語 🙂\U0010ffff\n"


@pytest.fixture(params=[1, 2, 3, 7, 1 << 20])
def chunk_bytes(request, monkeypatch):
    monkeypatch.setattr(corpus_module, "CHUNK_BYTES", request.param)


@pytest.fixture
def no_memory(monkeypatch):
    """As if every text were a large one: ids and standard input go to temporary files."""
    monkeypatch.setattr(corpus_module, "SMALL_BYTES", 1)


@pytest.fixture
def stdin(monkeypatch):
    def give(data):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))

    return give


def write(path, data):
    path.write_bytes(data)
    return path


def decoded(corpus):
    return corpus.vocabulary.decode(corpus.ids)


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32", "gb18030", "utf-7"])
def test_every_character_survives(tmp_path, encoding):
    corpus = read_corpus(write(tmp_path / "a", TEXT.encode(encoding)), encoding=encoding)
    assert decoded(corpus) == TEXT
    assert corpus.vocabulary.characters == "".join(sorted(set(TEXT)))
    assert corpus.num_bytes == len(TEXT.encode(encoding))
    assert corpus.skipped_characters == ""
    with pytest.raises(ValueError, match="read-only"):
        corpus.ids[0] = 0


@settings(deadline=None, max_examples=40)
@given(st.text(min_size=1), st.integers(1, 9))
def test_any_text_in_any_chunks(tmp_path_factory, text, chunk_bytes):
    path = write(tmp_path_factory.getbasetemp() / "any", text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_module, "CHUNK_BYTES", chunk_bytes)
        if text == "\ufeff":
            pytest.raises(CharRNNError, read_corpus, path)
        else:
            assert decoded(read_corpus(path)) == text.removeprefix("\ufeff")


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "UTF8", "utf-16", "utf-16-le", "utf-32", "utf-32-be"]
)
def test_a_mark_at_the_start_is_dropped_from_each_file(tmp_path, encoding):
    written = "utf-8" if "8" in encoding else encoding
    mark = "" if encoding in ("utf-16", "utf-32") else "\ufeff"  # these two write one
    paths = [write(tmp_path / n, f"{mark}{n}\ufeffx".encode(written)) for n in "ab"]
    assert decoded(read_corpus(paths, encoding=encoding)) == "a\ufeffxb\ufeffx"


def test_files_are_joined_in_order(tmp_path):
    paths = [write(tmp_path / name, name.encode()) for name in ("second", "first")]
    corpus = read_corpus(paths)
    assert decoded(corpus) == "secondfirst"
    assert corpus.names == tuple(map(str, paths))
    assert decoded(read_corpus(paths[::-1])) == "firstsecond"
    assert decoded(read_corpus(iter(paths))) == "secondfirst"
    assert decoded(read_corpus(os.fsencode(paths[1]))) == "first"


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize("large", [False, True])
def test_standard_input(tmp_path, stdin, monkeypatch, large):
    if not large:
        monkeypatch.setattr(corpus_module, "SMALL_BYTES", 1 << 20)
    stdin(TEXT.encode())
    corpus = read_corpus([write(tmp_path / "a", b"before "), "-"], folder=tmp_path)
    assert decoded(corpus) == "before " + TEXT
    assert corpus.names[1] == "-"
    assert isinstance(corpus.ids, DiskIds) == large
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_standard_input_that_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CharRNNError, match="standard input: it is closed"):
        read_corpus("-")


def test_a_pipe_is_read_like_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(TEXT.encode(),))
    writer.start()
    assert decoded(read_corpus(tmp_path / "pipe")) == TEXT
    writer.join()


@pytest.mark.usefixtures("chunk_bytes")
def test_bytes_are_taken_as_they_are(tmp_path):
    data = b"\xef\xbb\xbf" + bytes(range(256))
    corpus = read_corpus(write(tmp_path / "a", data), as_bytes=True)
    assert corpus.ids.tobytes() == data
    assert corpus.vocabulary.is_bytes


@pytest.mark.usefixtures("no_memory")
def test_more_than_65536_different_characters(tmp_path):
    text = "".join(map(chr, range(0x10000, 0x10000 + 70_000)))
    corpus = read_corpus(write(tmp_path / "a", text.encode()), folder=tmp_path)
    assert corpus.ids.dtype == np.uint32
    assert decoded(corpus) == text


def test_a_given_vocabulary_only_encodes(tmp_path):
    path = write(tmp_path / "a", b"abcabd")
    vocabulary = Vocabulary("xcba")
    with pytest.raises(UnknownCharacters, match="'d'"):
        read_corpus(path, vocabulary=vocabulary)
    corpus = read_corpus(path, vocabulary=vocabulary, unknown="skip")
    assert corpus.ids.tolist() == [3, 2, 1, 3, 2]
    assert corpus.skipped_characters == "d"
    assert read_corpus(path, vocabulary=Vocabulary.of_bytes()).ids.tobytes() == b"abcabd"
    with pytest.raises(CharRNNError, match="knows no character of"):
        read_corpus(path, vocabulary=Vocabulary("x"), unknown="skip")


def test_fingerprint_is_of_the_bytes_and_the_encoding(tmp_path):
    paths = [write(tmp_path / name, name.encode()) for name in ("ab", "cd")]
    joined = write(tmp_path / "joined", b"abcd")
    fingerprint = read_corpus(paths).fingerprint
    assert fingerprint == hashlib.sha256(b"abcdutf-8").hexdigest()
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
def test_undecodable_bytes_are_named_with_their_offset(tmp_path, data, encoding, offset, found):
    paths = [write(tmp_path / "good", "".encode(encoding)), write(tmp_path / "bad", data)]
    with pytest.raises(CharRNNError) as caught:
        read_corpus(paths, encoding=encoding)
    message = str(caught.value)
    assert message.startswith(str(paths[1]))
    assert f"at byte offset {offset}, found {found};" in message
    assert "--encoding" in message
    assert "--bytes" in message


def test_utf16_without_its_mark_is_an_error(tmp_path):
    with pytest.raises(CharRNNError, match="is not utf-16: .*BOM"):
        read_corpus(write(tmp_path / "a", b"abcd"), encoding="utf-16")


@pytest.mark.parametrize("encoding", ["no-such", "hex", "rot13", "", "\x1b[31m", "a\0b", "\udcff"])
def test_an_encoding_that_is_none(tmp_path, encoding):
    with pytest.raises(UsageError, match="unknown encoding") as caught:
        read_corpus(write(tmp_path / "a", b"abc"), encoding=encoding)
    assert str(caught.value).isprintable()


def test_half_a_surrogate_pair_is_no_character(tmp_path):
    with pytest.raises(CharRNNError, match=r"U\+D800"):
        read_corpus(write(tmp_path / "a", rb"a\ud800"), encoding="raw-unicode-escape")


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("vocabulary", [None, Vocabulary("a")])
def test_an_empty_text(tmp_path, data, vocabulary):
    paths = [write(tmp_path / "a", data), write(tmp_path / "b", b"")]
    with pytest.raises(CharRNNError, match="a and 1 more is empty"):
        read_corpus(paths, vocabulary=vocabulary)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(CharRNNError, match="cannot read .*nothing: No such file"):
        read_corpus(tmp_path / "nothing")
    with pytest.raises(CharRNNError, match="Is a directory"):
        read_corpus(tmp_path)
    with pytest.raises(CharRNNError, match="null"):
        read_corpus("a\0b")
    with pytest.raises(CharRNNError, match="no text"):
        read_corpus([])
    with pytest.raises(CharRNNError) as caught:
        read_corpus(b"new\nline \x1b[31m \xff")
    assert str(caught.value).isprintable()


@pytest.mark.usefixtures("no_memory")
def test_a_folder_for_temporary_files_that_is_missing(tmp_path, stdin):
    with pytest.raises(CharRNNError, match="temporary files in .*nowhere: No such file"):
        read_corpus(write(tmp_path / "a", b"abc"), folder=tmp_path / "nowhere")
    stdin(b"abc")
    with pytest.raises(CharRNNError, match="temporary files in .*nowhere"):
        read_corpus("-", folder=tmp_path / "nowhere")


@pytest.mark.parametrize("after", [b"abx", b"ab", b"aba", b"bac", b""])
def test_a_file_that_changes_between_the_passes(tmp_path, after):
    path = write(tmp_path / "a", b"abc")

    def change(done, total):
        if done == 3:
            path.write_bytes(after)

    with pytest.raises(CharRNNError, match="changed while it was read"):
        read_corpus(path, progress=change)


def test_more_files_than_may_be_open_at_once(tmp_path):
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))\n"
        "from charrnn.text.corpus import read_corpus; print(len(read_corpus(sys.argv[1:]).ids))"
    )
    paths = [write(tmp_path / f"{i}", b"ab") for i in range(60)]
    result = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert result.stdout == "120\n", result.stderr


def test_imports_are_light():
    imports = "import sys, charrnn.text.corpus, charrnn.storage.checkpoint"
    code = f"{imports}; print({{'numba', 'click'}} & {{*sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr


@pytest.mark.parametrize("as_bytes", [False, True])
def test_one_repeated_character_is_nothing_to_learn(tmp_path, as_bytes):
    corpus = read_corpus(write(tmp_path / "a", b"\x1b" * 1000), as_bytes=as_bytes)
    with pytest.raises(CharRNNError, match=r"'\\x1b', 1,000 times"):
        require_varied(corpus)
    require_varied(read_corpus(write(tmp_path / "b", b"ab"), as_bytes=as_bytes))


@pytest.mark.usefixtures("no_memory")
def test_one_repeated_character_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "CHUNK_BYTES", 7)
    with pytest.raises(CharRNNError, match="'a', 100 times"):
        require_varied(read_corpus(write(tmp_path / "a", b"a" * 100), folder=tmp_path))
    require_varied(read_corpus(write(tmp_path / "b", b"a" * 99 + b"b"), folder=tmp_path))


@pytest.mark.parametrize(
    ("n", "fraction", "num_val"),
    [(100, 0, 0), (100, 0.1, 10), (109, 0.1, 10), (19, 0.1, 0), (20, 0.1, 2), (3, 0.99, 2)],
)
def test_validation_is_the_end_of_the_text(n, fraction, num_val):
    train, val = split(np.arange(n), fraction)
    assert train.tolist() == list(range(n - num_val))
    assert val.tolist() == list(range(n - num_val, n))


@pytest.mark.parametrize("fraction", [-0.1, 1, 2, float("nan"), float("inf")])
def test_impossible_fractions(fraction):
    with pytest.raises(UsageError, match="validation fraction"):
        split(np.arange(10), fraction)


@pytest.mark.parametrize(
    ("n", "fitted"),
    [
        (1_000_000, (50, 50)),
        (10_001, (50, 50)),
        (10_000, (49, 50)),
        (1_000, (4, 50)),
        (300, (1, 50)),
        (201, (1, 50)),
        (200, (1, 49)),
        (5, (1, 1)),
        (2, (1, 1)),
    ],
)
def test_fit_shrinks_the_batch_and_then_the_sequence(n, fitted):
    assert clamp_batch_shape(n, 50, 50) == fitted


@pytest.mark.parametrize("n", [0, 1])
def test_fit_refuses_a_text_that_predicts_nothing(n):
    with pytest.raises(CharRNNError, match="too short"):
        clamp_batch_shape(n, 50, 50)


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 5000), st.integers(1, 100), st.integers(1, 100))
def test_fit_gives_four_chunks_where_there_can_be(n, batch_size, seq_length):
    fitted = clamp_batch_shape(n, batch_size, seq_length)
    assert 1 <= fitted[0] <= batch_size
    assert 1 <= fitted[1] <= seq_length
    assert BatchStreams(np.zeros(n, np.uint8), *fitted).num_chunks >= min(4, n - 1)


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 200), st.integers(1, 9), st.integers(1, 9))
def test_chunks_continue_each_stream(n, batch_size, seq_length):
    if n - 1 < batch_size:
        batch_size = 1
    ids = np.arange(n, dtype=np.uint8)
    streams = BatchStreams(ids, batch_size, seq_length)
    steps = (n - 1) // batch_size
    chunks = [streams.chunk(k) for k in range(streams.num_chunks)]
    for x, y in chunks:
        for array in (x, y):
            assert array.dtype == np.int32
            assert array.flags.c_contiguous
            assert array.shape[1] == batch_size
    assert all(len(x) == seq_length for x, _ in chunks[:-1])
    assert 1 <= len(chunks[-1][0]) <= seq_length
    x, y = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
    for b in range(batch_size):
        assert x[:, b].tolist() == ids[b * steps : b * steps + steps].tolist()
        assert y[:, b].tolist() == ids[b * steps + 1 : b * steps + steps + 1].tolist()
    assert streams.chars_per_epoch == x.size
    with pytest.raises(IndexError):
        streams.chunk(streams.num_chunks)


def test_a_text_in_a_file_is_split_and_read_as_one_in_memory(tmp_path, monkeypatch):
    path = write(tmp_path / "a", TEXT.encode() * 9)
    in_memory = read_corpus(path)
    monkeypatch.setattr(corpus_module, "SMALL_BYTES", 1)
    in_file = read_corpus(path, folder=tmp_path)
    assert isinstance(in_file.ids, DiskIds)
    for whole, part in zip(split(in_memory.ids, 0.3), split(in_file.ids, 0.3), strict=True):
        assert part[:].tolist() == whole.tolist()
        streams = BatchStreams(whole, 3, 5), BatchStreams(part, 3, 5)
        for k in range(streams[0].num_chunks):
            for a, b in zip(*(s.chunk(k) for s in streams), strict=True):
                assert type(b) is np.ndarray and a.tolist() == b.tolist()
