"""Reading primes, of different lengths at once, up to the state that their last id follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..arithmetic import ceil_div
from ..network.arrays import Workspace
from ..network.carried_state import CarriedState
from ..network.model import Model
from ..network.stack import Stack
from ..network.start import TextStart

PRIME_STEPS = 64  # characters of a prime per forward pass
PRIME_IDS = 512  # characters of all primes per forward pass, if that is 8 of each or more
PRIME_LOGITS = 1 << 22  # maximum number of logits of such a pass: a large vocabulary shortens it

_Ids = npt.NDArray[np.int32]


class ReadPrime(NamedTuple):
    """A prime that is read up to its last id: its `ids` (n,), n >= 1, and the state before it."""

    ids: _Ids
    state: CarriedState  # of one row


class PrimeReader:
    """Reads the primes of texts from the states that the texts start from.

    primes: ids (n,) of the prime of each text, or of the one prime of all texts.
    start: where the texts start. read: the one prime from each state of `start`, if it is read.
    """

    def __init__(
        self,
        model: Model,
        primes: Sequence[np.ndarray],
        start: TextStart,
        read: Sequence[ReadPrime] = (),
    ) -> None:
        self._model, self._primes, self.start = model, primes, start
        # By the numbers of prime and state.
        self._read: dict[tuple[int, int], ReadPrime] = {(0, k): r for k, r in enumerate(read)}

    def draw(self, number: int, rng: np.random.Generator) -> int:
        """Draw the state that text `number` starts from."""
        return self.start.draw(rng, len(self._primes[self._place(number)]))

    def read(self, numbers: Sequence[int], states: Sequence[int]) -> Iterator[ReadPrime]:
        """Read the primes of the texts `numbers`, each from the state with this number."""
        wanted = list(zip(map(self._place, numbers), states, strict=True))
        if len(self._primes) > 1:  # each is read once
            self._read.clear()
        if new := list(dict.fromkeys(key for key in wanted if key not in self._read)):
            primes = [self.start.prepend(self._primes[p]) for p, _ in new]
            found = read_primes(self._model, primes, self.start.states.select([k for _, k in new]))
            self._read |= zip(new, found, strict=True)
        return (self._read[key] for key in wanted)

    def _place(self, number: int) -> int:
        """The place of the prime of text `number`."""
        return number if len(self._primes) > 1 else 0


def read_primes(model: Model, primes: Sequence[_Ids], states: CarriedState) -> list[ReadPrime]:
    """Read primes of any lengths (n,), n >= 1, from `states`, which have a row for each."""
    by_chunks: dict[int, list[int]] = {}  # together, those that need as many chunks
    for row, prime in enumerate(primes):
        by_chunks.setdefault(ceil_div(len(prime) - 1, PRIME_STEPS), []).append(row)
    read: dict[int, ReadPrime] = {}
    for rows in by_chunks.values():
        after = states_after(model, [primes[row][:-1] for row in rows], states.select(rows))
        read |= {row: ReadPrime(primes[row], after.select([n])) for n, row in enumerate(rows)}
    return [read[row] for row in range(len(primes))]


def states_after(
    model: Model, texts: Sequence[_Ids], states: CarriedState, workspace: Workspace | None = None
) -> CarriedState:
    """The states after reading the ids (n,) of each text from its row of `states`.

    `workspace` is as of Stack.
    """
    lengths = np.array([len(ids) for ids in texts])
    x = np.zeros((lengths.max(), len(texts)), np.int32)
    for row, ids in enumerate(texts):
        x[: len(ids), row] = ids
    steps = max(8, min(PRIME_STEPS, PRIME_IDS // len(texts)))
    steps = max(1, min(steps, PRIME_LOGITS // (len(texts) * model.config.vocab_size)))
    stack = Stack(model, len(texts), steps, workspace=workspace)
    stack.set_state(states)
    for first in range(0, len(x), steps):
        chunk = x[first : first + steps]
        stack.forward(chunk)
        stack.advance_rows(np.clip(lengths - first, 0, len(chunk)))  # a text that was read waits
    return stack.get_state()
