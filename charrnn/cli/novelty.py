"""`charrnn novelty`: does a text copy the text that a model was trained on?"""

from __future__ import annotations

import json as json_
from typing import TYPE_CHECKING

import click

from ..errors import UsageError, printable
from .common import json_option, print_table

if TYPE_CHECKING:
    import numpy as np

    from ..corpus import Corpus

SHOWN = 60  # characters of the longest run in the table


@click.command("novelty")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@click.option(
    "--corpus",
    metavar="FILE",
    multiple=True,
    required=True,
    type=click.Path(),
    show_default=False,
    help="What may have been copied; give it several times for several files, joined in order.",
)
@json_option
@click.option("--encoding", default="utf-8", help="How text and corpus are encoded.")
def command(texts, corpus, json, encoding) -> None:
    """Measure how much of a text is copied from a corpus.

    It prints the longest run of characters that stands in both, and how much of the text lies in
    such runs of at least 20, 50 and 100 characters. Several texts are read as one; `-` is stdin.

    \b
    Example:
      charrnn sample --length 100000 | charrnn novelty - --corpus corpus.txt
      charrnn novelty poem.txt --corpus iliad.txt --corpus odyssey.txt --json
    """
    if (*texts, *corpus).count("-") > 1:
        raise UsageError("stdin can be read only once: give - for one file.")
    from ..corpus import read_corpus
    from ..novelty import novelty

    text = read_corpus(texts, encoding=encoding)
    known = read_corpus(corpus, encoding=encoding)
    found = novelty(_coded_as(known, text), known.ids[:])
    longest = text.vocabulary.decode(text.ids[found.start : found.start + found.length])
    if json:
        values = {
            "characters": len(text.ids),
            "longest_run": found.length,
            "longest_run_start": found.start if found.length else None,
            "longest_run_text": longest,
            "copied_share": {str(length): share for length, share in found.shares.items()},
        }
        click.echo(json_.dumps(values))
    else:
        shares = ((f"in runs of {k} or more", f"{v:.2%}") for k, v in found.shares.items())
        print_table(
            [
                ("characters", f"{len(text.ids):,}"),
                ("longest copied run", f"{found.length:,} characters{_beginning(longest)}"),
                *shares,
            ]
        )


def _coded_as(corpus: Corpus, text: Corpus) -> np.ndarray:
    """The ids of `text` in the vocabulary of `corpus`; what that lacks gets ids of its own."""
    import numpy as np

    characters, unknown = text.vocabulary.characters, corpus.vocabulary.unknown
    new = np.isin(list(characters), list(unknown(characters)))
    codes = np.empty(len(characters), np.int32)
    codes[new] = len(corpus.vocabulary) + np.arange(np.count_nonzero(new))
    codes[~new] = corpus.vocabulary.encode(characters, "skip")
    return codes[text.ids]


def _beginning(run: str) -> str:
    if not run:
        return ""
    return f': "{printable(run[:SHOWN])}{"..." if len(run) > SHOWN else ""}"'
