"""`charrnn score`: where a model is surprised by a text, and which model expects it most."""

from __future__ import annotations

import click

from ...errors import UsageError
from ..options import FILE, MODEL, check_page, json_option, page_file, stdout, unknown_option

EXPECTED = 3  # characters that the page says the model expected


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
    "--lines",
    type=click.Choice(["order", "surprise"]),
    default="order",
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
def command(texts, model, lines, color, html, json, unknown, encoding) -> None:
    """Show how much each line and each character of a text surprises a model.

    The number before a line is its surprise in nats per character, its newline included; the last
    row is the whole text's, which is what `charrnn eval` prints. Each character is predicted from
    all before it, but for the text's first, which has no number. On a terminal long lines are
    shortened. Several files are read as one text; `-` is stdin.

    With several models there is a column for each, and the name of the one that finds the line
    likeliest. They are then sorted by how much a line surprises that one.

    \b
    Example:
      charrnn score --lines surprise access.log | head
      charrnn score --html page.html chapter.txt
      charrnn score -m english.safetensors -m german.safetensors letter.txt
      charrnn score --json list.txt | jq -r 'select(.nats_per_character > 3) | .text'
    """
    _check_usage(texts, model, color, html, json)
    from ..line_scores import LineScorer
    from ..progress import text_bar
    from ..render.scores import HtmlRenderer, JsonLinesRenderer, TableRenderer, write

    score = LineScorer(texts, model, encoding, unknown, top=EXPECTED if html else 0)
    with text_bar(html or "-", len(score.corpus.ids)) as score.progressed:
        if html:
            with page_file(html) as file:
                write(HtmlRenderer(score), score, lines, file)
        else:
            view = JsonLinesRenderer(score) if json else TableRenderer(score, stdout(), color)
            write(view, score, lines, stdout())


def _check_usage(texts, models, color, html, json) -> None:
    if len(models) > 1 and (color or html):
        raise UsageError("--color and --html show the surprise of one model: give one -m.")
    if html is not None and json:
        raise UsageError("give --html or --json, not both.")
    check_page(html, (*texts, *models))
