"""The chart of training runs on a terminal: a legend above the curves."""

from __future__ import annotations

import os
import shutil
import sys
from string import ascii_lowercase

from ...evaluation.training_log import Curve
from .chart import COLORS, PlotLine, chart, color_text
from .run_curves import AxisUnit, RunCurves

MAX_RUNS = len(ascii_lowercase)  # a letter labels each
TABLE_WIDTH = 48  # columns of the legend's table beside the name


def run_chart(runs: list[RunCurves], unit: AxisUnit, ascii_only: bool) -> list[str]:
    """Return the rows of the chart, one less than the terminal has, for the shell's prompt."""
    size = shutil.get_terminal_size()
    use_color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    colors = [COLORS[i % len(COLORS)] if use_color else 0 for i in range(max(len(runs), 2))]
    if len(runs) == 1:
        legend = _legend(runs[0], unit, colors, ascii_only)
        lines = _lines_of_one(runs[0], unit, colors, ascii_only)
    else:
        legend = _legend_table(runs, unit, colors, size.columns)
        lines = _lines_of_several(runs, unit, colors)
    height = size.lines - 1 - len(legend)
    return legend + chart(lines, size.columns, height, unit.name, ascii_only=ascii_only)


def _lines_of_one(
    run: RunCurves, unit: AxisUnit, colors: list[int], ascii_only: bool
) -> list[PlotLine]:
    best = _best_mark(run, unit, _best_symbol(ascii_only))
    val = PlotLine(_rescale(run.val, unit), "*", colors[0], best=best)
    return [val, PlotLine(_rescale(run.train, unit), ".", colors[1], dotted=True)]


def _lines_of_several(runs: list[RunCurves], unit: AxisUnit, colors: list[int]) -> list[PlotLine]:
    """Return the validation loss of each run, or its training loss if it has no other."""
    lines = []
    for run, letter, color in zip(runs, ascii_lowercase, colors, strict=False):
        best = _best_mark(run, unit, letter.upper())
        curve = _rescale(run.val if best else run.train, unit)
        lines.append(PlotLine(curve, letter, color, best=best))
    return lines


def _best_mark(run: RunCurves, unit: AxisUnit, symbol: str) -> tuple[float, float, str] | None:
    best = run.best_point()
    return (best[0] / unit.size, best[1], symbol) if best else None


def _best_symbol(ascii_only: bool) -> str:
    return "O" if ascii_only else "●"


def _rescale(curve: Curve, unit: AxisUnit) -> Curve:
    return curve._replace(x=curve.x / unit.size)


def _legend(run: RunCurves, unit: AxisUnit, colors: list[int], ascii_only: bool) -> list[str]:
    """Return the rows above the chart of one run."""
    samples = ("**", "..") if ascii_only else ("⠤⠤", "⠄⠄")
    val, train = map(color_text, samples, colors)
    rows = [f"{run.name}, nats per character"]
    if best := run.best_point():
        mark = color_text(_best_symbol(ascii_only), colors[0])
        at = f"{_nats(best[1])} {mark} at {unit.describe(best[0])}"
        rows.append(f"{val} validation  best {at}, last {_nats(run.val.y[-1])}")
    else:
        rows.append("   validation  none yet")
    if len(run.train.y):
        rows.append(f"{train} training    last {_nats(run.train.y[-1])}")
    return rows


def _nats(loss: float) -> str:
    return f"{loss:.4f}" if abs(loss) < 1000 else f"{loss:.3g}"


def _legend_table(
    runs: list[RunCurves], unit: AxisUnit, colors: list[int], columns: int
) -> list[str]:
    """Return the rows above the chart of several runs."""
    longest = max(max(len(run.name) for run in runs), 18)
    width = max(min(longest, columns - TABLE_WIDTH), 8)
    rows = [f"{'nats per character':<{width + 2}}  {'best':>7}  at{'':10}  {'last':>7}  training"]
    for run, letter, color in zip(runs, ascii_lowercase, colors, strict=False):
        name = run.name if len(run.name) <= width else "..." + run.name[3 - width :]
        rows.append(f"{color_text(letter, color)} {name:<{width}}  {_loss_cells(run, unit)}")
    return rows


def _loss_cells(run: RunCurves, unit: AxisUnit) -> str:
    best = run.best_point()
    if best:
        val = f"{_nats(best[1]):>7}  {unit.describe(best[0]):12}  {_nats(run.val.y[-1]):>7}"
    else:
        val = f"{'-':>7}  {'no validation yet':21}"
    train = _nats(run.train.y[-1]) if len(run.train.y) else "-"
    return f"{val}  {train:>8}"
