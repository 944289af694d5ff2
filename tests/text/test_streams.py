"""The validation split, the batch shape, and the streams that training reads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.errors import CharRNNError, UsageError
from charrnn.text import spool
from charrnn.text.corpus import read_corpus
from charrnn.text.disk_ids import DiskIds
from charrnn.text.streams import BatchStreams, clamp_batch_shape, split


@pytest.mark.parametrize(
    ("n", "fraction", "num_val"),
    [(100, 0, 0), (100, 0.1, 10), (109, 0.1, 10), (19, 0.1, 0), (20, 0.1, 2), (3, 0.99, 2)],
)
def test_the_validation_text_is_the_end_of_the_text(n, fraction, num_val):
    train, val = split(np.arange(n), fraction)
    assert train.tolist() == list(range(n - num_val))
    assert val.tolist() == list(range(n - num_val, n))


@pytest.mark.parametrize("fraction", [-0.1, 1, 2, float("nan"), float("inf")])
def test_impossible_validation_fractions_are_usage_errors(fraction):
    with pytest.raises(UsageError, match="validation fraction"):
        split(np.arange(10), fraction)


@pytest.mark.parametrize(
    ("n", "clamped"),
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
def test_clamping_reduces_the_batch_and_then_the_sequence(n, clamped):
    assert clamp_batch_shape(n, 50, 50) == clamped


@pytest.mark.parametrize("n", [0, 1])
def test_clamping_refuses_a_text_that_predicts_nothing(n):
    with pytest.raises(CharRNNError, match="too short"):
        clamp_batch_shape(n, 50, 50)


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 5000), st.integers(1, 100), st.integers(1, 100))
def test_a_clamped_shape_gives_four_chunks_unless_the_text_is_shorter(n, batch_size, seq_length):
    clamped = clamp_batch_shape(n, batch_size, seq_length)
    assert 1 <= clamped[0] <= batch_size
    assert 1 <= clamped[1] <= seq_length
    assert BatchStreams(np.zeros(n, np.uint8), *clamped).num_chunks >= min(4, n - 1)


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


def test_ids_in_a_file_are_split_and_streamed_like_ids_in_memory(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes("plain\r\nline\0 é 日本語 🙂\n".encode() * 9)
    in_memory = read_corpus(path)
    monkeypatch.setattr(spool, "SMALL_BYTES", 1)
    in_file = read_corpus(path, folder=tmp_path)
    assert isinstance(in_file.ids, DiskIds)
    for whole, part in zip(split(in_memory.ids, 0.3), split(in_file.ids, 0.3), strict=True):
        assert part[:].tolist() == whole.tolist()
        streams = BatchStreams(whole, 3, 5), BatchStreams(part, 3, 5)
        for k in range(streams[0].num_chunks):
            for a, b in zip(*(s.chunk(k) for s in streams), strict=True):
                assert type(b) is np.ndarray and a.tolist() == b.tolist()
