"""The report of `charrnn inspect` on all units and gates of a model: a table or JSON."""

from __future__ import annotations

from collections.abc import Iterator

from ...api import LanguageModel
from ...evaluation.activations import ActivationReport, HiddenUnit

STATES = "hc"


def unit_name(unit: HiddenUnit, model: LanguageModel) -> str:
    """Return LAYER.UNIT, counted from 1, and for a cell with two states which of them."""
    state = STATES[unit.state] if model.model.cell.STATES > 1 else ""
    return f"{unit.layer + 1}.{unit.number + 1}{state}"


def table_rows(report: ActivationReport, model: LanguageModel) -> list[str]:
    """Return the rows of the table: the unit for each feature, then the gates."""
    return [*_match_rows(report, model), "", *_gate_rows(report, model)]


def _match_rows(report: ActivationReport, model: LanguageModel) -> list[str]:
    if not (report.matches or report.unmatched):
        return ["no feature varies in both halves of the text"]
    rows = ["correlation  unit      feature"]
    for m in report.matches:
        rows.append(f"{m.correlation:>11.3f}  {unit_name(m.unit, model):<8}  {m.feature}")
    if report.unmatched:
        rows.append(f"{'-':>11}  {'none':<8}  {', '.join(report.unmatched)}")
    return rows


def _gate_rows(report: ActivationReport, model: LanguageModel) -> list[str]:
    if not model.model.cell.SIGMOIDS:
        return [f"gates     {model.config.cell} has none"]
    rows = ["layer  gate      closed <0.1  open >0.9"]
    for k, g, gate in _gates(model):
        closed, opened = report.low[k, g].mean(), report.high[k, g].mean()
        rows.append(f"{k + 1:>5}  {gate:<8}  {closed:>11.1%}  {opened:>9.1%}")
    return rows


def _gates(model: LanguageModel) -> Iterator[tuple[int, int, str]]:
    """Yield layer, number and name of each gate, in the order of the report."""
    for layer in range(model.config.num_layers):
        for number, name in enumerate(model.model.cell.SIGMOIDS):
            yield layer, number, name


def json_object(
    report: ActivationReport, model: LanguageModel, num_characters: int
) -> dict[str, object]:
    """Return the values of the table, and those of each unit's gates, for JSON."""
    return {
        "characters": num_characters,
        "matches": [
            {
                "feature": m.feature,
                "unit": unit_name(m.unit, model),
                "correlation": m.correlation,
                "selection_correlation": m.selection_correlation,
            }
            for m in report.matches
        ],
        "unmatched": report.unmatched,
        "gates": [
            {
                "layer": k + 1,
                "gate": gate,
                "fraction_closed": float(report.low[k, g].mean()),
                "fraction_open": float(report.high[k, g].mean()),
                "unit_fractions_closed": report.low[k, g].round(6).tolist(),
                "unit_fractions_open": report.high[k, g].round(6).tolist(),
            }
            for k, g, gate in _gates(model)
        ],
    }
