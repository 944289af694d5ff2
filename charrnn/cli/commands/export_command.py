"""`charrnn export`: write a model in the format of other programs."""

from __future__ import annotations

from pathlib import Path

import click

from ...errors import UsageError, display_path
from ...storage.atomic import write_atomically
from ...storage.inputs import require_not_input
from ..options import FILE, TEXT, Command, model_option, option, option_group
from ..output import echo_err


@click.command("export", cls=Command, short_help="Write a model as a web page.")
@option_group("Model", model_option)
@option_group(
    "Output",
    option(
        "-o", "--output", type=FILE, required=True, help="File to write, which ends with .html."
    ),
    option("--overwrite", is_flag=True, help="Replace the output if it exists."),
)
@option_group(
    "Page",
    option(
        "--title", type=TEXT, metavar="TEXT", show_default="name of the model", help="Its heading."
    ),
    option(
        "--description",
        type=TEXT,
        metavar="TEXT",
        default="",
        show_default=False,
        help="The paragraph under the heading.",
    ),
    option(
        "--exact",
        is_flag=True,
        help="Store weights in 32 bits, not in 8, or in 16 if 8 lose more than 0.01 nats per "
        "character.",
    ),
)
def command(
    model: str, output: str, overwrite: bool, title: str | None, description: str, exact: bool
) -> None:
    """Write a model as a web page that writes text.

    The page is one file that needs no network and no other file. Its reader gives the text to
    continue, the temperature, the length and a seed, and sees the text while it is written. The
    model runs in the browser.

    \b
    Example:
      charrnn export -o page.html --title 'A harbour play'
      charrnn export -m names.safetensors -o names.html --exact
    """
    ending = Path(output).suffix.lower()
    if ending not in (".html", ".htm"):
        raise UsageError(
            f"cannot tell the format of {display_path(output)}: give a name that ends with .html."
        )
    require_not_input([output], [model], what="the output", option="--output")
    if Path(output).exists() and not overwrite:
        raise UsageError(f"{display_path(output)} exists: give --overwrite, or another name.")
    from ...api import load
    from ...export.page import choose_bits, export_page

    language_model = load(model)
    language_model.require_forward("a page")
    network, vocabulary = language_model.model, language_model.vocabulary
    bits, lost = (32, 0.0) if exact else choose_bits(network, vocabulary)
    name = Path(model).name.removesuffix(".safetensors") if title is None else title
    write_atomically(output, export_page(network, vocabulary, name, description, bits))
    size = Path(output).stat().st_size / 1e6
    loss = "" if exact else f", which lose {lost:.4f} nats per character"
    echo_err(f"wrote   {display_path(output)}, {size:.1f} MB, weights in {bits} bits{loss}")
