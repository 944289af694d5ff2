"""What a text costs those that only count, or only compress: numbers to hold a model against.

Both learn from the training text and then predict the held-out text, which follows upon it.
"""

from __future__ import annotations

import lzma
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..text.vocabulary import Vocabulary

ORDERS = range(6)  # characters of context that n-grams are tried with
LEAST_CHARS = 200  # held out; of fewer the numbers would be noise
# So that even of a large text they are known in about a second:
NGRAM_CHARS = 3_000_000  # at most so many are counted, those next to the held-out text,
XZ_BYTES = 1_000_000  # so many bytes compressed before it,
HELD_OUT_CHARS = 500_000  # and so many measured, as by the validation of a run
# As xz -9, for its window holds all of the text, in less memory; without the container, which is
# padded.
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 22}]


@dataclass(frozen=True)
class Baselines:
    """What the held-out text costs without a network, in nats per character."""

    order: int  # of the best n-gram: how many characters it looks back
    ngram: float  # its loss
    xz: float
    counted: int  # characters the n-gram has learned from
    held_out: int  # characters measured
    bounded: bool  # whether one of the texts was longer than what is used of it


def baselines(
    train_ids: np.ndarray, held_out_ids: np.ndarray, vocabulary: Vocabulary
) -> Baselines | None:
    """The losses of the best n-gram and of xz; None for fewer than LEAST_CHARS held out."""
    if len(held_out_ids) < LEAST_CHARS:
        return None
    held_out = held_out_ids[:HELD_OUT_CHARS]
    with ThreadPoolExecutor(2) as threads:  # lzma leaves them to run beside one another
        before = vocabulary.to_utf8(train_ids[-XZ_BYTES:])[-XZ_BYTES:]
        texts = before, before + vocabulary.to_utf8(held_out)
        sizes = [threads.submit(lzma.compress, text, lzma.FORMAT_RAW, filters=XZ) for text in texts]
        counted = train_ids[-NGRAM_CHARS:]
        losses = ngram_losses(counted, held_out, len(vocabulary))
        alone, together = (len(size.result()) for size in sizes)
    order = int(np.argmin(losses))
    return Baselines(
        order=order,
        ngram=losses[order],
        xz=max(0, together - alone) * 8 * math.log(2) / len(held_out),
        counted=len(counted),
        held_out=len(held_out),
        bounded=len(counted) < len(train_ids) or len(held_out) < len(held_out_ids),
    )


def ngram_losses(train_ids: np.ndarray, held_out_ids: np.ndarray, vocab_size: int) -> list[float]:
    """Nats per character of the held-out text, under an n-gram of each order of ORDERS.

    Interpolated as by Witten and Bell (1991; method C of Bell, Cleary and Witten 1990):

        p_k(x | c) = (n(c x) + t(c) p_{k-1}(x | c')) / (n(c) + t(c))

    with c the k characters before x, c' all of them but the first; n(c x) counts how often x
    followed c in the training text, n(c) how often anything did, t(c) how many different
    characters did. Where c never occurred, p_k is p_{k-1}; p_{-1} is 1 / vocab_size.
    """
    # Contexts and n-grams are numbered over both texts, so that nothing need be looked up.
    ids = np.concatenate([train_ids, held_out_ids]).astype(np.int32)
    n = len(train_ids)
    p = np.full(len(held_out_ids), 1 / vocab_size)
    contexts, num_contexts = np.zeros(len(ids), np.int32), 1
    losses = []
    for _ in ORDERS:
        grams, num_grams = _numbered(contexts, ids, num_contexts, vocab_size)
        counts = np.bincount(grams[:n], minlength=num_grams)
        context_of = np.empty(num_grams, np.int32)
        context_of[grams] = contexts
        total = np.bincount(contexts[:n], minlength=num_contexts)[contexts[n:]]
        different = np.bincount(context_of[counts > 0], minlength=num_contexts)[contexts[n:]]
        mixed = (counts[grams[n:]] + different * p) / np.maximum(total + different, 1)
        p = np.where(total > 0, mixed, p)
        losses.append(float(0.0 - np.log(p).mean()))
        # The context of the next order ends with the character before; the first has a context
        # of its own, that of the beginning, which never comes again.
        contexts = np.concatenate([[num_grams], grams[:-1]]).astype(np.int32)
        num_contexts = num_grams + 1
    return losses


def _numbered(
    contexts: np.ndarray, ids: np.ndarray, num_contexts: int, vocab_size: int
) -> tuple[np.ndarray, int]:
    """A number for each (context, id), int32, equal pairs alike; and how many there are."""
    pairs = contexts.astype(np.int64) * vocab_size + ids
    if num_contexts * vocab_size > 4 * len(ids):  # no room for a table of all possible pairs
        distinct, numbers = np.unique(pairs, return_inverse=True)
        return numbers.astype(np.int32), len(distinct)
    occurs = np.zeros(num_contexts * vocab_size, bool)
    occurs[pairs] = True
    numbers = np.cumsum(occurs, dtype=np.int32)
    return numbers[pairs] - 1, int(numbers[-1])
