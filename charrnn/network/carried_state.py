"""What the rows of a stack carry from one chunk to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .arrays import Array


class CarriedState(NamedTuple):
    """What N rows carry from one chunk to the next.

    hidden: the states of the layers, (L, S, N, H).
    recent: the last ids of each row, (n - 1, N) int32 for n-grams of up to n ids, the latest last;
        -1 where the row has had no id.
    """

    hidden: Array
    recent: Array

    @property
    def rows(self) -> int:
        """N, the number of rows."""
        return int(self.hidden.shape[2])

    def select(self, rows: list[int] | slice) -> CarriedState:
        """The state of some of the rows."""
        return CarriedState(self.hidden[:, :, rows], self.recent[:, rows])

    def repeat(self, count: int) -> CarriedState:
        """Every row `count` times."""
        return CarriedState(self.hidden.repeat(count, axis=2), self.recent.repeat(count, axis=1))

    @staticmethod
    def joined(states: Sequence[CarriedState]) -> CarriedState:
        """The rows of all states, one state after another."""
        hidden = np.concatenate([state.hidden for state in states], axis=2)
        return CarriedState(hidden, np.concatenate([state.recent for state in states], axis=1))

    def equals(self, other: CarriedState) -> bool:
        """Whether all rows are the same."""
        return np.array_equal(self.hidden, other.hidden) and np.array_equal(
            self.recent, other.recent
        )
