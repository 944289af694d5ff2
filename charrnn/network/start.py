"""Where texts start: the states that a model is in at the ends of lines of its training text."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .arrays import Array
from .carried_state import CarriedState

LONG_PRIME = 256  # ids of a prime after which it no longer matters which state was before it


class TextStart(NamedTuple):
    """Where a text starts: `ids` are read from one of `states`, then the text.

    states: before the ends of K lines, one per row.
    ids: the line end, (1,); or none, (0,), so that the first id of a text is not predicted.
    """

    states: CarriedState
    ids: Array

    @property
    def first(self) -> TextStart:
        """The start of results that do not depend on a seed."""
        return self.select([0])

    def select(self, indices: list[int]) -> TextStart:
        return self._replace(states=self.states.select(indices))

    def draw(self, rng: np.random.Generator, prime_length: int) -> int:
        """Draw the number of the state that a text starts from. Of one state, nothing is drawn."""
        return 0 if prime_length >= LONG_PRIME else int(rng.integers(self.states.rows))

    def drawn(self, rng: np.random.Generator, prime_length: int) -> TextStart:
        """The start of one text, with the state that `draw` gives."""
        return self.select([self.draw(rng, prime_length)])

    def prepend(self, prime: Array) -> Array:
        """The ids to read from a state for `prime` (n,), whose first id may be the line end."""
        skipped = len(self.ids) if np.array_equal(prime[:1], self.ids) else 0
        return np.concatenate([self.ids[skipped:], prime]).astype(np.int32)
