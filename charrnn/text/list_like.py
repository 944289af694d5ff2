"""Tells a list, whose lines do not depend on each other, from running text."""

from __future__ import annotations

import numpy as np

from .disk_ids import Ids
from .vocabulary import IdArray, Vocabulary

MIN_LINES = 200  # of fewer lines, the dependence cannot be measured
MAX_LENGTH = 80  # of a line of a list, the mean in characters; paragraphs are longer
MAX_READ = 1 << 21  # ids read, from the start of the text
# The dependence across a line end, in nats, of a list. It is 0.00 on lists of names, sorted or not,
# 0.32 and more on plays and novels with lines of verse or a fixed width (tests/bench/LOG.md).
MAX_DEPENDENCE = 0.05
# The share of full lines of text broken for its width is 0.73 and more, of lists up to 0.45.
MAX_FULL = 0.65
NUM_KINDS = 8  # of characters, the most frequent ones; the others are one kind
DISTANCES = range(2, 8)  # of lines whose ends and beginnings are compared with adjacent ones


def looks_like_list(ids: Ids, vocabulary: Vocabulary) -> bool:
    """Whether lines are short, not broken for their width, and do not tell how the next begins."""
    part = np.asarray(ids[:MAX_READ])
    newline_id, space_id = vocabulary.look_up("\n ")
    ends = np.flatnonzero(part == newline_id)
    if len(ends) < MIN_LINES or (ends[-1] + 1) / len(ends) - 1 > MAX_LENGTH:
        return False
    if dependence_across_lines(part, ends) >= MAX_DEPENDENCE:
        return False
    return share_of_full_lines(ends, np.flatnonzero(part == space_id)) < MAX_FULL


def share_of_full_lines(ends: IdArray, spaces: IdArray) -> float:
    """The share of lines to which the first word of the next line could not have been added.

    `ends` (R,) and `spaces` are positions in the text. The width is that of nearly all lines; a
    next line without a space does not count as full.
    """
    starts = ends[:-1] + 1  # of the next lines
    lengths = np.diff(ends, prepend=-1) - 1
    first_spaces = np.append(spaces, ends[-1])[np.searchsorted(spaces, starts)]
    is_full = lengths[:-1] + 1 + first_spaces - starts > np.quantile(lengths, 0.98)
    return float((is_full & (first_spaces < ends[1:])).mean())


def dependence_across_lines(ids: IdArray, ends: IdArray) -> float:
    """The mutual information of a line's last character and the next line's first, in nats.

    `ends` (R,) are the positions of the line ends in `ids`. The same of lines some lines apart is
    subtracted: it has the bias of an estimate, and what sorting causes.
    """
    starts = np.concatenate([[0], ends[:-1] + 1])
    first = _kinds(ids[starts])
    last = _kinds(ids[np.maximum(ends - 1, starts)])  # of an empty line, its end
    apart = [_mutual_information(last[:-d], first[d:]) for d in DISTANCES]
    return _mutual_information(last[:-1], first[1:]) - float(np.mean(apart))


def _kinds(ids: IdArray) -> IdArray:
    """Number the NUM_KINDS most frequent ids from 0 on; all others are NUM_KINDS."""
    found, places, counts = np.unique(ids, return_inverse=True, return_counts=True)
    kinds = np.full(len(found), NUM_KINDS)
    frequent = np.argsort(-counts, kind="stable")[:NUM_KINDS]
    kinds[frequent] = np.arange(len(frequent))
    return kinds[places]


def _mutual_information(a: IdArray, b: IdArray) -> float:
    size = NUM_KINDS + 1
    joint = np.bincount(a * size + b, minlength=size * size).reshape(size, size) / len(a)
    independent = joint.sum(1)[:, None] * joint.sum(0)
    occurs = joint > 0
    return float((joint[occurs] * np.log(joint[occurs] / independent[occurs])).sum())
