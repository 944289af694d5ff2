"""Baselines without a network: the cross-entropy of a text under an n-gram and under xz.

Both learn from the training text and then predict the text that follows it, the evaluated text.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..text.disk_ids import Ids
from ..text.vocabulary import Vocabulary

try:
    import lzma
except ImportError:  # Python was built without it, as happens on macOS
    lzma = None  # type: ignore[assignment]

NGRAM_ORDERS = range(6)  # characters of context of the n-grams compared
MIN_EVAL_CHARS = 200  # the losses of a shorter evaluated text would be noise
# These limits bound the time to about a second for texts of any size:
NGRAM_CHARS = 3_000_000  # last characters of the training text that n-grams are counted in
XZ_BYTES = 1_000_000  # last bytes of the training text that xz compresses
EVAL_CHARS = 500_000  # first characters of the evaluated text
# Equivalent to xz -9, since its window holds all of the text, with less memory. The raw format has
# no container, which would be padded.
XZ = {"preset": 9, "dict_size": 1 << 22}


@dataclass(frozen=True)
class Baselines:
    """The losses of the baselines on the evaluated text, in nats per character."""

    order: int  # of the best n-gram: characters of context
    ngram: float  # its loss
    xz: float | None  # None: this Python cannot compress with xz
    train_chars: int  # characters the n-grams are counted in
    eval_chars: int  # characters evaluated
    truncated: bool  # whether a limit cut one of the texts


def baselines(
    train_ids: Ids, eval_ids: Ids, vocabulary: Vocabulary, record_end_id: int = -1
) -> Baselines | None:
    """Return the losses of the best n-gram and of xz; None for fewer than MIN_EVAL_CHARS.

    In records, which `record_end_id` ends, the contexts of n-grams begin with the record.
    """
    if len(eval_ids) < MIN_EVAL_CHARS:
        return None
    evaluated = eval_ids[:EVAL_CHARS]
    with ThreadPoolExecutor(2) as threads:  # lzma releases the GIL
        before = vocabulary.to_utf8(train_ids[-XZ_BYTES:])[-XZ_BYTES:]
        texts = before, before + vocabulary.to_utf8(evaluated)
        sizes = [threads.submit(_xz_size, text) for text in texts] if lzma else []
        counted = train_ids[-NGRAM_CHARS:]
        losses = ngram_losses(counted, evaluated, len(vocabulary), record_end_id)
    xz = None
    if sizes:
        size_before, size_of_both = (size.result() for size in sizes)
        xz = max(0, size_of_both - size_before) * 8 * math.log(2) / len(evaluated)
    order = int(np.argmin(losses))
    return Baselines(
        order=order,
        ngram=losses[order],
        xz=xz,
        train_chars=len(counted),
        eval_chars=len(evaluated),
        truncated=len(counted) < len(train_ids) or len(evaluated) < len(eval_ids),
    )


def _xz_size(text: bytes) -> int:
    return len(lzma.compress(text, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, **XZ}]))


def ngram_losses(
    train_ids: np.ndarray, eval_ids: np.ndarray, vocab_size: int, record_end_id: int = -1
) -> list[float]:
    """Return the loss of an n-gram of each of NGRAM_ORDERS, in nats per character.

    `train_ids` (n,) and `eval_ids` (m,) are consecutive. Probabilities are interpolated as by
    Witten and Bell (1991; method C of Bell, Cleary and Witten 1990):

        p_k(x | c) = (n(c x) + t(c) p_{k-1}(x | c')) / (n(c) + t(c))

    c is the k characters before x; c' is c without its first character. In the training text, x
    followed c n(c x) times, c was followed by any character n(c) times and by t(c) different
    characters. p_k is p_{k-1} if c never occurred; p_{-1} is 1 / vocab_size. With `record_end_id`,
    c reaches back to the end before the record, at most; where it is shorter than k characters, p_k
    is p_{k-1}.
    """
    # Contexts and n-grams are numbered over both texts, so that no lookup is needed.
    ids = np.concatenate([train_ids, eval_ids]).astype(np.int32)
    n = len(train_ids)
    p = np.full(len(eval_ids), 1 / vocab_size)
    contexts, num_contexts = np.zeros(len(ids), np.int32), 1
    follows_end = np.concatenate([[record_end_id >= 0], ids[:-1] == record_end_id])
    is_short = np.zeros(len(ids), bool)  # whether a context has the whole record before it
    losses = []
    for order in NGRAM_ORDERS:
        grams, num_grams = _number_pairs(contexts, ids, num_contexts, vocab_size)
        counts = np.bincount(grams[:n], minlength=num_grams)
        context_of = np.empty(num_grams, np.int32)
        context_of[grams] = contexts
        total = np.bincount(contexts[:n], minlength=num_contexts)[contexts[n:]]
        different = np.bincount(context_of[counts > 0], minlength=num_contexts)[contexts[n:]]
        mixed = (counts[grams[n:]] + different * p) / np.maximum(total + different, 1)
        p = np.where((total > 0) & ~is_short[n:], mixed, p)
        losses.append(float(0.0 - np.log(p).mean()))
        # A context of the next order is the n-gram before. The first character, and each after the
        # end of a record, has a context of its own, the beginning of the text.
        contexts = np.concatenate([[num_grams], grams[:-1]]).astype(np.int32)
        contexts[follows_end] = num_grams
        is_short = np.concatenate([[False], is_short[:-1]]) | (follows_end & (order > 0))
        num_contexts = num_grams + 1
    return losses


def _number_pairs(
    contexts: np.ndarray, ids: np.ndarray, num_contexts: int, vocab_size: int
) -> tuple[np.ndarray, int]:
    """Number the pairs (context, id), as int32, and count the distinct ones."""
    pairs = contexts.astype(np.int64) * vocab_size + ids
    if num_contexts * vocab_size > 4 * len(ids):  # a table of all possible pairs would be too large
        distinct, numbers = np.unique(pairs, return_inverse=True)
        return numbers.astype(np.int32), len(distinct)
    occurs = np.zeros(num_contexts * vocab_size, bool)
    occurs[pairs] = True
    numbers = np.cumsum(occurs, dtype=np.int32)
    return numbers[pairs] - 1, int(numbers[-1])
