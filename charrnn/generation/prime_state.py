"""A prime that is read once and continued many times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..network.carried_state import CarriedState
from ..network.model import Model
from ..network.start import LONG_PRIME, TextStart
from ..text.reversal import reading_order
from .primes import ReadPrime, read_primes
from .sampler import PENALTY_WINDOW


@dataclass(frozen=True, eq=False)
class PrimeState:
    """The state of a model after a text, as of `LanguageModel.state`.

    text: the whole text that was read. mid_line: whether it continues a line.
    start: where it starts. read: after it, for each state that it may start from.
    """

    model: Model
    text: str
    mid_line: bool
    start: TextStart
    read: tuple[ReadPrime, ...]


def read_prime(
    model: Model, text: str, ids: np.ndarray, start: TextStart, mid_line: bool
) -> PrimeState:
    """Read `text`, whose ids (n,) are `ids`, from each state of `start` that it may start from."""
    states = (start.first if len(ids) >= LONG_PRIME else start).states
    read = read_primes(model, [start.prepend(ids)] * states.rows, states)
    return PrimeState(model, text, mid_line, start, tuple(read))


def read_on(state: PrimeState, text: str, ids: np.ndarray) -> PrimeState:
    """Read `text`, whose ids (n,) are `ids`, after the text of `state`; backwards, before it."""
    states = CarriedState.joined([old.state for old in state.read])
    texts = [np.concatenate([old.ids[-1:], ids]).astype(np.int32) for old in state.read]
    read = (
        new._replace(ids=np.concatenate([old.ids[-PENALTY_WINDOW:], ids]).astype(np.int32))
        for old, new in zip(state.read, read_primes(state.model, texts, states), strict=True)
    )
    parts = [state.text, text][reading_order(state.model.config.backward)]
    return PrimeState(state.model, "".join(parts), state.mid_line, state.start, tuple(read))
