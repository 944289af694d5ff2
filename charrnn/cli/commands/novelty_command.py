"""`charrnn novelty`: how much of a text is copied from a corpus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ...errors import UsageError, escape_unprintable
from ..options import (
    FILE,
    Command,
    corpus_encoding_option,
    encoding_option,
    is_explicit,
    json_option,
    option,
)
from ..output import echo_err, print_table

if TYPE_CHECKING:
    from ...evaluation.novelty import Novelty
    from ...text.corpus import Corpus

SHOWN = 60  # characters of the longest run that the table shows


@click.command("novelty", cls=Command, short_help="Measure how much of a text is copied.")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True, type=FILE)
@option(
    "--corpus",
    multiple=True,
    required=True,
    type=FILE,
    show_default=False,
    help="Text that may have been copied: a file or folder. May be repeated.",
)
@json_option()
@encoding_option
@corpus_encoding_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    texts: tuple[str, ...],
    corpus: tuple[str, ...],
    as_json: bool,
    encoding: str,
    corpus_encoding: str | None,
) -> None:
    """Measure how much of a text is copied from a corpus.

    Print the longest run of characters that occurs in both, and the fraction of the text that lies
    in such runs of at least 20, 50 and 100 characters. A run lies within one file of each. `-` is
    stdin.

    Characters are compared, whatever the encodings. With --encoding alone, files in UTF-8 are read
    as UTF-8, such as new text that `charrnn sample` writes. --encoding latin-1 also compares bytes
    of any kind.

    \b
    Example:
      charrnn sample --length 100000 | charrnn novelty - --corpus corpus.txt
      charrnn sample | charrnn novelty - --corpus corpus.txt --corpus-encoding cp1252
      charrnn novelty poem.txt --corpus iliad.txt --corpus odyssey.txt --json
    """
    if (*texts, *corpus).count("-") > 1:
        raise UsageError("stdin can be read only once: give - for one file only.")
    from ...evaluation.novelty import compare
    from ...text.corpus import read_corpus

    guess = is_explicit(ctx, "encoding") and corpus_encoding is None
    text = read_corpus(texts, encoding=encoding, join=False, prefer_utf8=guess)
    known = read_known(corpus, corpus_encoding or encoding, prefer_utf8=guess)
    ends = (*text.file_starts[1:], len(text.ids))
    symbols = [
        text.vocabulary.symbols(text.ids[a:b]) for a, b in zip(text.file_starts, ends, strict=True)
    ]
    result, longest = compare(symbols, known)
    if as_json:
        click.echo(json.dumps({"characters": len(text.ids), **_object(result, longest)}))
    else:
        print_table([("characters", f"{len(text.ids):,}"), *_rows(result, longest)])


def read_known(
    paths: str | Sequence[str],
    encoding: str = "utf-8",
    *,
    as_bytes: bool = False,
    prefer_utf8: bool = False,
) -> Corpus:
    """Read the text that may have been copied, as `read_corpus` does."""
    from ...text.corpus import read_corpus
    from ...text.reader import EncodingOptions
    from ..progress import byte_bar

    with byte_bar() as progress:
        return read_corpus(
            paths,
            encoding=encoding,
            as_bytes=as_bytes,
            join=False,
            prefer_utf8=prefer_utf8,
            progress=progress,
            options=EncodingOptions("--corpus-encoding"),
        )


def say_novelty(texts: list[bytes], known: Corpus) -> None:
    """Print on stderr the runs that new texts, UTF-8 or raw bytes, copy from a corpus."""
    from ...evaluation.novelty import compare

    encoding = known.vocabulary.symbol_encoding
    result, longest = compare([text.decode(encoding) for text in texts], known)
    longest = longest.encode(encoding).decode("utf-8", "surrogateescape")
    unit = "bytes" if known.vocabulary.is_bytes else "characters"
    for name, value in _rows(result, longest, unit):
        echo_err(f"{name:<24}{value}")


def _object(result: Novelty, longest: str) -> dict[str, object]:
    return {
        "longest_run": result.length,
        "longest_run_start": result.start if result.length else None,
        "longest_run_text": longest,
        "copied_share": {str(length): f for length, f in result.fractions.items()},
    }


def _rows(result: Novelty, longest: str, unit: str = "characters") -> list[tuple[str, str]]:
    run = f"{result.length:,} {unit}{_quoted(longest)}"
    fractions = ((f"in runs of {k} or more", f"{f:.2%}") for k, f in result.fractions.items())
    return [("longest copied run", run), *fractions]


def _quoted(run: str) -> str:
    """The beginning of a run, as it is shown after its length."""
    if not run:
        return ""
    return f': "{escape_unprintable(run[:SHOWN])}{"..." if len(run) > SHOWN else ""}"'
