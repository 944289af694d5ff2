"""`charrnn novelty`: does a text copy the text that a model was trained on?"""

from __future__ import annotations

import json as json_
from typing import TYPE_CHECKING

import click

from ...errors import UsageError, escape_unprintable
from ..options import FILE, echo_err, json_option, print_table

if TYPE_CHECKING:
    import numpy as np

    from ...evaluation.novelty import Novelty
    from ...text.corpus import Corpus
    from ...text.vocabulary import Vocabulary

SHOWN = 60  # characters of the longest run in the table


@click.command("novelty", short_help="Measure how much of a text is copied.")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True, type=FILE)
@click.option(
    "--corpus",
    multiple=True,
    required=True,
    type=FILE,
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
    from ...text.corpus import read_corpus
    from ..progress import byte_bar

    text = read_corpus(texts, encoding=encoding)
    with byte_bar() as progress:
        known = read_corpus(corpus, encoding=encoding, progress=progress)
    found, longest = compared(text, known)
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
        print_table([("characters", f"{len(text.ids):,}"), *rows(found, longest)])


def compared(text: Corpus, corpus: Corpus) -> tuple[Novelty, str]:
    """What `text` has in common with `corpus`, and the longest run."""
    from ...evaluation.novelty import novelty

    found = novelty(_coded_as(corpus, text), corpus.ids[:])
    return found, text.vocabulary.decode(text.ids[found.start : found.start + found.length])


def say_novelty(texts: list[bytes], corpus: str, as_bytes: bool) -> None:
    """Say on stderr what new texts, in UTF-8 or bytes, have in common with the file `corpus`."""
    from ...evaluation.novelty import novelty
    from ...text.corpus import read_corpus
    from ...text.vocabulary import code_points

    known = read_corpus(corpus, as_bytes=as_bytes)
    # What stands in no corpus keeps the texts apart.
    text = "\ufdd0".join(t.decode("latin-1" if as_bytes else "utf-8") for t in texts)
    found = novelty(_coded(code_points(text), known.vocabulary), known.ids[:])
    longest = text[found.start : found.start + found.length]
    for name, value in rows(found, longest):
        echo_err(f"{name:<24}{value}")


def _coded(points: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Code points as ids of `vocabulary`; what that lacks has an id beyond them."""
    import numpy as np

    ids = {c: i for i, c in enumerate(vocabulary.symbols(np.arange(len(vocabulary))))}
    found, where = np.unique(points, return_inverse=True)
    return np.array([ids.get(chr(p), len(ids)) for p in found], np.int32)[where]


def rows(found: Novelty, longest: str) -> list[tuple[str, str]]:
    """A table for people."""
    shares = ((f"in runs of {k} or more", f"{v:.2%}") for k, v in found.shares.items())
    return [("longest copied run", f"{found.length:,} characters{_beginning(longest)}"), *shares]


def _coded_as(corpus: Corpus, text: Corpus) -> np.ndarray:
    """The ids of `text` in the vocabulary of `corpus`; what that lacks gets ids of its own."""
    import numpy as np

    characters, unknown = text.vocabulary.characters, corpus.vocabulary.unknown
    new = np.isin(list(characters), list(unknown(characters)))
    codes = np.empty(len(characters), np.int32)
    codes[new] = len(corpus.vocabulary) + np.arange(np.count_nonzero(new))
    codes[~new] = corpus.vocabulary.encode(characters, "skip")
    return codes[text.ids[:]]


def _beginning(run: str) -> str:
    if not run:
        return ""
    return f': "{escape_unprintable(run[:SHOWN])}{"..." if len(run) > SHOWN else ""}"'
