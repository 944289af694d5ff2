"""Line ends between files, and lists and folders of files."""

import hashlib
import os

import pytest

from charrnn.errors import CharRNNError
from charrnn.text import reader
from charrnn.text.corpus import read_corpus
from charrnn.text.files import expand_folders, split_names
from charrnn.text.vocabulary import CharVocabulary


def text_of(folder, *contents, **options):
    paths = []
    for i, data in enumerate(contents):
        paths.append(folder / f"{i}")
        paths[-1].write_bytes(data)
    corpus = read_corpus(paths, **options)
    return corpus.vocabulary.to_utf8(corpus.ids)


@pytest.mark.parametrize("chunk_bytes", [1, 3, 1 << 20])
@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize(
    "contents, text",
    [
        ([b"emma\nzzyzx", b"emma\nzzyzx"], b"emma\nzzyzx\nemma\nzzyzx"),
        ([b"a", b"", b"b\n", b"c", b""], b"a\nb\nc"),
        ([b"", b"a"], b"a"),
        ([b"a\r\nb", b"c\r\n", b"d", b"e"], b"a\r\nb\r\nc\r\nd\r\ne"),
        ([b"a\r\n", b"b", b"c\nd", b"e"], b"a\r\nb\r\nc\nd\ne"),
        ([b"a\rb\r", b"c"], b"a\rb\rc"),
        ([b"\n", b"a\n", b"\n"], b"\na\n\n"),
        (["é".encode(), "日".encode()], "é\n日".encode()),
    ],
)
def test_a_line_end_separates_files(tmp_path, monkeypatch, contents, text, as_bytes, chunk_bytes):
    monkeypatch.setattr(reader, "CHUNK_BYTES", chunk_bytes)
    assert text_of(tmp_path, *contents, as_bytes=as_bytes) == text


def test_a_line_end_separates_files_of_other_encodings(tmp_path):
    contents = ["a\r\nb".encode("utf-16"), "\ufeff".encode("utf-16-le"), "c".encode("utf-16")]
    assert text_of(tmp_path, *contents, encoding="utf-16") == b"a\r\nb\r\nc"


@pytest.mark.parametrize("contents", [[b"MThd\0", b"x"], [b"x", b"MThd\0"], [b"\0a", b"\0b"]])
def test_binary_files_are_joined_as_they_are(tmp_path, contents):
    assert text_of(tmp_path, *contents, as_bytes=True) == b"".join(contents)
    text = b"\n".join(contents)
    assert text_of(tmp_path, *contents) == text


def test_files_are_joined_as_they_are_for_a_model_without_newline(tmp_path):
    assert text_of(tmp_path, b"a", b"b", vocabulary=CharVocabulary("ab")) == b"ab"


def fingerprint(folder, *contents):
    for i, data in enumerate(contents):
        (folder / f"{i}").write_bytes(data)
    return read_corpus([folder / f"{i}" for i in range(len(contents))])


def test_fingerprints_tell_where_line_ends_were_put(tmp_path):
    corpora = [
        fingerprint(tmp_path, *contents)
        for contents in ([b"ab\ncd"], [b"ab", b"cd"], [b"abc", b"d"], [b"a", b"b", b"cd"])
    ]
    assert len({corpus.fingerprint for corpus in corpora}) == 4
    glued = hashlib.sha256(b"abcdutf-8").hexdigest()
    assert {corpus.glued_fingerprint for corpus in corpora[1:]} == {glued}
    assert corpora[0].glued_fingerprint == corpora[0].fingerprint


def test_the_starts_of_files_are_indices_of_ids(tmp_path):
    corpus = fingerprint(tmp_path, "é\n".encode(), b"", b"ab", b"c")
    assert corpus.file_starts == (0, 2, 2, 4)  # the line end belongs to the file after it


def test_a_folder_stands_for_its_files_in_order(tmp_path):
    for name in "b/2", "b/.hidden", "a.txt", "c", ".git/x", "b/1", "run.safetensors":
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    os.symlink(tmp_path, tmp_path / "b" / "loop")
    os.symlink("nowhere", tmp_path / "dangling")
    os.symlink("c", tmp_path / "d")
    os.mkfifo(tmp_path / "pipe")
    files = expand_folders([tmp_path, "-", "missing"], excluded=[tmp_path / "run.safetensors"])
    names = [os.path.relpath(path, tmp_path) for path in files[:-2]]
    assert names == ["a.txt", "c", "d", "b/1", "b/2"] and files[-2:] == ["-", "missing"]
    assert text_of(tmp_path / "b", b"x\n") and read_corpus(tmp_path / "b").names


def test_a_folder_without_files_is_an_error(tmp_path):
    (tmp_path / ".hidden").write_text("a")
    with pytest.raises(CharRNNError, match="no file in"):
        expand_folders([tmp_path])


@pytest.mark.parametrize(
    "data, names",
    [
        (b"a\nb c\n\nd", ["a", "b c", "d"]),
        (b"a\nb\0c\0", ["a\nb", "c"]),
        (b"-\n\xff\n", ["./-", "\udcff"]),
        (b"", []),
    ],
)
def test_a_list_of_names_ends_them_with_nuls_or_newlines(data, names):
    assert split_names(data) == names
