"""The n-grams of a training text, compared with a Counter of tuples."""

from collections import Counter

import numpy as np
import pytest

from charrnn.text import ngrams
from charrnn.text.disk_ids import DiskIds
from charrnn.text.ngrams import check_ngrams, count_ngrams

every_order = pytest.mark.parametrize("order", [1, 2, 3, 4])


@pytest.fixture
def low_counts(monkeypatch):
    """Thresholds that a short text reaches."""
    monkeypatch.setattr(ngrams, "MIN_COUNTS", {2: 2, 3: 3, 4: 4})


def markov_text(length, vocab_size, seed=0):
    """Ids of which each depends on the one before, so that some n-grams are frequent."""
    rng = np.random.default_rng(seed)
    follows = rng.integers(0, vocab_size, (vocab_size, 3))
    ids = [0]
    for _ in range(length - 1):
        ids.append(int(follows[ids[-1], min(2, rng.geometric(0.6) - 1)]))
    return np.array(ids[:length], np.uint16)


def counted(pieces, order, min_counts, max_ngrams):
    """The table, as lists of tuples: the frequent n-grams of which the beginning is known, too."""
    known, table = None, []
    for n in range(2, order + 1):
        counts = Counter()
        for ids in pieces(n):
            counts.update(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))
        frequent = [g for g, count in counts.items() if count >= min_counts[n]]
        frequent = [g for g in frequent if known is None or g[:-1] in known]
        frequent.sort(key=lambda g: (-counts[g], g))
        table.append(sorted(frequent[:max_ngrams]))
        known = set(table[-1])
    return table


def tables_equal(table, expected):
    assert all(a.dtype == np.int32 and a.shape[1:] == (n,) for n, a in enumerate(table, 2))
    return [[tuple(ngram) for ngram in level.tolist()] for level in table] == expected


@every_order
@pytest.mark.parametrize("vocab_size", [1, 2, 7, 90])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 3000])
def test_counts_equal_a_counter_of_tuples(order, vocab_size, length, low_counts):
    ids = markov_text(length, vocab_size)
    table = count_ngrams(ids, vocab_size, order)
    expected = counted(lambda n: [ids.tolist()], order, ngrams.MIN_COUNTS, ngrams.MAX_NGRAMS)
    assert tables_equal(table, expected)
    assert length < 3000 or all(len(level) for level in table)
    check_ngrams(table, vocab_size)


def test_thresholds_by_length_are_reached_exactly(monkeypatch):
    """One occurrence fewer, and the n-gram is unknown; so are those that it begins."""
    monkeypatch.setattr(ngrams, "MIN_COUNTS", {2: 2, 3: 5, 4: 7})
    for count in 1, 2, 4, 5, 6, 7:
        ids = np.array([0, 1, 2, 3, *([4, 5, 6, 7] * count)], np.uint8)[4:]
        table = count_ngrams(ids, 8, 4)
        assert ((4, 5) in map(tuple, table[0].tolist())) == (count >= 2)
        assert ((4, 5, 6) in map(tuple, table[1].tolist())) == (count >= 5)
        assert ((4, 5, 6, 7) in map(tuple, table[2].tolist())) == (count >= 7)


def test_a_long_ngram_needs_its_beginning_but_not_its_end(monkeypatch):
    monkeypatch.setattr(ngrams, "MIN_COUNTS", {2: 5, 3: 2, 4: 2})
    ids = np.array([0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 0, 1, 2, 3], np.uint8)
    assert tables_equal(count_ngrams(ids, 4, 4), [[(0, 1)], [(0, 1, 0), (0, 1, 2)], [
        (0, 1, 0, 1), (0, 1, 2, 3)]])  # fmt: skip


@pytest.mark.parametrize("limit", [1, 5, 17])
def test_the_most_frequent_are_kept_and_ties_in_order(monkeypatch, low_counts, limit):
    monkeypatch.setattr(ngrams, "MAX_NGRAMS", limit)
    rng = np.random.default_rng(1)
    for ids in markov_text(2000, 9), rng.integers(0, 9, 2000).astype(np.uint8):
        table = count_ngrams(ids, 9, 4)
        expected = counted(lambda n, ids=ids: [ids.tolist()], 4, ngrams.MIN_COUNTS, limit)
        assert tables_equal(table, expected) and len(table[0]) == limit


@pytest.mark.parametrize("piece", [1, 2, 3, 4, 5, 64, 999, 1000, 1001])
def test_pieces_count_as_one_text(monkeypatch, low_counts, piece):
    ids = markov_text(1000, 7)
    whole = count_ngrams(ids, 7, 4)
    monkeypatch.setattr(ngrams, "PIECE", piece)
    for level, expected in zip(count_ngrams(ids, 7, 4), whole, strict=True):
        np.testing.assert_array_equal(level, expected)


def test_ids_on_disk_count_as_those_in_memory(monkeypatch, low_counts, tmp_path):
    ids = markov_text(3000, 7)
    (tmp_path / "ids").write_bytes(ids.tobytes())
    monkeypatch.setattr(ngrams, "PIECE", 700)
    with open(tmp_path / "ids", "rb") as file:
        on_disk = DiskIds(file, ids.dtype)
        tables = count_ngrams(on_disk, 7, 4), count_ngrams(on_disk[100:], 7, 4)
    for table, expected in zip(tables, (ids, ids[100:]), strict=True):
        for level, other in zip(table, count_ngrams(expected, 7, 4), strict=True):
            np.testing.assert_array_equal(level, other)


