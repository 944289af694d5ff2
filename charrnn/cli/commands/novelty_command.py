"""`charrnn novelty`: how much of a text is copied from a corpus."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ...errors import UsageError, escape_unprintable
from ..options import FILE, Command, encoding_option, json_option, option
from ..output import echo_err, print_table

if TYPE_CHECKING:
    from ...evaluation.novelty import Novelty
    from ...text.vocabulary import Vocabulary

SHOWN = 60  # characters of the longest run that the table shows


@click.command("novelty", cls=Command, short_help="Measure how much of a text is copied.")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True, type=FILE)
@option(
    "--corpus",
    multiple=True,
    required=True,
    type=FILE,
    show_default=False,
    help="Text that may have been copied. May be repeated; the files are joined in order.",
)
@json_option()
@encoding_option
def command(texts: tuple[str, ...], corpus: tuple[str, ...], as_json: bool, encoding: str) -> None:
    """Measure how much of a text is copied from a corpus.

    Print the longest run of characters that occurs in both, and the fraction of the text that lies
    in such runs of at least 20, 50 and 100 characters. Several files are read as one text; `-` is
    stdin.

    \b
    Example:
      charrnn sample --length 100000 | charrnn novelty - --corpus corpus.txt
      charrnn novelty poem.txt --corpus iliad.txt --corpus odyssey.txt --json
    """
    if (*texts, *corpus).count("-") > 1:
        raise UsageError("stdin can be read only once: give - for one file only.")
    from ...evaluation.novelty import compare
    from ...text.corpus import read_corpus
    from ..progress import byte_bar

    text = read_corpus(texts, encoding=encoding)
    with byte_bar() as progress:
        known = read_corpus(corpus, encoding=encoding, progress=progress)
    result, longest = compare([text.vocabulary.symbols(text.ids[:])], known)
    if as_json:
        click.echo(json.dumps({"characters": len(text.ids), **_object(result, longest)}))
    else:
        print_table([("characters", f"{len(text.ids):,}"), *_rows(result, longest)])


def say_novelty(texts: list[bytes], corpus: str, vocabulary: Vocabulary) -> None:
    """Print on stderr the runs that new texts, UTF-8 or raw bytes, copy from a corpus file."""
    from ...evaluation.novelty import compare
    from ...text.corpus import read_corpus

    known = read_corpus(corpus, as_bytes=vocabulary.is_bytes)
    symbols = [text.decode(vocabulary.symbol_encoding) for text in texts]
    for name, value in _rows(*compare(symbols, known)):
        echo_err(f"{name:<24}{value}")


def _object(result: Novelty, longest: str) -> dict[str, object]:
    return {
        "longest_run": result.length,
        "longest_run_start": result.start if result.length else None,
        "longest_run_text": longest,
        "copied_share": {str(length): f for length, f in result.fractions.items()},
    }


def _rows(result: Novelty, longest: str) -> list[tuple[str, str]]:
    run = f"{result.length:,} characters{_quoted(longest)}"
    fractions = ((f"in runs of {k} or more", f"{f:.2%}") for k, f in result.fractions.items())
    return [("longest copied run", run), *fractions]


def _quoted(run: str) -> str:
    """The beginning of a run, as it is shown after its length."""
    if not run:
        return ""
    return f': "{escape_unprintable(run[:SHOWN])}{"..." if len(run) > SHOWN else ""}"'
