"""Sentences on a text and its split, for the summary of a run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..errors import escape_unprintable
from ..text.corpus import Corpus
from ..text.disk_ids import Ids
from ..text.list_like import looks_like_list
from ..text.overlap import RUN, share_of_known_records, share_of_known_runs
from ..text.records import separator_of
from ..text.splitting import TextSplit
from ..text.vocabulary import describe_characters

PIECE = 1 << 18  # ids read at a time
MAX_KNOWN = 0.05  # of the validation text, in the training text; more is said


def text_notes(corpus: Corpus, split: TextSplit, has_val_file: bool) -> Iterator[str]:
    """Say what records there are, or that a text looks like a list, and what both sides share."""
    if has_val_file and (unseen := _unseen(corpus, split)):
        yield (
            f"the training text lacks {unseen} of the validation text: the vocabulary has it, but "
            "nothing is learned about it"
        )
    if split.records:
        yield _records_in_words(corpus, split)
    is_list = not split.records and looks_like_list(split.train_ids, corpus.vocabulary)
    if is_list:
        yield (
            "the text looks like a list, whose lines do not depend on each other: --records learns "
            "each line on its own, and validates on lines chosen at random"
        )
    yield from _overlap(corpus, split, is_list)


def _unseen(corpus: Corpus, split: TextSplit) -> str:
    """Name the characters that only the validation text has; empty if there are none."""
    seen, wanted = (_occurs(ids, len(corpus.vocabulary)) for ids in split[:2])
    unseen = np.flatnonzero(wanted & ~seen)
    if corpus.vocabulary.is_bytes:
        return f"{len(unseen)} bytes" if len(unseen) else ""
    return describe_characters(corpus.vocabulary.decode(unseen))


def _occurs(ids: Ids, vocab_size: int) -> npt.NDArray[np.bool_]:
    occurs = np.zeros(vocab_size, bool)
    for start in range(0, len(ids), PIECE):
        occurs[ids[start : start + PIECE]] = True
    return occurs


def _records_in_words(corpus: Corpus, split: TextSplit) -> str:
    assert split.records
    _, _, num_train, num_val, num_copies = split.records
    separator = separator_of(corpus.vocabulary, corpus.record_end_id)
    counts = f"{num_train:,} records for training, {num_val:,} for validation"
    empty = f"; {corpus.num_empty:,} empty ones were left out" if corpus.num_empty else ""
    copies = f"; {num_copies:,} repeat an earlier one" if num_copies else ""
    return f"{counts}, each ended by '{escape_unprintable(separator)}'{empty}{copies}"


def _overlap(corpus: Corpus, split: TextSplit, is_list: bool) -> Iterator[str]:
    train_ids, val_ids, records = split
    if records or is_list:
        end_id = corpus.record_end_id if records else corpus.vocabulary.newline_id
        share = share_of_known_records(train_ids, val_ids, end_id)
        parts = "records" if records else "lines"
    else:
        share = share_of_known_runs(train_ids, val_ids)
        parts = f"runs of {RUN} {corpus.vocabulary.unit}s"
    if share > MAX_KNOWN:
        yield (
            f"{share:.0%} of the {parts} of the validation text also stand in the training text: "
            "the validation loss is lower than on a new text"
        )
