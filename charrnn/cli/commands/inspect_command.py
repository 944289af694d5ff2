"""`charrnn inspect`: the activations of a model's units and gates on a text."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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
from ..output import echo_err, page_file, stdout, warn_unknown

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ...api import LanguageModel
    from ...evaluation.activations import ActivationReport, HiddenUnit

MAX_CHARACTERS = 1_000_000  # that are read
STATES = "hc"


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
    first million characters are read. Several files are read as one text; `-` is stdin.

    \b
    Example:
      charrnn inspect novel.txt
      charrnn inspect --unit 1.37c novel.txt | less
      charrnn inspect --unit 1.37c --html page.html novel.txt
      charrnn inspect --embedding
    """
    _check_usage(texts, model, unit, html, embedding, as_json)
    parsed_unit = None if unit is None else UnitName.parse(unit)
    from ...api import load

    language_model = load(model, threads=1)
    if embedding:
        from ..render.embedding import show

        show(language_model, stdout(), as_json)
    elif parsed_unit is not None:
        hidden_unit = parsed_unit.find_in(language_model)
        text = InspectedText.read(texts, language_model, encoding, unknown)
        _show_unit(language_model, text, hidden_unit, html, as_json)
    else:
        text = InspectedText.read(texts, language_model, encoding, unknown)
        _show_report(language_model, text, as_json)


def _check_usage(
    texts: tuple[str, ...],
    model: str,
    unit: str | None,
    html: str | None,
    embedding: bool,
    as_json: bool,
) -> None:
    if embedding and (texts or unit is not None or html is not None):
        raise UsageError("--embedding describes the model alone: omit the text, --unit and --html.")
    if not (embedding or texts):
        raise UsageError("give a text to read, or --embedding; - is stdin.")
    if html is not None and (unit is None or as_json):
        raise UsageError("--html shows one unit: give it with --unit, without --json.")
    if html:
        require_not_input([html], (*texts, model), what="the page", option="--html")


class InspectedText(NamedTuple):
    """The beginning of a text."""

    title: str
    text: str
    ids: npt.NDArray[Any]
    ends: npt.NDArray[np.int64]  # (characters,) index of the last id of each character

    @classmethod
    def read(
        cls,
        paths: tuple[str, ...],
        model: LanguageModel,
        encoding: str,
        unknown: Literal["error", "skip"],
    ) -> InspectedText:
        import numpy as np

        from ...errors import escape_unprintable
        from ...text.corpus import read_corpus
        from ..line_scores import byte_sizes

        corpus = read_corpus(paths, encoding=encoding, vocabulary=model.vocabulary, unknown=unknown)
        warn_unknown(corpus.skipped_characters)
        ids = corpus.ids[:MAX_CHARACTERS]
        if len(ids) < len(corpus.ids):
            total = f"{len(corpus.ids):,} characters"
            echo_err(f"note    only the first {MAX_CHARACTERS:,} of {total} are read")
        title = ", ".join(map(escape_unprintable, corpus.names))
        if not model.vocabulary.is_bytes:
            return cls(title, model.vocabulary.decode(ids), ids, np.arange(len(ids)))
        text = ids.tobytes().decode("utf-8", "surrogateescape")
        return cls(title, text, ids, np.cumsum(byte_sizes(text)) - 1)


class UnitName(NamedTuple):
    """A unit as --unit names it; layers and numbers count from 1."""

    text: str
    layer: int
    number: int
    state: str  # h, c or "" for h

    @classmethod
    def parse(cls, text: str) -> UnitName:
        match = re.fullmatch(r"([1-9]\d{0,8})\.([1-9]\d{0,8})([hc]?)", text, re.ASCII)
        if not match:
            raise UsageError(f"--unit is a layer and a unit, such as 1.37 or 1.37c, not '{text}'.")
        return cls(text, int(match[1]), int(match[2]), match[3])

    def find_in(self, model: LanguageModel) -> HiddenUnit:
        """Return the unit of the model; CharRNNError if the model does not have it."""
        from ...evaluation.activations import HiddenUnit

        config = model.config
        if self.layer > config.num_layers or self.number > config.hidden_size:
            raise CharRNNError(
                f"the model has no unit {self.text}: it has layers 1 to {config.num_layers} "
                f"of units 1 to {config.hidden_size}."
            )
        state = max(STATES.find(self.state), 0)
        if state >= model.model.cell.STATES:
            raise CharRNNError(
                f"a unit of this model, {config.cell}, has no c: give --unit {self.text[:-1]}."
            )
        return HiddenUnit(self.layer - 1, state, self.number - 1)


