"""`charrnn inspect`: what the cells of a model do."""

from __future__ import annotations

import json as json_
import re
from typing import TYPE_CHECKING, NamedTuple

import click

from ...errors import CharRNNError, UsageError
from ..options import (
    check_page,
    echo_err,
    json_option,
    model_option,
    page_file,
    stdout,
    unknown_option,
    warn_unknown,
)

if TYPE_CHECKING:
    import numpy as np

    from ...api import LanguageModel
    from ...evaluation.activations import ActivationReport, HiddenUnit

MOST = 1_000_000  # characters that are read
STATES = "hc"


@click.command("inspect")
@click.argument("texts", metavar="TEXT...", nargs=-1)
@model_option
@click.option(
    "--unit",
    metavar="LAYER.UNIT",
    help="Show the activation of one unit over the text, such as 2.37 or 2.37c; both count from 1.",
)
@click.option(
    "--html",
    metavar="FILE",
    help="With --unit, write a page to FILE (- is stdout); under the mouse a character tells its "
    "value.",
)
@click.option(
    "--embedding",
    is_flag=True,
    help="Draw the model's characters, side by side those it expects in the same places; this "
    "needs no text.",
)
@json_option
@unknown_option
@click.option("--encoding", default="utf-8", help="How the text is encoded.")
def command(texts, model, unit, html, embedding, json, unknown, encoding) -> None:
    """Show what the cells of a model do.

    For each feature of the text, such as being within quotes or the position in the line, it finds
    the unit whose value follows it best: chosen by its correlation in the first half of the text,
    and told with that in the second. A unit has a value h after each character, in an LSTM a cell c
    too. Below stands how often the gates are closed (under 0.1) and open (over 0.9). This is after
    Karpathy, Johnson & Fei-Fei 2015, "Visualizing and understanding recurrent networks".

    --unit shows a unit at work, in colours where the terminal has them, else in digits. The first
    million characters are read. Several files are read as one text; `-` is stdin.

    \b
    Example:
      charrnn inspect novel.txt
      charrnn inspect --unit 1.37c novel.txt | less
      charrnn inspect --unit 1.37c --html page.html novel.txt
      charrnn inspect --embedding
    """
    _check_usage(texts, model, unit, html, embedding, json)
    where = None if unit is None else _parsed(unit)
    from ...api import load

    language_model = load(model, threads=1)
    if embedding:
        from ..render import embedding as plane

        plane.show(language_model, stdout(), json)
        return
    if where:
        where = _unit(language_model, *where, unit)
    read = _read(texts, language_model, encoding, unknown)
    if where:
        _show_unit(language_model, read, where, html, json)
    else:
        _show_survey(language_model, read, json)


def _check_usage(texts, model, unit, html, embedding, json) -> None:
    if embedding and (texts or unit is not None or html is not None):
        raise UsageError("--embedding is about the model alone: give no text, --unit or --html.")
    if not (embedding or texts):
        raise UsageError("give a text to read, or --embedding; - is stdin.")
    if html is not None and (unit is None or json):
        raise UsageError("--html shows one unit: give it with --unit, without --json.")
    check_page(html, (*texts, model))


class _Read(NamedTuple):
    """The beginning of a text."""

    title: str
    text: str
    ids: np.ndarray
    ends: np.ndarray  # where in the ids each character ends


def _read(texts, model: LanguageModel, encoding: str, unknown: str) -> _Read:
    import numpy as np

    from ...errors import escape_unprintable
    from ...text.corpus import read_corpus

    corpus = read_corpus(texts, encoding=encoding, vocabulary=model.vocabulary, unknown=unknown)
    warn_unknown(corpus.skipped_characters)
    ids = corpus.ids[:MOST]
    if len(ids) < len(corpus.ids):
        echo_err(f"note    only the first {MOST:,} of {len(corpus.ids):,} characters are read")
    title = ", ".join(map(escape_unprintable, corpus.names))
    text = model.vocabulary.decode(ids, "surrogateescape")
    return _Read(title, text, ids, np.cumsum(model.vocabulary.ids_per_character(text)) - 1)


