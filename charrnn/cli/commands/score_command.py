"""`charrnn score`: the surprisal of a text, line by line, under one model or several."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from ...errors import CharRNNError, UsageError, escape_unprintable
from ..options import (
    FILE,
    MODEL,
    check_page,
    json_option,
    page_file,
    stdout,
    unknown_option,
    warn_unknown,
)

if TYPE_CHECKING:
    from ...api import LanguageModel
    from ...text.corpus import Corpus
    from ..line_scores import LineScorer
    from ..render.scores import Renderer

NUM_EXPECTED = 3  # expected characters that the page shows


@click.command("score", short_help="Show where a text surprises a model.")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True, type=FILE)
@click.option(
    "-m",
    "--model",
    multiple=True,
    type=FILE,
    default=[MODEL],
    show_default=MODEL,
    help="The model, written by `charrnn train`. Given several times: which of them finds each "
    "line likeliest.",
)
@click.option(
    "--sort",
    type=click.Choice(["position", "surprisal"]),
    default="position",
    help="The lines as they come, or the most surprising first.",
)
@click.option(
    "--color",
    is_flag=True,
    help="Shade each character by its surprise, where stdout is a terminal and NO_COLOR is not "
    "set; with FORCE_COLOR set in a pipe, too.",
)
@click.option(
    "--html",
    type=FILE,
    help="Write a page to FILE (- is stdout) instead of the table: each character is shaded, and "
    "under the mouse it tells what the model expected.",
)
@json_option
@unknown_option
@click.option("--encoding", default="utf-8", help="How the text is encoded.")
def command(
    texts: tuple[str, ...],
    model: tuple[str, ...],
    sort: str,
    color: bool,
    html: str | None,
    json: bool,
    unknown: str,
    encoding: str,
) -> None:
    """Show how much each line and each character of a text surprises a model.

    The number before a line is its surprise in nats per character, its newline included; the last
    row is the whole text's, which is what `charrnn eval` prints. Each character is predicted from
    all before it, but for the text's first, which has no number. On a terminal long lines are
    shortened. Several files are read as one text; `-` is stdin.

    With several models there is a column for each, and the name of the one that finds the line
    likeliest. They are then sorted by how much a line surprises that one.

    \b
    Example:
      charrnn score --sort surprisal access.log | head
      charrnn score --html page.html chapter.txt
      charrnn score -m english.safetensors -m german.safetensors letter.txt
      charrnn score --json list.txt | jq -r 'select(.nats_per_character > 3) | .text'
    """
    _check_usage(texts, model, color, html, json)
    scorer = open_scorer(texts, model, encoding, unknown, top=NUM_EXPECTED if html else 0)
    from ..progress import writing
    from ..render.scores import write_scores

    with writing(html or "-", len(scorer.corpus.ids)) as scorer.progress, _output(html) as out:
        write_scores(_renderer(scorer, out, html, json, color), scorer, sort, out)


def _check_usage(
    texts: Sequence[str], models: Sequence[str], color: bool, html: str | None, json: bool
) -> None:
    if len(models) > 1 and (color or html):
        raise UsageError("--color and --html show the surprisal under one model: give one -m.")
    if html is not None and json:
        raise UsageError("give --html or --json, not both.")
    check_page(html, (*texts, *models))


def _output(html: str | None) -> AbstractContextManager[TextIO]:
    return page_file(html) if html else nullcontext(stdout())


def _renderer(
    scorer: LineScorer, out: TextIO, html: str | None, json: bool, color: bool
) -> Renderer:
    from ..render.scores import HtmlRenderer, JsonLinesRenderer, TableRenderer

    if html:
        return HtmlRenderer(scorer)
    return JsonLinesRenderer(scorer) if json else TableRenderer(scorer, out, color)


def open_scorer(
    texts: Sequence[str], model_paths: Sequence[str], encoding: str, unknown: str, top: int = 0
) -> LineScorer:
    """Load the models and the text, and check that the models know its characters."""
    from ..line_scores import LineScorer

    models = _load_models(model_paths)
    corpus = _read_text(texts, encoding, as_bytes=models[0].vocabulary.is_bytes)
    scorer = LineScorer(models, _names(model_paths), corpus, top)
    _check_unknown(scorer, unknown)
    return scorer


def _load_models(paths: Sequence[str]) -> list[LanguageModel]:
    from ...api import load

    models = [load(path, threads=1) for path in paths]
    if len({m.vocabulary.is_bytes for m in models}) > 1:
        raise UsageError("models of bytes and of characters cannot be compared with each other.")
    return models


def _names(paths: Sequence[str]) -> list[str]:
    """Return the file names without their ending, or the paths where two names are equal."""
    names = [Path(path).name.removesuffix(".safetensors") for path in paths]
    return [escape_unprintable(n) for n in (names if len(set(names)) == len(names) else paths)]


def _read_text(texts: Sequence[str], encoding: str, as_bytes: bool) -> Corpus:
    """Read the text in a vocabulary of its own."""
    from ...text.corpus import read_corpus
    from ..progress import reading

    with reading() as progress:
        corpus = read_corpus(texts, encoding=encoding, as_bytes=as_bytes, progress=progress)
    if len(corpus.ids) < 2:
        raise CharRNNError("the text is too short to score: at least two characters are needed.")
    return corpus


def _check_unknown(scorer: LineScorer, unknown: str) -> None:
    from ...text.vocabulary import UnknownCharacters

    if not scorer.knows_any:
        raise CharRNNError(f"the model knows no character of {scorer.title}.")
    if unknown == "error" and scorer.unknown:
        raise UnknownCharacters(scorer.unknown)
    warn_unknown(scorer.unknown)
