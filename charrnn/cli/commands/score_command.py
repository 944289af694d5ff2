"""`charrnn score`: the surprisal of a text, line by line, under one model or several."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from ...config import UNKNOWN_NATS
from ...errors import CharRNNError, UsageError, escape_unprintable
from ...storage.inputs import require_not_input
from ..options import (
    FILE,
    Command,
    charged_unknown_option,
    encoding_option,
    errors_option,
    json_option,
    models_option,
    option,
)
from ..output import echo_err, page_file, stdout

if TYPE_CHECKING:
    from ...api import LanguageModel
    from ...text.corpus import Corpus
    from ...text.reader import OnUndecodable
    from ..line_scores import LineScorer
    from ..render.scores import Renderer

NUM_EXPECTED = 3  # expected characters that the page shows


@click.command("score", cls=Command, short_help="Show the surprisal of each line of a text.")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True, type=FILE)
@models_option("May be repeated to compare models.")
@option(
    "--bidirectional",
    is_flag=True,
    help="Score each character given all others, with a model that reads forwards and one "
    "that reads backwards: give both with -m.",
)
@option(
    "--sort",
    type=click.Choice(["position", "surprisal"]),
    default="position",
    help="Order of the lines: as in the text, or the highest surprisal first.",
)
@option(
    "--color",
    is_flag=True,
    help="Shade each character by its surprisal if stdout is a terminal and NO_COLOR is not set, "
    "or if FORCE_COLOR is set.",
)
@option(
    "--html",
    type=FILE,
    help="Write a page to FILE (- is stdout) instead of the table. It shades each character and "
    "shows the expected characters under the mouse.",
)
@json_option("Print one JSON object per line of text.")
@charged_unknown_option
@encoding_option
@errors_option
def command(
    texts: tuple[str, ...],
    models: tuple[str, ...],
    bidirectional: bool,
    sort: str,
    color: bool,
    html: str | None,
    as_json: bool,
    unknown: str,
    encoding: str,
    errors: OnUndecodable,
) -> None:
    """Show the surprisal of each line and each character of a text.

    The number before a line is its surprisal in nats per character, with its newline. The last row
    is the surprisal of the whole text, as in `charrnn eval`. Each character is predicted from all
    characters before it, the first one as the first of a line. Long lines are shortened on a
    terminal. Several files are read as one text; `-` is stdin.

    A model of records (`charrnn train --records`) scores each line on its own, from its first
    character to its end: the surprisal of all of them is minus the log-probability of the line.

    With --bidirectional, the probability of a character given all others is the normalised product
    of those by both models, divided by how frequent the character is. It finds misprints that a
    model of the text before them cannot find.

    With several models, each has a column, and the last columns name the model that assigns the
    line the highest probability, and its posterior probability given the line if all models are
    equally likely before: with models of records, this classifies the records. --sort surprisal
    then uses the surprisal of that model.

    With --unknown skip, each model skips the characters that it does not know. Each of them adds 50
    nats, more than known characters have, to the surprisal of its line and of the text. A column
    shows their number, and --sort surprisal puts their lines first. With --unknown count, each adds
    the surprisal of a character that occurred once in the training text (of the longest one, with
    several models), and --sort surprisal goes by the sum.

    \b
    Example:
      charrnn score --sort surprisal --unknown count access.log | head
      charrnn score --html page.html chapter.txt
      charrnn score draft.txt --bidirectional -m forward.safetensors -m backward.safetensors
      charrnn score -m english.safetensors -m german.safetensors letter.txt
      charrnn score --json list.txt | jq -r 'select(.nats_per_character > 3) | .text'
    """
    _check_usage(texts, models, bidirectional, color, html, as_json)
    top = NUM_EXPECTED if html else 0
    scorer = open_scorer(texts, models, encoding, unknown, top, errors, bidirectional)
    from ..progress import text_bar
    from ..render.scores import write_scores

    with (
        text_bar(
            html or "-", len(scorer.corpus.ids), scorer.corpus.vocabulary.unit
        ) as scorer.progress,
        _output(html) as out,
    ):
        write_scores(_renderer(scorer, out, html, as_json, color), scorer, sort, out)


def _check_usage(
    texts: Sequence[str],
    models: Sequence[str],
    bidirectional: bool,
    color: bool,
    html: str | None,
    as_json: bool,
) -> None:
    if bidirectional and len(models) != 2:
        raise UsageError(f"--bidirectional needs two models, not {len(models)}: give -m twice.")
    if len(models) > 1 and not bidirectional and (color or html is not None):
        raise UsageError("--color and --html show the surprisal under one model: give one -m.")
    if html is not None and as_json:
        raise UsageError("give --html or --json, not both.")
    if html:
        require_not_input([html], (*texts, *models), what="the page", option="--html")


def _output(html: str | None) -> AbstractContextManager[TextIO]:
    return page_file(html) if html else nullcontext(stdout())


def _renderer(
    scorer: LineScorer, out: TextIO, html: str | None, as_json: bool, color: bool
) -> Renderer:
    from ..render.scores import HtmlRenderer, JsonLinesRenderer, TableRenderer

    if html:
        return HtmlRenderer(scorer)
    return JsonLinesRenderer(scorer) if as_json else TableRenderer(scorer, out, color)


def open_scorer(
    texts: Sequence[str],
    model_paths: Sequence[str],
    encoding: str,
    unknown: str,
    top: int = 0,
    errors: OnUndecodable = "strict",
    bidirectional: bool = False,
) -> LineScorer:
    """Load the models and the text, and check that the models know its characters."""
    from ..line_scores import BidirectionalLineScorer, LineScorer

    models, names = _load_models(model_paths), _names(model_paths)
    if not bidirectional and any(model.backward for model in models):
        backward = [name for name, m in zip(names, models, strict=True) if m.backward]
        echo_err(f"note    {', '.join(backward)}: each character is predicted from those after it")
    as_bytes, separator = models[0].vocabulary.is_bytes, models[0].separator
    corpus = _read_text(texts, encoding, errors, as_bytes, separator)
    if len(corpus.ids) < 2 and not all(len(model.model.start.ids) for model in models):
        raise CharRNNError("the text is too short to score: at least two characters are needed.")
    nats = _unknown_nats(models, unknown)
    if bidirectional:
        forward, other = sorted(models, key=lambda model: model.backward)
        scorer: LineScorer = BidirectionalLineScorer(forward, other, corpus, top, nats)
    else:
        scorer = LineScorer(models, names, corpus, top, nats)
    _check_unknown(scorer, unknown)
    return scorer


def _unknown_nats(models: Sequence[LanguageModel], unknown: str) -> float:
    """The cost of an unknown character: the same for all models, as for UNKNOWN_NATS."""
    from ...evaluation.unknown import count_nats

    lacking = [model.training for model in models if model.vocabulary.unknown_id < 0]
    if unknown != "count" or models[0].vocabulary.is_bytes or not lacking:
        return UNKNOWN_NATS
    return max(map(count_nats, lacking))


def _load_models(paths: Sequence[str]) -> list[LanguageModel]:
    from ...api import load
    from ...text_generator import require_one_kind

    models = [load(path, threads=1) for path in paths]
    require_one_kind(models, "compared with each other")
    return models


def _names(paths: Sequence[str]) -> list[str]:
    """Return the file names without their ending, or the paths where two names are equal."""
    names = [Path(path).name.removesuffix(".safetensors") for path in paths]
    return [escape_unprintable(n) for n in (names if len(set(names)) == len(names) else paths)]


def _read_text(
    texts: Sequence[str],
    encoding: str,
    errors: OnUndecodable,
    as_bytes: bool,
    separator: str | None,
) -> Corpus:
    """Read the text in a vocabulary of its own."""
    from ...text.corpus import read_corpus
    from ...text.reader import EncodingOptions
    from ..progress import byte_bar

    with byte_bar() as progress:
        return read_corpus(
            texts,
            encoding=encoding,
            errors=errors,
            as_bytes=as_bytes,
            separator=separator,
            keep_empty=True,
            progress=progress,
            options=EncodingOptions(errors="--errors replace"),
        )


def _check_unknown(scorer: LineScorer, unknown: str) -> None:
    from ...text.vocabulary import UnknownCharacters, describe_characters

    if not scorer.knows_any:
        raise CharRNNError(f"the model knows no character of {scorer.title}.")
    if unknown == "error" and scorer.unknown:
        lacking = next(m.vocabulary for m in scorer.models if m.vocabulary.unknown(scorer.unknown))
        raise UnknownCharacters(scorer.unknown, lacking)
    if scorer.unknown:
        knows = "the model does not know" if len(scorer.models) == 1 else "not all models know"
        echo_err(
            f"Warning: {knows} {describe_characters(scorer.unknown)}: "
            f"each costs {scorer.unknown_nats:.4g} nats."
        )
