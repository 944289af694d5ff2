"""`charrnn export`: write a model in the format of other programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import CharRNNError, UsageError, display_path
from ...storage.atomic import write_atomically
from ...storage.inputs import require_not_input
from ..options import FILE, TEXT, Command, model_option, option, option_group
from ..output import echo_err

if TYPE_CHECKING:
    from ...api import LanguageModel


@click.command("export", cls=Command, short_help="Write a model as a web page or for ONNX.")
@option_group("Model", model_option)
@option_group(
    "Output",
    option(
        "-o",
        "--output",
        type=FILE,
        required=True,
        help="File to write: .html for a web page, .onnx for other programs.",
    ),
    option("--overwrite", is_flag=True, help="Replace the output if it exists."),
)
@option_group(
    "Web page",
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
    """Write a model as a web page that writes text, or in the ONNX format.

    The page is one file that needs no network and no other file. Its reader gives the text to
    continue, the temperature, the length and a seed, and sees the text while it is written. The
    model runs in the browser.

    An ONNX file is run by programs in many languages. It takes character ids and the states of the
    layers, and returns logits and the next states; its metadata has the characters. It needs onnx:
    pip install 'charrnn[onnx]'.

    \b
    Example:
      charrnn export -o page.html --title 'A harbour play'
      charrnn export -m names.safetensors -o names.html --exact
      charrnn export -o model.onnx
    """
    ending = Path(output).suffix.lower()
    if ending not in (".html", ".htm", ".onnx"):
        raise UsageError(
            f"cannot tell the format of {display_path(output)}: give a name that ends with .html "
            "or .onnx."
        )
    if ending == ".onnx" and (title is not None or description or exact):
        raise UsageError("--title, --description and --exact are for a web page: leave them out.")
    require_not_input([output], [model], what="the output", option="--output")
    if os.path.lexists(output) and not overwrite:
        raise UsageError(f"{display_path(output)} exists: give --overwrite, or another name.")
    from ...api import load

    language_model = load(model)
    if ending == ".onnx":
        how = _write_onnx(output, language_model)
    else:
        name = Path(model).name.removesuffix(".safetensors") if title is None else title
        how = _write_page(output, language_model, name, description, exact)
    size = Path(output).stat().st_size / 1e6
    echo_err(f"wrote   {display_path(output)}, {size:.1f} MB, {how}")


def _write_page(
    output: str, model: LanguageModel, title: str, description: str, exact: bool
) -> str:
    """Write a web page; return what is said of it."""
    from ...export.page import choose_bits, export_page

    model.require_forward("a page")
    bits, lost = (32, 0.0) if exact else choose_bits(model.model, model.vocabulary)
    write_atomically(output, export_page(model.model, model.vocabulary, title, description, bits))
    loss = "" if exact else f", which lose {lost:.4f} nats per character"
    return f"weights in {bits} bits{loss}"


def _write_onnx(output: str, model: LanguageModel) -> str:
    try:
        from ...export.onnx_graph import OPERATOR_SET, export_onnx
    except ImportError:
        raise CharRNNError(
            "an ONNX file needs onnx, which is not installed: pip install 'charrnn[onnx]'."
        ) from None
    write_atomically(output, [export_onnx(model.model, model.vocabulary)])
    return f"ONNX operator set {OPERATOR_SET}"
