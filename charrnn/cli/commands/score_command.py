"""`charrnn score`: the surprisal of each line and character of a text."""

from __future__ import annotations

import click

from ...errors import UsageError
from ...storage.inputs import require_not_input
from ..options import FILE, MODEL, Command, encoding_option, json_option, option, unknown_option
from ..output import page_file, stdout

NUM_EXPECTED = 3  # most likely characters that the page shows


@click.command("score", cls=Command, short_help="Show the surprisal of each line of a text.")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True, type=FILE)
@option(
    "-m",
    "--model",
    "models",
    multiple=True,
    type=FILE,
    default=[MODEL],
    show_default=MODEL,
    help="Model file, written by `charrnn train`. May be repeated to compare models.",
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
@unknown_option
@encoding_option
def command(
    texts: tuple[str, ...],
    models: tuple[str, ...],
    sort: str,
    color: bool,
    html: str | None,
    as_json: bool,
    unknown: str,
    encoding: str,
) -> None:
    """Show the surprisal of each line and each character of a text.

    The number before a line is its surprisal in nats per character, with its newline. The last row
    is the surprisal of the whole text, as in `charrnn eval`. Each character is predicted from all
    characters before it; the first one has no number. Long lines are shortened on a terminal.
    Several files are read as one text; `-` is stdin.

    With several models, each has a column, and the last column names the model that assigns the
    line the highest probability. --sort surprisal then uses the surprisal of that model.

    \b
    Example:
      charrnn score --sort surprisal access.log | head
      charrnn score --html page.html chapter.txt
      charrnn score -m english.safetensors -m german.safetensors letter.txt
      charrnn score --json list.txt | jq -r 'select(.nats_per_character > 3) | .text'
    """
    _check_usage(texts, models, color, html, as_json)
    from ..line_scores import LineScorer
    from ..progress import writing
    from ..render.scores import HtmlRenderer, JsonLinesRenderer, TableRenderer, write

    score = LineScorer(texts, models, encoding, unknown, top=NUM_EXPECTED if html else 0)
    with writing(html or "-", len(score.corpus.ids)) as score.progressed:
        if html:
            with page_file(html) as file:
                write(HtmlRenderer(score), score, sort, file)
        else:
            view = JsonLinesRenderer(score) if as_json else TableRenderer(score, stdout(), color)
            write(view, score, sort, stdout())


def _check_usage(
    texts: tuple[str, ...], models: tuple[str, ...], color: bool, html: str | None, as_json: bool
) -> None:
    if len(models) > 1 and (color or html is not None):
        raise UsageError("--color and --html show the surprisal of one model: give one -m.")
    if html is not None and as_json:
        raise UsageError("give --html or --json, not both.")
    if html:
        require_not_input([html], (*texts, *models), what="the page", option="--html")
