"""The loss curves of one run or several, as rows of characters."""

from __future__ import annotations

import os
import shutil
import sys
from string import ascii_lowercase
from typing import NamedTuple

from ...evaluation.training_log import Curve, LossHistory
from .chart import PlotLine

TIMES = ((3600, "hours", "h"), (60, "minutes", "min"), (1, "seconds", "s"))
UNITS = {"steps": "steps", "epochs": "epochs", "chars": "characters"}


class RunCurves(NamedTuple):
    name: str
    course: LossHistory
    train: Curve  # the points of these two are losses over the axis asked for
    val: Curve

    def best(self) -> tuple[float, float] | None:
        """The lowest validation loss, as a point."""
        if not len(self.val.x):
            return None
        at = int(self.val.y.argmin())
        return float(self.val.x[at]), float(self.val.y[at])


class AxisUnit(NamedTuple):
    """What is written at the x axis: its values are divided by `size`."""

    size: float
    name: str

    def of(self, value: float) -> str:
        """A value in words; a time in the unit that suits it."""
        if self.name in UNITS.values():
            return f"{value:,.0f} {self.name}" if value >= 1000 else f"{value:.3g} {self.name}"
        size, _, short = _time(value)
        return f"{value / size:.3g} {short}"


def axis_unit(axis: str, end: float) -> AxisUnit:
    return AxisUnit(1, UNITS[axis]) if axis in UNITS else AxisUnit(*_time(end / 2)[:2])


def _time(seconds: float) -> tuple[float, str, str]:
    """The largest unit of time of which this is one or more: its seconds, its names."""
    return next((unit for unit in TIMES if seconds >= unit[0]), TIMES[-1])


def chart_rows(runs: list[RunCurves], unit: AxisUnit, ascii: bool) -> list[str]:
    """The rows of the chart, one less than the terminal has, so that the prompt has room."""
    from ..render.chart import COLORS, chart

    size = shutil.get_terminal_size()
    on_terminal = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    colors = [COLORS[i % len(COLORS)] if on_terminal else 0 for i in range(max(len(runs), 2))]
    head = _several(runs, unit, colors) if len(runs) > 1 else _single(runs[0], unit, colors, ascii)
    lines = _lines(runs, unit, colors, ascii)
    room = size.lines - 1 - len(head)
    return head + chart(lines, size.columns, room, unit.name, ascii=ascii)


def _lines(runs: list[RunCurves], unit: AxisUnit, colors: list[int], ascii: bool) -> list[PlotLine]:
    """What the chart draws: both losses of one run, or of each the one that compares best."""
    from ..render.chart import PlotLine

    if len(runs) == 1:
        [run] = runs
        best = run.best() and (*_scaled(run.best(), unit), "O" if ascii else "●")
        val = PlotLine(_over(run.val, unit), "*", colors[0], best=best)
        return [val, PlotLine(_over(run.train, unit), ".", colors[1], dotted=True)]
    lines = []
    for run, letter, color in zip(runs, ascii_lowercase, colors, strict=False):
        best = run.best() and (*_scaled(run.best(), unit), letter.upper())
        curve = _over(run.val if best else run.train, unit)
        lines.append(PlotLine(curve, letter, color, best=best))
    return lines


def _over(curve: Curve, unit: AxisUnit) -> Curve:
    return curve._replace(x=curve.x / unit.size)


def _scaled(point: tuple[float, float], unit: AxisUnit) -> tuple[float, float]:
    return point[0] / unit.size, point[1]


def _single(run: RunCurves, unit: AxisUnit, colors: list[int], ascii: bool) -> list[str]:
    """What stands above the chart of one run."""
    from ..render.chart import colorize

    signs = ("**", "..") if ascii else ("⠤⠤", "⠄⠄")
    val, train = (colorize(sign, color) for sign, color in zip(signs, colors, strict=False))
    rows = [f"{run.name}, nats per character"]
    if best := run.best():
        mark = colorize("O" if ascii else "●", colors[0])
        last = f", last {_nats(run.val.y[-1])}"
        rows.append(f"{val} validation  best {_nats(best[1])} {mark} at {unit.of(best[0])}{last}")
    else:
        rows.append("   validation  none yet")
    if len(run.train.y):
        rows.append(f"{train} training    last {_nats(run.train.y[-1])}")
    return rows


def _nats(loss: float) -> str:
    return f"{loss:.4f}" if abs(loss) < 1000 else f"{loss:.3g}"


def _several(runs: list[RunCurves], unit: AxisUnit, colors: list[int]) -> list[str]:
    """What stands above the chart of several runs: a table."""
    from ..render.chart import colorize

    columns = shutil.get_terminal_size().columns
    widest = max(max(len(run.name) for run in runs), 18)
    width = max(min(widest, columns - 48), 8)
    rows = [f"{'nats per character':<{width + 2}}  {'best':>7}  at{'':10}  {'last':>7}  training"]
    for run, letter, color in zip(runs, ascii_lowercase, colors, strict=False):
        name = run.name if len(run.name) <= width else "..." + run.name[3 - width :]
        best = run.best()
        found = (
            f"{_nats(best[1]):>7}  {unit.of(best[0]):12}  {_nats(run.val.y[-1]):>7}"
            if best
            else (f"{'-':>7}  {'no validation yet':21}")
        )
        train = f"{_nats(run.train.y[-1]):>8}" if len(run.train.y) else f"{'-':>8}"
        rows.append(f"{colorize(letter, color)} {name:<{width}}  {found}  {train}")
    return rows
