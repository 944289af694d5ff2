"""Ranks that are threads of one process, to test without MPI what ranks do."""

import threading

from charrnn.training.data_parallel import follow
from charrnn.training.ranks import Ranks, leading


class ThreadRanks(Ranks):
    """One of `size` threads. `shared` are a barrier and a list with a place per rank."""

    def __init__(self, rank, size, shared):
        self.rank, self.size = rank, size
        self._barrier, self._places = shared
        self.has_aborted = False

    def gather(self, value):
        self._places[self.rank] = value
        self._barrier.wait(timeout=60)
        values = list(self._places)
        self._barrier.wait(timeout=60)
        return values

    def broadcast(self, value):
        return self.gather(value)[0]

    def sum_(self, array):
        first, *others = self.gather(array.copy())
        array[:] = first
        for other in others:
            array += other

    def abort_at_exit(self):
        self.has_aborted = True
        self._barrier.abort()


def make_ranks(size):
    shared = threading.Barrier(size), [None] * size
    return [ThreadRanks(rank, size, shared) for rank in range(size)]


def with_followers(size, lead):
    """Call `lead(ranks)` as rank 0 of `size` threads; returns its result."""
    ranks, *others = make_ranks(size)
    threads = [threading.Thread(target=follow, args=(other, 1)) for other in others]
    for thread in threads:
        thread.start()
    try:
        with leading(ranks):
            return lead(ranks)
    finally:
        for thread in threads:
            thread.join(60)