def test_of_a_long_text_pieces_are_read_that_are_spread_over_it(monkeypatch, low_counts):
    """The ids before a piece belong to its n-grams, as those of its beginning."""
    monkeypatch.setattr(ngrams, "PIECE", 100)
    monkeypatch.setattr(ngrams, "MAX_COUNTED", 400)
    ids = markov_text(1050, 7)
    starts = [0, 200, 500, 800]  # pieces 0, 2, 5 and 8 of 11

    def pieces(n):
        return [ids[max(0, start - n + 1) : start + 100].tolist() for start in starts]

    expected = counted(pieces, 4, ngrams.MIN_COUNTS, ngrams.MAX_NGRAMS)
    assert tables_equal(count_ngrams(ids, 7, 4), expected)


def test_the_rarest_are_dropped_when_there_are_too_many_different_ones(monkeypatch):
    """The frequent ones are found all the same."""
    monkeypatch.setattr(ngrams, "MIN_COUNTS", {2: 30})
    monkeypatch.setattr(ngrams, "MAX_DISTINCT", 64)
    monkeypatch.setattr(ngrams, "PIECE", 50)
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 200, 4000).astype(np.uint8)
    ids[::10], ids[1::10] = 7, 8
    table = count_ngrams(ids, 200, 2)
    expected = counted(lambda n: [ids.tolist()], 2, {2: 30}, ngrams.MAX_NGRAMS)
    assert expected == [[(7, 8)]] and tables_equal(table, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_equal_texts_have_equal_tables(dtype, low_counts):
    ids = markov_text(2000, 11)
    first, second = count_ngrams(ids, 11, 3), count_ngrams(ids.astype(dtype), 11, 3)
    for level, other in zip(first, second, strict=True):
        assert level.dtype == other.dtype == np.int32
        np.testing.assert_array_equal(level, other)


def test_ids_of_the_largest_vocabulary_do_not_overflow(low_counts):
    size = 1_112_064
    ids = np.array([size - 1, size - 2] * 20, np.int32)
    a, b = size - 2, size - 1
    assert tables_equal(count_ngrams(ids, size, 4), [
        [(a, b), (b, a)], [(a, b, a), (b, a, b)], [(a, b, a, b), (b, a, b, a)]])  # fmt: skip


# --- tables of files

VALID = [[0, 0], [0, 1], [2, 1]], [[0, 0, 2], [0, 1, 1], [2, 1, 0]], [[2, 1, 0, 2]]


def arrays(*levels):
    return tuple(np.array(level, np.int32).reshape(-1, n) for n, level in enumerate(levels, 2))


def test_a_valid_table_is_accepted():
    check_ngrams(arrays(*VALID), 3)
    check_ngrams((), 3)
    check_ngrams(arrays([], [], []), 3)
    check_ngrams(arrays([[0, 0]], []), 1)


@pytest.mark.parametrize(
    "levels",
    [
        ([[0, 1], [0, 0]],),
        ([[1, 0], [0, 1]],),
        ([[0, 0], [0, 0]],),
        ([[0, 3]],),
        ([[3, 0]],),
        ([[0, -1]],),
        ([[-1, 0]],),
        ([[1, -1]],),  # -1 after 1 has the code of 2 after 0
        ([[0, 2]], [[1, -1, 0]]),
        ([[0, 2]], [[0, 5, 0]]),
        ([], [[0, 0, 0]]),
        ([[0, 0]], [[0, 1, 0]]),
        ([[0, 0]], [[1, 0, 0]]),
        ([[0, 0]], [[0, 0, 1], [0, 0, 0]]),
        ([[0, 0]], [[0, 0, 1], [0, 0, 1]]),
        ([[0, 0]], [[0, 0, 3]]),
        ([[0, 0]], [[0, 0, -1]]),
        ([[0, 0]], [], [[0, 0, 0, 0]]),
        ([[0, 0]], [[0, 0, 0]], [[0, 0, 1, 0]]),
        ([[2**31 - 1, 2**31 - 1]],),
    ],
    ids=str,
)
def test_impossible_tables_are_refused(levels):
    with pytest.raises(ValueError, match="n-grams"):
        check_ngrams(arrays(*levels), 3)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_ngrams_do_not_reach_over_the_end_of_a_record(order):
    """Those within records and at their beginning have the counts of the whole text."""
    rng = np.random.default_rng(order)
    ids = np.append(rng.choice(4, 20000, p=[0.3, 0.3, 0.2, 0.2]), [2] * 50).astype(np.int32)
    found = count_ngrams(ids, 4, order, 2)
    everything = count_ngrams(ids, 4, order)
    assert len(found) == len(everything) == order - 1
    for own, others in zip(found, everything, strict=True):
        within = others[(others[:, 1:] != 2).all(axis=1)]
        np.testing.assert_array_equal(own, within)
        assert 0 < len(own) < len(others) and (own[:, 0] == 2).any()
    check_ngrams(found, 4, 2)
    with pytest.raises(ValueError, match="over the end of a record"):
        check_ngrams(everything, 4, 2)
