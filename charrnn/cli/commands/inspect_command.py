"""`charrnn inspect`: the activations of a model over a text, and its characters' vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from ...errors import CharRNNError, UsageError
from ...storage.inputs import require_not_input
from ..options import (
    FILE,
    Command,
    encoding_option,
    json_option,
    model_option,
    option,
    unknown_option,
)
from ..output import echo_err, page_file, print_json, stdout, warn_unknown

if TYPE_CHECKING:
    import numpy as np

    from ...api import LanguageModel
    from ...evaluation.activations import HiddenUnit

MAX_CHARACTERS = 1_000_000  # of the text; the rest is not read


@click.command("inspect", cls=Command, short_help="Show text features that units respond to.")
@click.argument("texts", metavar="[TEXT]...", nargs=-1, type=FILE)
@model_option
@option(
    "--unit",
    metavar="LAYER.UNIT",
    help="Show the activation of one unit over the text. 2.37 is unit 37 of layer 2; 2.37c is its "
    "cell state.",
)
@option(
    "--html",
    type=FILE,
    help="With --unit, write a page to FILE (- is stdout). It shows the activation of a character "
    "under the mouse.",
)
@option(
    "--embedding",
    is_flag=True,
    help="Draw a map of the model's characters, which places characters near each other if the "
    "model predicts them in similar contexts. Needs no text.",
)
@json_option("Print one JSON object; with --unit, one per line of text.")
@unknown_option
@encoding_option
def command(
    texts: tuple[str, ...],
    model: str,
    unit: str | None,
    html: str | None,
    embedding: bool,
    as_json: bool,
    unknown: Literal["error", "skip"],
    encoding: str,
) -> None:
    """Show text features that units of a model respond to.

    For each feature, such as being inside quotes or the position in the line, find the unit whose
    activation correlates most with it. The unit is chosen on the first half of the text; the
    correlation shown is that on the second half. Each unit has a hidden state h, in an LSTM also a
    cell state c. Then show how often the gates are closed (under 0.1) and open (over 0.9), after
    Karpathy, Johnson & Fei-Fei 2015, "Visualizing and understanding recurrent networks".

    --unit shows the activation of one unit, in colors if the terminal has them, else as digits. The
    first million characters are read. Several files are read as one text; `-` is stdin. A model of
    records reads each record on its own.

    \b
    Example:
      charrnn inspect novel.txt
      charrnn inspect --unit 1.37c novel.txt | less
      charrnn inspect --unit 1.37c --html page.html novel.txt
      charrnn inspect --embedding
    """
    _check_usage(texts, model, unit, html, embedding, as_json)
    unit_name = None if unit is None else _parse_unit(unit)
    from ...api import load

    language_model = load(model, threads=1)
    if embedding:
        from ..render.embedding import write_embedding

        write_embedding(language_model, stdout(), as_json)
        return
    language_model.require_forward("inspect")
    hidden_unit = unit_name and _find_unit(language_model, unit_name)
    text = _read_text(texts, language_model, encoding, unknown)
    if hidden_unit:
        _show_unit(language_model, text, hidden_unit, html, as_json)
    else:
        _show_report(language_model, text, as_json)


def _check_usage(
    texts: Sequence[str],
    model: str,
    unit: str | None,
    html: str | None,
    embedding: bool,
    as_json: bool,
) -> None:
    if embedding and (texts or unit is not None or html is not None):
        raise UsageError("--embedding shows the model alone: omit the text, --unit and --html.")
    if not (embedding or texts):
        raise UsageError("give a text to read (- is stdin), or --embedding.")
    if html is not None and (unit is None or as_json):
        raise UsageError("--html shows one unit: give it with --unit, without --json.")
    if html:
        require_not_input([html], (*texts, model), what="the page", option="--html")


class _UnitName(NamedTuple):
    """The argument of --unit."""

    given: str
    layer: int  # counts from 1, like the number
    number: int
    state: str  # "h", "c" or ""


def _parse_unit(given: str) -> _UnitName:
    match = re.fullmatch(r"([1-9]\d{0,8})\.([1-9]\d{0,8})([hc]?)", given, re.ASCII)
    if not match:
        raise UsageError(f"--unit is a layer and a unit, such as 1.37 or 1.37c, not '{given}'.")
    return _UnitName(given, int(match[1]), int(match[2]), match[3])


def _find_unit(model: LanguageModel, name: _UnitName) -> HiddenUnit:
    from ...evaluation.activations import HiddenUnit
    from ..render.activation_report import STATES

    config = model.config
    if name.layer > config.num_layers or name.number > config.hidden_size:
        raise CharRNNError(
            f"the model has no unit {name.given}: it has layers 1 to {config.num_layers} "
            f"of units 1 to {config.hidden_size}."
        )
    if STATES.find(name.state) >= model.model.cell.STATES:
        raise CharRNNError(
            f"a unit of this model, {config.cell}, has no c: give --unit {name.given[:-1]}."
        )
    return HiddenUnit(name.layer - 1, max(STATES.find(name.state), 0), name.number - 1)


class InspectedText(NamedTuple):
    """The start of a text, as characters and as the model's ids."""

    title: str
    text: str
    ids: np.ndarray
    ends: np.ndarray  # (len(text),) the index of the last id of each character


