"""Ranks: the processes that train one model together, and what they say to each other."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import CharRNNError
from ..network.cores import core_ids, within_quota

END = "end"  # the call with which rank 0 lets the others end

Value = TypeVar("Value")


class Ranks(ABC):
    """`size` processes, of which this one is number `rank`. All ranks call each method together.

    Rank 0 leads: it reads the text, plans, reports and writes.
    """

    rank: int
    size: int

    @abstractmethod
    def broadcast(self, value: Any) -> Any:
        """Return the `value` of rank 0."""

    @abstractmethod
    def gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks, in their order."""

    @abstractmethod
    def sum_(self, array: npt.NDArray[np.float32]) -> None:
        """Replace `array` (n,) by the sum over all ranks, added in their order.

        The result has the same bits on all ranks, and again in each run of as many ranks.
        """

    @abstractmethod
    def abort_at_exit(self) -> None:
        """End all ranks when this process exits: it has failed and leaves the others waiting."""


class OneRank(Ranks):
    """A process that trains alone."""

    rank, size = 0, 1

    def broadcast(self, value: Any) -> Any:
        return value

    def gather(self, value: Value) -> list[Value]:
        return [value]

    def sum_(self, array: npt.NDArray[np.float32]) -> None:
        pass

    def abort_at_exit(self) -> None:
        pass


ONE_RANK = OneRank()


@contextmanager
def leading(ranks: Ranks) -> Iterator[None]:
    """The work of rank 0. Afterwards the others end, even if it fails."""
    try:
        yield
    except CharRNNError:  # raised between two calls, while the others wait for the next one
        _end(ranks)
        raise
    except BaseException:
        ranks.abort_at_exit()
        raise
    _end(ranks)


def _end(ranks: Ranks) -> None:
    ranks.broadcast((END, ()))


def difference(ranks: Ranks, options: Mapping[str, Any]) -> str | None:
    """Return, on all ranks, a sentence on the first rank with other `options` than rank 0's."""
    first, *others = ranks.gather(dict(options))
    for rank, other in enumerate(others, 1):
        for name in first | other:
            values = other.get(name, "unset"), first.get(name, "unset")
            if values[0] != values[1]:
                return (
                    f"rank {rank} has {name} {values[0]}, rank 0 has {values[1]}: start all ranks "
                    "with the same options and version."
                )
    return None


def threads_of_rank(ranks: Ranks) -> int:
    """The cores of this machine, shared evenly by its ranks, whichever each one is bound to."""
    machine = platform.node()
    on_machine = [ids for name, ids in ranks.gather((machine, core_ids())) if name == machine]
    return max(1, within_quota(len(frozenset().union(*on_machine))) // len(on_machine))