def _name(unit: HiddenUnit, model: LanguageModel) -> str:
    state = STATES[unit.state] if model.model.cell.STATES > 1 else ""
    return f"{unit.layer + 1}.{unit.number + 1}{state}"


def _show_unit(
    model: LanguageModel, read: InspectedText, unit: HiddenUnit, html: str | None, as_json: bool
) -> None:
    from ...evaluation.activations import values
    from ..render import activations
    from ..render.color import color_wanted

    shown = values(model.model, read.ids, unit)[read.ends]
    name = _name(unit, model)
    if html:
        with page_file(html) as file:
            file.writelines(activations.page(f"{read.title}: unit {name}", read.text, shown))
        return
    out = stdout()
    if as_json:
        out.writelines(activations.objects(read.text, shown))
    elif color_wanted(out):
        out.writelines(activations.colored(name, read.text, shown))
    else:
        out.writelines(activations.digits(name, read.text, shown))


def _show_report(model: LanguageModel, read: InspectedText, as_json: bool) -> None:
    import numpy as np

    from ...evaluation.activations import measure_activations
    from ...evaluation.text_features import features

    counted = np.zeros(len(read.ids), bool)
    counted[read.ends] = True
    sizes = np.diff(read.ends, prepend=-1)
    of_ids = {name: np.repeat(a, sizes) for name, a in features(read.text).items()}
    report = measure_activations(model.model, read.ids, of_ids, counted)
    if as_json:
        click.echo(json.dumps(_object(report, model, len(read.text))))
    else:
        click.echo("\n".join([*_matches(report, model), "", *_gates(report, model)]))


def _matches(report: ActivationReport, model: LanguageModel) -> list[str]:
    if not (report.matches or report.unmatched):
        return ["no feature occurs in both halves of the text"]
    lines = ["correlation  unit      follows"]
    for match in report.matches:
        unit = _name(match.unit, model)
        lines.append(f"{match.correlation:>11.3f}  {unit:<8}  {match.feature}")
    if report.unmatched:
        lines.append(f"{'-':>11}  {'none':<8}  {', '.join(report.unmatched)}")
    return lines


def _gates(report: ActivationReport, model: LanguageModel) -> list[str]:
    gates = list(model.model.cell.SIGMOIDS)
    if not gates:
        return [f"gates     {model.config.cell} has none"]
    return ["layer  gate      under 0.1  over 0.9"] + [
        f"{k + 1:>5}  {gate:<8}  {report.low[k, g].mean():>9.1%}  {report.high[k, g].mean():>8.1%}"
        for k in range(model.config.num_layers)
        for g, gate in enumerate(gates)
    ]


def _object(report: ActivationReport, model: LanguageModel, characters: int) -> dict[str, object]:
    return {
        "characters": characters,
        "matches": [
            {
                "feature": match.feature,
                "unit": _name(match.unit, model),
                "correlation": match.correlation,
                "selection_correlation": match.selection_correlation,
            }
            for match in report.matches
        ],
        "unmatched": report.unmatched,
        "gates": [
            _gate_object(report, k, g, gate)
            for k in range(model.config.num_layers)
            for g, gate in enumerate(model.model.cell.SIGMOIDS)
        ],
    }


def _gate_object(report: ActivationReport, layer: int, index: int, name: str) -> dict[str, object]:
    low, high = report.low[layer, index], report.high[layer, index]
    return {
        "layer": layer + 1,
        "gate": name,
        "under": float(low.mean()),
        "over": float(high.mean()),
        "units_under": low.round(6).tolist(),
        "units_over": high.round(6).tolist(),
    }