def _read_text(
    texts: Sequence[str],
    model: LanguageModel,
    encoding: str,
    unknown: Literal["error", "skip"],
) -> InspectedText:
    import numpy as np

    from ...text.corpus import read_corpus

    corpus = read_corpus(
        texts,
        encoding=encoding,
        vocabulary=model.vocabulary,
        unknown=unknown,
        separator=model.separator,
    )
    warn_unknown(corpus.skipped_characters)
    if corpus.num_empty:
        echo_err(f"note    {corpus.num_empty:,} empty records were left out")
    ids = corpus.ids[:MAX_CHARACTERS]
    if len(ids) < len(corpus.ids):
        echo_err(
            f"note    only the first {MAX_CHARACTERS:,} of {len(corpus.ids):,} "
            f"{model.vocabulary.unit}s are read"
        )
    text = model.vocabulary.decode(ids, "surrogateescape")
    ends = np.cumsum(model.vocabulary.ids_per_character(text)) - 1
    return InspectedText(corpus.title, text, ids, ends)


def _show_unit(
    model: LanguageModel, text: InspectedText, unit: HiddenUnit, html: str | None, as_json: bool
) -> None:
    from ...evaluation.activations import values
    from ..render.activation_report import unit_name
    from ..render.activations import colored_text, digit_rows, html_page, json_lines
    from ..render.color import use_color

    activations = values(model.model, text.ids, unit)[text.ends]
    name = unit_name(unit, model)
    if html:
        with page_file(html) as file:
            file.writelines(html_page(f"{text.title}: unit {name}", text.text, activations))
    elif as_json:
        stdout().writelines(json_lines(text.text, activations))
    elif use_color(stdout()):
        stdout().writelines(colored_text(name, text.text, activations))
    else:
        stdout().writelines(digit_rows(name, text.text, activations))


def _show_report(model: LanguageModel, text: InspectedText, as_json: bool) -> None:
    import numpy as np

    from ...evaluation.activations import measure_activations
    from ...evaluation.text_features import features
    from ..render.activation_report import json_object, table_rows

    counted = np.zeros(len(text.ids), bool)
    counted[text.ends] = True
    num_ids = np.diff(text.ends, prepend=-1)
    id_features = {name: np.repeat(a, num_ids) for name, a in features(text.text).items()}
    report = measure_activations(model.model, text.ids, id_features, counted)
    if as_json:
        print_json(json_object(report, model, len(text.text)))
    else:
        click.echo("\n".join(table_rows(report, model)))