def _parsed(unit: str) -> tuple[int, int, str]:
    """Layer, number and state as they were given."""
    found = re.fullmatch(r"([1-9]\d{0,8})\.([1-9]\d{0,8})([hc]?)", unit, re.ASCII)
    if not found:
        raise UsageError(f"--unit is a layer and a unit, such as 1.37 or 1.37c, not '{unit}'.")
    return int(found[1]), int(found[2]), found[3]


def _unit(model: LanguageModel, layer: int, number: int, state: str, given: str) -> HiddenUnit:
    from ...evaluation.activations import HiddenUnit

    config, states = model.config, model.model.cell.STATES
    if layer > config.num_layers or number > config.hidden_size:
        raise CharRNNError(
            f"the model has no unit {given}: it has layers 1 to {config.num_layers} "
            f"of units 1 to {config.hidden_size}."
        )
    if STATES.find(state) >= states:
        raise CharRNNError(
            f"a unit of this model, {config.cell}, has no c: give --unit {given[:-1]}."
        )
    return HiddenUnit(layer - 1, max(STATES.find(state), 0), number - 1)


def _name(unit: HiddenUnit, model: LanguageModel) -> str:
    state = STATES[unit.state] if model.model.cell.STATES > 1 else ""
    return f"{unit.layer + 1}.{unit.number + 1}{state}"


def _show_unit(
    model: LanguageModel, read: _Read, unit: HiddenUnit, html: str | None, json: bool
) -> None:
    from ...evaluation.activations import values
    from ..render import activations as units
    from ..render.color import color_wanted

    found = values(model.model, read.ids, unit)[read.ends]
    name = _name(unit, model)
    if html:
        with page_file(html) as file:
            file.writelines(units.page(f"{read.title}: unit {name}", read.text, found))
        return
    out = stdout()
    if json:
        out.writelines(units.objects(read.text, found))
    elif color_wanted(out):
        out.writelines(units.colored(name, read.text, found))
    else:
        out.writelines(units.digits(name, read.text, found))


def _show_survey(model: LanguageModel, read: _Read, json: bool) -> None:
    import numpy as np

    from ...evaluation.activations import measure_activations
    from ...evaluation.text_features import features

    counted = np.zeros(len(read.ids), bool)
    counted[read.ends] = True
    sizes = np.diff(read.ends, prepend=-1)
    of_ids = {name: np.repeat(a, sizes) for name, a in features(read.text).items()}
    found = measure_activations(model.model, read.ids, of_ids, counted)
    if json:
        click.echo(json_.dumps(_object(found, model, len(read.text))))
    else:
        click.echo("\n".join([*_followers(found, model), "", *_gates(found, model)]))


def _followers(found: ActivationReport, model: LanguageModel) -> list[str]:
    rows = [
        f"{f.correlation:>11.3f}  {_name(f.unit, model):<8}  {f.feature}" for f in found.matches
    ]
    lines = ["correlation  unit      follows", *rows]
    if found.unmatched:
        lines.append(f"{'-':>11}  {'none':<8}  {', '.join(found.unmatched)}")
    return lines if rows or found.unmatched else ["no feature occurs in both halves of the text"]


def _gates(found: ActivationReport, model: LanguageModel) -> list[str]:
    gates = list(model.model.cell.SIGMOIDS)
    if not gates:
        return [f"gates     {model.config.cell} has none"]
    return ["layer  gate      under 0.1  over 0.9"] + [
        f"{k + 1:>5}  {gate:<8}  {found.low[k, g].mean():>9.1%}  {found.high[k, g].mean():>8.1%}"
        for k in range(model.config.num_layers)
        for g, gate in enumerate(gates)
    ]


def _object(found: ActivationReport, model: LanguageModel, characters: int) -> dict[str, object]:
    return {
        "characters": characters,
        "followers": [
            {
                "feature": f.feature,
                "unit": _name(f.unit, model),
                "correlation": f.correlation,
                "first_half": f.selection_correlation,
            }
            for f in found.matches
        ],
        "unfollowed": found.unmatched,
        "gates": [
            {
                "layer": k + 1,
                "gate": gate,
                "under": float(found.low[k, g].mean()),
                "over": float(found.high[k, g].mean()),
                "units_under": found.low[k, g].round(6).tolist(),
                "units_over": found.high[k, g].round(6).tolist(),
            }
            for k in range(model.config.num_layers)
            for g, gate in enumerate(model.model.cell.SIGMOIDS)
        ],
    }
