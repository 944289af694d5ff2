"""Novelty of lists, compared with sets of strings."""

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.evaluation import record_novelty
from charrnn.evaluation.record_novelty import (
    RecordNovelty,
    compare_records,
    corpus_records,
    is_list,
    split_records,
)
from charrnn.text.corpus import read_corpus

RECORDS = st.lists(st.text("ab\n", max_size=3), max_size=30)


@settings(deadline=None, max_examples=60)
@given(RECORDS, RECORDS, st.sampled_from([1, 3, 1 << 16]))
def test_records_are_counted_as_by_sets(records, corpus, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_novelty, "BLOCK", block)
        found = compare_records(iter(records), iter(corpus))
    counts = Counter(records)
    assert found == RecordNovelty(
        records=len(records),
        different=len(counts),
        repeated=sum(n for n in counts.values() if n > 1),
        in_corpus=sum(record in set(corpus) for record in records),
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(["a", "%", "%%", "\n", "\r\n", "é"]), max_size=20),
    st.sampled_from(["\n", "%%\n", "%", "a%"]),
    st.integers(1, 30),
)
def test_pieces_of_a_text_split_into_its_records(words, separator, size):
    text = "".join(words)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    expected = text.split(separator)
    if separator == "\n":
        expected = [record.removesuffix("\r") for record in expected]
    assert list(split_records(pieces, separator)) == [record for record in expected if record]


def test_a_text_without_separators_takes_linear_time_and_memory():
    pieces = ["x" * 1000] * 4000
    tracemalloc.start()
    assert [len(record) for record in split_records(iter(pieces))] == [4_000_000]
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 16])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_records_end_with_their_file(tmp_path, monkeypatch, block, as_bytes):
    monkeypatch.setattr(record_novelty, "BLOCK", block)
    (tmp_path / "a").write_bytes("anna\r\nbér\n\nlast".encode())
    (tmp_path / "b").write_bytes(b"first\nend")
    corpus = read_corpus([tmp_path / "a", tmp_path / "b"], join=False, as_bytes=as_bytes)
    expected = ["anna", "bér", "last", "first", "end"]
    if as_bytes:
        expected = [record.encode().decode("latin-1") for record in expected]
    assert list(corpus_records(corpus)) == expected


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (["anna", "ben"] * 5, True),
        (["anna"] * 9, False),
        (["x" * 19] * 6 + ["x" * 500] * 5, True),
        (["x" * 19] * 5 + ["x" * 20] * 6, False),
        ([], False),
    ],
)
def test_a_list_has_short_records(records, found):
    assert is_list(iter(records)) == found


def test_memory_depends_on_the_list_and_not_on_the_corpus(monkeypatch):
    monkeypatch.setattr(record_novelty, "BLOCK", 500)

    def peak(count):
        tracemalloc.start()
        found = compare_records(map(str, range(100)), map(str, range(count)))
        assert found == RecordNovelty(100, 100, 0, 100)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(20_000) < 1.2 * peak(5_000)
