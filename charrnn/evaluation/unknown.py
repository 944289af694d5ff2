"""Surprisals of characters that a model does not know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import CharRNNError
from ..text.corpus import Corpus

BLOCK = 1 << 18  # ids compared at a time


def count_nats(training: Mapping[str, Any]) -> float:
    """Return the surprisal of a character that a model has never met, log(n + 1) in nats.

    A character that it met once, as the last of n + 1, would have that share of its training text.
    `training` is the history of a model file, which may be from anyone. Raises CharRNNError if it
    does not tell n, the characters of an epoch or those read until then.
    """
    characters, epochs = training.get("characters", 0), training.get("epochs", "")
    if type(characters) is int and type(epochs) in (int, float) and 0 < characters < 2**63:
        num_distinct = characters / max(epochs, 1)
        if math.isfinite(num_distinct):
            return math.log1p(num_distinct)
    raise CharRNNError(
        "the model file does not tell how many characters the model has learned from: "
        "give --unknown skip."
    )


def num_unknown(text: Corpus) -> int:
    """Return how many characters of `text` are skipped or read as the unknown symbol."""
    unknown_id = text.vocabulary.unknown_id
    blocks = (text.ids[i : i + BLOCK] for i in range(0, len(text.ids), BLOCK))
    return text.num_skipped + sum(int(np.count_nonzero(ids == unknown_id)) for ids in blocks)
