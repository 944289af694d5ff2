"""`charrnn novelty`: how much of a text is copied from a corpus."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import click

from ...errors import UsageError, escape_unprintable
from ..options import (
    FILE,
    Command,
    corpus_encoding_option,
    encoding_option,
    errors_option,
    is_explicit,
    json_option,
    option,
)
from ..output import echo_err, print_json, print_table

if TYPE_CHECKING:
    from ...evaluation.novelty import Novelty
    from ...evaluation.record_novelty import RecordNovelty
    from ...text.corpus import Corpus
    from ...text.reader import EncodingOptions, OnUndecodable

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
@option(
    "--records",
    is_flag=True,
    help="Compare whole lines instead of runs of characters. Of lists of short lines, both are "
    "compared.",
)
@option(
    "--separator",
    metavar="TEXT",
    show_default="a newline",
    help=r"Compare records that end with TEXT, such as ';' or '\0', instead of lines.",
)
@json_option()
@encoding_option
@corpus_encoding_option
@errors_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    texts: tuple[str, ...],
    corpus: tuple[str, ...],
    records: bool,
    separator: str | None,
    as_json: bool,
    encoding: str,
    corpus_encoding: str | None,
    errors: OnUndecodable,
) -> None:
    """Measure how much of a text is copied from a corpus.

    Print the longest run of characters that occurs in both, and the fraction of the text that lies
    in such runs of at least 20, 50 and 100 characters. A run lies within one file of each. `-` is
    stdin.

    With --records, print how many lines of the text are different, stand there more than once, and
    stand in the corpus. Empty lines do not count. The same is printed for a text and a corpus most
    of whose lines have fewer than 20 characters, so that no such run fits in.

    Characters are compared, whatever the encodings. With --encoding alone, files in UTF-8 are read
    as UTF-8, such as new text that `charrnn sample` writes. --encoding latin-1 also compares bytes
    of any kind.

    \b
    Example:
      charrnn sample --length 100000 | charrnn novelty - --corpus corpus.txt
      charrnn sample | charrnn novelty - --corpus corpus.txt --corpus-encoding cp1252
      charrnn novelty poem.txt --corpus iliad.txt --corpus odyssey.txt --json
      charrnn novelty new_names.txt --corpus names.txt --records
    """
    if (*texts, *corpus).count("-") > 1:
        raise UsageError("stdin can be read only once: give - for one file only.")
    from ...text.records import NEWLINE, parse_separator

    end = NEWLINE if separator is None else parse_separator(separator)
    from ...evaluation.record_novelty import corpus_records
    from ...text.corpus import read_corpus
    from ...text.reader import EncodingOptions

    guess = is_explicit(ctx, "encoding") and corpus_encoding is None
    text = read_corpus(
        texts,
        encoding=encoding,
        errors=errors,
        join=False,
        prefer_utf8=guess,
        options=EncodingOptions(errors="--errors replace"),
    )
    known = read_known(
        corpus,
        corpus_encoding or encoding,
        prefer_utf8=guess,
        errors=errors,
        options=EncodingOptions("--corpus-encoding", errors="--errors replace"),
    )
    parts = _compare(
        partial(corpus_records, text, end),
        partial(_files, text),
        known,
        end,
        records_only=records or separator is not None,
    )
    rows, values = [("characters", f"{len(text.ids):,}")], {"characters": len(text.ids)}
    for part_rows, part_values in parts:
        rows += part_rows
        values |= part_values
    if as_json:
        print_json(values)
    else:
        print_table(rows)


def _files(text: Corpus) -> list[str]:
    """The files of a text, as symbols."""
    bounds = pairwise((*text.file_starts, len(text.ids)))
    return [text.vocabulary.symbols(text.ids[a:b]) for a, b in bounds]


def read_known(
    paths: str | Sequence[str],
    encoding: str = "utf-8",
    *,
    as_bytes: bool = False,
    prefer_utf8: bool = False,
    errors: OnUndecodable = "strict",
    options: EncodingOptions | None = None,
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
            errors=errors,
            progress=progress,
            options=options or EncodingOptions("--corpus-encoding"),
        )


def say_novelty(texts: list[bytes], known: Corpus, separator: str | None = None) -> None:
    """Print on stderr how much new texts, UTF-8 or raw bytes, copy from a corpus.

    With `separator`, the texts are records, which end with it in the corpus.
    """
    from ...evaluation.record_novelty import split_records

    encoding, end = known.vocabulary.symbol_encoding, separator or "\n"
    symbols = [text.decode(encoding) for text in texts]

    def records() -> Iterator[str]:
        return chain.from_iterable(
            split_records([text], known.vocabulary.to_symbols(end)) for text in symbols
        )

    parts = _compare(records, lambda: symbols, known, end, records_only=separator is not None)
    for name, value in chain.from_iterable(rows for rows, _ in parts):
        echo_err(f"{name:<24}{value}")


def _compare(
    records: Callable[[], Iterator[str]],
    texts: Callable[[], list[str]],
    known: Corpus,
    separator: str,
    records_only: bool,
) -> Iterator[tuple[list[tuple[str, str]], dict[str, Any]]]:
    """Yield the rows and the JSON values of records, of runs of characters, or of both for lists.

    `records` and `texts` return the records of the new texts, and these as a whole, in symbols.
    """
    from ...evaluation.novelty import compare
    from ...evaluation.record_novelty import compare_records, corpus_records, is_list

    if records_only or (is_list(records()) and is_list(corpus_records(known, separator))):
        found = compare_records(records(), corpus_records(known, separator))
        yield _record_rows(found), _record_values(found)
    if not records_only:
        result, longest = compare(texts(), known)
        if known.vocabulary.is_bytes:
            longest = longest.encode("latin-1").decode("utf-8", "surrogateescape")
        unit = "bytes" if known.vocabulary.is_bytes else "characters"
        yield _rows(result, longest, unit), _object(result, longest)


def _record_values(found: RecordNovelty) -> dict[str, object]:
    count = found.records or math.nan
    return {
        "records": found.records,
        "different_share": found.different / count,
        "repeated_share": found.repeated / count,
        "in_corpus_share": found.in_corpus / count,
    }


def _record_rows(found: RecordNovelty) -> list[tuple[str, str]]:
    rows = [("records", f"{found.records:,}")]
    counts = {
        "different": found.different,
        "more than once": found.repeated,
        "in the corpus": found.in_corpus,
    }
    shares = ((name, f"{n / (found.records or 1):.2%} ({n:,})") for name, n in counts.items())
    return [*rows, *shares]


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
