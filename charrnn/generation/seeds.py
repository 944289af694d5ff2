"""The random numbers of each text: independent streams, so that seeds may be consecutive."""

from __future__ import annotations

import secrets

import numpy as np


def fresh_seed() -> int:
    """A seed for a text whose user gave none, of 48 random bits: JSON keeps it exactly."""
    return secrets.randbits(48)


def rng_of_text(seed: int, *key: int) -> np.random.Generator:
    """The generator of text `key` of a seed; those of two texts, or two seeds, are independent.

    key: the number of the text. A second number counts further attempts at the same text.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
