"""Records: reading, splitting, shuffling, and the streams that training reads."""

import random
import re
from collections import Counter

import numpy as np
import pytest

from charrnn.errors import CharRNNError, UsageError
from charrnn.text import records, shuffling, spool
from charrnn.text.corpus import read_corpus
from charrnn.text.disk_ids import DiskIds
from charrnn.text.records import (
    RecordFilter,
    count_copies,
    hash_records,
    parse_separator,
    record_pieces,
    separator_of,
    split_records,
)
from charrnn.text.shuffling import shuffled
from charrnn.text.streams import RecordStreams


def ids_of(text):
    return np.frombuffer(text.encode(), np.uint8)


def records_of(ids, end="\n"):
    text = bytes(ids[:]).decode()
    assert not text or text.endswith(end)
    return text.split(end)[:-1]


def random_list(count, seed=0, longest=9):
    rng = random.Random(seed)
    lines = ("".join(rng.choices("abc", k=rng.randint(1, longest))) for _ in range(count))
    return "".join(line + "\n" for line in lines)


# --- reading


def expected_records(text, separator):
    """The records of a text, found at once."""
    if separator == "\n":
        text = re.sub("\r+\n", "\n", text)
    *found, rest = text.split(separator)
    rest = rest.rstrip("\r") if separator == "\n" else rest
    return found, [rest] if rest else []


@pytest.mark.parametrize("separator", ["\n", "\0", "a", "aa", "aba", "--", "\n\n", "\r\n"])
def test_records_do_not_depend_on_how_a_text_is_cut_into_chunks(separator):
    rng = random.Random(separator)
    for _ in range(200):
        text = "".join(rng.choices("ab-\r\n\0", k=rng.randrange(30)))
        found, rest = expected_records(text, separator)
        for keep_empty in False, True:
            reader = RecordFilter(separator, keep_empty)
            cuts = sorted(rng.choices(range(len(text) + 1), k=6))
            bounds = zip([0, *cuts], [*cuts, len(text)], strict=True)
            chunks = [reader.feed(text[a:b]) for a, b in bounds] + [reader.finish()]
            kept = [r for r in found if r or keep_empty] + rest
            assert "".join(chunks) == "".join(record + separator for record in kept)
            assert reader.num_empty == (0 if keep_empty else found.count(""))
            for first, second in zip(chunks, chunks[1:], strict=False):
                joined = (first[-9:] + second[:9]).count(separator)
                assert joined == first[-9:].count(separator) + second[:9].count(separator)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_every_file_ends_with_a_record(tmp_path, as_bytes):
    for name, content in ("a", b"\xef\xbb\xbfab\r\n\r\ncd"), ("b", b"\n\nef\n"), ("c", b"gh\r"):
        (tmp_path / name).write_bytes(
            content.removeprefix(b"\xef\xbb\xbf") if as_bytes else content
        )
    paths = [tmp_path / name for name in "abc"]
    corpus = read_corpus(paths, separator="\n", as_bytes=as_bytes)
    assert corpus.vocabulary.decode(corpus.ids) == "ab\ncd\nef\ngh\n"
    assert corpus.file_starts == (0, 6, 9)
    assert corpus.num_empty == 3
    assert separator_of(corpus.vocabulary, corpus.record_end_id) == "\n"


def test_a_long_separator_is_one_id(tmp_path):
    (tmp_path / "a").write_text("one\n%\n\ntwo\n%\nthree\n")
    corpus = read_corpus(tmp_path / "a", separator="\n%\n")
    assert corpus.vocabulary.decode(corpus.ids) == "one\n%\n\ntwo\n%\nthree\n\n%\n"
    assert np.count_nonzero(corpus.ids == corpus.record_end_id) == 3
    assert len(corpus.ids) == 3 + 4 + 6 + 3
    assert separator_of(corpus.vocabulary, corpus.record_end_id) == "\n%\n"


@pytest.mark.parametrize(
    ("typed", "separator"),
    [(r"\n", "\n"), (r"\0", "\0"), (r"\\n", "\\n"), (r"a\tb", "a\tb"), (r"\xe9\u2028", "é\u2028")],
)
def test_escapes_stand_for_characters(typed, separator):
    assert parse_separator(typed) == separator


@pytest.mark.parametrize("typed", ["", "\\", r"\q", r"\x1", "\\\n"])
def test_other_escapes_are_usage_errors(typed):
    with pytest.raises(UsageError, match="separator"):
        parse_separator(typed)


def test_a_separator_of_bytes_is_one_byte(tmp_path):
    (tmp_path / "a").write_bytes(b"a\xffb\xff")
    assert read_corpus(tmp_path / "a", separator="\xff", as_bytes=True).record_end_id == 255
    for separator in "\n\n", "日":
        with pytest.raises(UsageError, match="one byte"):
            read_corpus(tmp_path / "a", separator=separator, as_bytes=True)


# --- splitting


def test_copies_of_a_record_are_on_the_same_side():
    ids = ids_of(random_list(5000, longest=6))
    split = split_records(ids, 10, 0.2, 3, None)
    train, val = records_of(split.train_ids), records_of(split.val_ids)
    assert Counter(train + val) == Counter(records_of(ids))
    assert not set(train) & set(val)
    assert (split.num_train, split.num_val) == (len(train), len(val))
    assert split.num_copies == 5000 - len(set(train + val))
    share = len(set(val)) / len(set(train + val))
    assert 0.15 < share < 0.25
    others = [records_of(split_records(ids, 10, 0.2, seed, None).val_ids) for seed in (3, 4)]
    assert others[0] == val != others[1]
    assert len(split_records(ids, 10, 0, 3, None).val_ids) == 0


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_both_sides_have_a_record(fraction):
    for seed in range(20):
        split = split_records(ids_of("a\nb\nb\n"), 10, fraction, seed, None)
        assert split.num_train and split.num_val and split.num_copies == 1


