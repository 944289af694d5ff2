"""New text as ids: the model's own predictions, drawn one after the other and fed back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .kernels.draw import draw_rows
from .model import Model, Stack

PRIME_STEPS = 64  # characters of a prime that are fed at a time


def generate(
    model: Model,
    prime: np.ndarray,
    rngs: np.random.Generator | Sequence[np.random.Generator],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Iterator:
    """Ids without end that continue `prime` (at least one id), which is fed but not given back.

    For one generator of random numbers an int at a time; for a sequence of N, which write N texts
    side by side, an array (N,). Each text takes one number a character from its own generator and
    is the text it would be alone: rng.choice(V, p=p), p = softmax(logits / temperature) cut to
    the top_k likeliest (0: all) and then to the likeliest that reach probability top_p.
    temperature 0: always the likeliest.
    """
    if isinstance(rngs, np.random.Generator):
        return (
            int(ids[0]) for ids in generate_rows(model, prime, [rngs], temperature, top_k, top_p)
        )
    return generate_rows(model, prime, rngs, temperature, top_k, top_p)


def generate_rows(model, prime, rngs, temperature, top_k, top_p) -> Iterator[np.ndarray]:
    stack = Stack(model, len(rngs), 1)
    stack.set_state(_after(model, prime[:-1]).repeat(len(rngs), axis=2))
    ids = np.full((1, len(rngs)), prime[-1], np.int32)
    vocab_size = model.config.vocab_size
    while True:
        stack.forward(ids)
        stack.carry(1)
        u = np.array([rng.random() for rng in rngs])
        logits = stack.logits[:, :, :vocab_size]
        draw_rows(logits, float(temperature), top_k, float(top_p), u, ids)
        yield ids[0].copy()


def _after(model: Model, ids: np.ndarray) -> np.ndarray:
    """The state (L, S, 1, H) after reading ids from a zero state."""
    stack = Stack(model, 1, PRIME_STEPS)
    for start in range(0, len(ids), PRIME_STEPS):
        chunk = np.ascontiguousarray(ids[start : start + PRIME_STEPS], np.int32)[:, None]
        stack.forward(chunk)
        stack.carry(len(chunk))
    return stack.get_state()
