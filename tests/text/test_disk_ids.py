"""Ids in a file behave like an array and are read part by part."""

import gc
import os
import tempfile

import numpy as np
import pytest

from charrnn.errors import CharRNNError
from charrnn.text.disk_ids import DiskIds


def on_disk(array):
    with tempfile.TemporaryFile() as file:
        file.write(array.tobytes())
        file.flush()
        return DiskIds(file, array.dtype)


@pytest.fixture(params=[np.uint8, np.uint16, np.uint32])
def pair(request):
    """An array and the same ids in a file."""
    array = np.random.default_rng(0).integers(0, 250, 1000).astype(request.param)
    return array, on_disk(array)


@pytest.mark.parametrize("ends", [(0, 1000), (3, 17), (-5, None), (990, 2000), (7, 7), (9, 3)])
def test_a_slice_equals_the_slice_of_the_array(pair, ends):
    array, ids = pair
    assert len(ids) == 1000 and ids.dtype == array.dtype
    part = ids[slice(*ends)]
    assert part.dtype == array.dtype and part.tolist() == array[slice(*ends)].tolist()


def test_single_ids_and_the_whole_array_are_read(pair):
    array, ids = pair
    assert ids[0] == array[0] and ids[999] == array[999] == ids[-1]
    assert (np.asarray(ids) == array).all() and np.asarray(ids, np.int32).dtype == np.int32
    with pytest.raises(IndexError):
        ids[1000]


def test_a_part_of_a_part_outlives_the_whole(pair):
    array, ids = pair
    part = ids.part(100, 900).part(50, 60)
    del ids
    gc.collect()
    assert len(part) == 10 and part[:].tolist() == array[150:160].tolist()
    assert part[5:100].tolist() == array[155:160].tolist()


def test_a_short_read_is_continued(monkeypatch, pair):
    """Linux reads at most 2 GB at a time."""
    array, ids = pair
    pread = os.pread
    monkeypatch.setattr("os.pread", lambda fd, size, at: pread(fd, min(size, 999), at))
    assert ids[1:].tolist() == array[1:].tolist()


def test_a_file_that_cannot_be_read_back_is_an_error(monkeypatch, pair):
    _, ids = pair
    with pytest.raises(CharRNNError, match="cannot read back the text.*ends too soon"):
        ids.part(0, 2000)[:]

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.pread", fail)
    with pytest.raises(CharRNNError, match="Input/output error"):
        ids[:10]


def test_the_file_is_closed_with_its_last_part():
    before = len(os.listdir("/dev/fd"))
    ids = on_disk(np.arange(10))
    part = ids.part(2, 5)
    del ids
    assert len(os.listdir("/dev/fd")) == before + 1 and part[0] == 2
    del part
    gc.collect()
    assert len(os.listdir("/dev/fd")) == before