@pytest.mark.parametrize(("text", "found"), [("ab\n", "single"), ("ab\nab\n", "the same")])
def test_records_that_do_not_differ_are_refused(text, found):
    with pytest.raises(CharRNNError, match=found):
        split_records(ids_of(text), 10, 0.1, 0, None)


def test_records_longer_than_a_piece_are_read_whole(monkeypatch):
    monkeypatch.setattr(records, "PIECE", 8)
    ids = ids_of("a" * 100 + "\n" + "b\n" * 9 + "c" * 33 + "\n")
    pieces = list(record_pieces(ids, 10, size=8))
    assert np.concatenate([piece for piece, _ in pieces]).tolist() == ids.tolist()
    assert all((piece[ends - 1] == 10).all() for piece, ends in pieces)
    assert split_records(ids, 10, 0.5, 1, None).num_copies == 8


def test_hashes_do_not_depend_on_the_place_of_a_record(monkeypatch):
    ids = ids_of(random_list(300))
    whole = hash_records(ids, 10, 5, None)
    monkeypatch.setattr(records, "PIECE", 16)
    assert hash_records(ids, 10, 5, None).tolist() == whole.tolist()
    names = records_of(ids)
    assert len(set(whole.tolist())) == len(set(names))
    assert len(set(hash_records(ids_of("ab\nba\naab\n\n"), 10, 5, None).tolist())) == 4


def test_copies_among_very_many_records_are_estimated(monkeypatch):
    hashes = np.random.default_rng(1).integers(0, 1 << 63, 20_000).astype(np.uint64) << 1
    hashes = np.concatenate([hashes, hashes[:5000]])
    assert count_copies(hashes) == 5000
    monkeypatch.setattr(records, "MAX_COUNTED", 4000)
    assert 4000 < count_copies(hashes) < 6000


# --- shuffling and streams


@pytest.fixture(params=["memory", "file"])
def place(request, monkeypatch, tmp_path):
    """Shuffle in memory, or in files and buckets."""
    if request.param == "file":
        monkeypatch.setattr(spool, "SMALL_BYTES", 64)
        monkeypatch.setattr(shuffling, "BUCKET_BYTES", 128)
        monkeypatch.setattr(shuffling, "PIECE", 32)
    return tmp_path


def test_shuffling_keeps_every_record(place):
    ids = ids_of(random_list(200))
    a, b, c = (shuffled(ids, 10, np.random.default_rng(seed), place) for seed in (1, 1, 2))
    assert a[:].tolist() == b[:].tolist() != c[:].tolist()
    assert Counter(records_of(a)) == Counter(records_of(ids))
    assert isinstance(a, DiskIds) == (spool.SMALL_BYTES == 64)
    assert not list(place.iterdir())


def test_every_order_is_as_likely(place):
    ids = ids_of("a\nbb\nccc\n" if spool.SMALL_BYTES > 64 else "a\n" + "b" * 90 + "\nccc\n")
    rng = np.random.default_rng(0)
    orders = Counter(
        "".join(r[0] for r in records_of(shuffled(ids, 10, rng, place))) for _ in range(600)
    )
    assert len(orders) == 6 and min(orders.values()) > 60


def stream_texts(streams, epoch):
    """Inputs and targets of each stream over an epoch, as strings."""
    chunks = [streams.chunk(k, epoch) for k in range(streams.num_chunks)]
    x, y = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
    assert x.size == y.size == streams.chars_per_epoch
    return [
        (bytes(x[:, b].tolist()).decode(), bytes(y[:, b].tolist()).decode())
        for b in range(x.shape[1])
    ]


def test_streams_begin_with_records_and_read_nearly_all_of_them(place):
    text = random_list(400)
    streams = RecordStreams(ids_of(text), 5, 13, end_id=10, seed=1, folder=place)
    read = Counter()
    for x, y in stream_texts(streams, 0):
        assert x[0] == "\n" and x[1:] == y[:-1]
        read.update(y.split("\n")[:-1])
    expected = Counter(text.split("\n")[:-1])
    assert sum((expected - read).values()) <= 2 * 5
    assert sum((read - expected).values()) <= 2 * 5


def test_each_epoch_has_an_order_that_depends_on_the_seed_alone():
    ids = ids_of(random_list(100))

    def order(epoch, seed=1, batch_size=1):
        return stream_texts(RecordStreams(ids, batch_size, 7, end_id=10, seed=seed), epoch)

    assert order(0) == order(0) != order(1)
    assert order(0) != order(0, seed=2)
    assert order(0)[0][1] != bytes(ids).decode()
    assert Counter(order(3)[0][1].split("\n")) == Counter(bytes(ids).decode().split("\n"))
    halves = [y for _, y in order(2, batch_size=2)]
    assert order(2)[0][1].startswith(halves[0])
    streams = RecordStreams(ids, 1, 7, end_id=10, seed=1)
    stream_texts(streams, 5)
    assert stream_texts(streams, 0) == order(0)


def test_streams_between_very_long_records_begin_within_one():
    ids = ids_of("a" * 997 + "\n" + "b" * 500 + "\n" + "c\n")
    streams = RecordStreams(ids, 4, 16, end_id=10, seed=0)
    read = stream_texts(streams, 0)
    assert "".join(y for _, y in read).count("a") in range(900, 998)
    assert any(x[0] != "\n" for x, _ in read)
