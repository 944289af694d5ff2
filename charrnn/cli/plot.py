"""`charrnn plot`: how runs of training went, as a chart of characters or as a figure in a file."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, NamedTuple

import click

from ..errors import CharRNNError, UsageError, printable
from .common import FILE, say

if TYPE_CHECKING:
    from ..curves import Course, Curve
    from .chart import Line

LOG = "model.log.jsonl"
ENDINGS = (".png", ".svg", ".pdf")
MOST_RUNS = 26  # there is a letter for each
TIMES = ((3600, "hours", "h"), (60, "minutes", "min"), (1, "seconds", "s"))
UNITS = {"steps": "steps", "epochs": "epochs", "chars": "characters"}


class Run(NamedTuple):
    name: str
    course: Course
    train: Curve  # the points of these two are losses over the axis asked for
    val: Curve

    def best(self) -> tuple[float, float] | None:
        """The lowest validation loss, as a point."""
        if not len(self.val.x):
            return None
        at = int(self.val.y.argmin())
        return float(self.val.x[at]), float(self.val.y[at])


class Unit(NamedTuple):
    """What is written at the x axis: its values are divided by `size`."""

    size: float
    name: str

    def of(self, value: float) -> str:
        """A value in words; a time in the unit that suits it."""
        if self.name in UNITS.values():
            return f"{value:,.0f} {self.name}" if value >= 1000 else f"{value:.3g} {self.name}"
        size, _, short = _time(value)
        return f"{value / size:.3g} {short}"


@click.command("plot")
@click.argument("logs", metavar="[LOG]...", nargs=-1, type=FILE)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="Draw a figure with Matplotlib and write it to FILE, which ends in .png, .svg or .pdf.",
)
@click.option(
    "-x",
    "--x",
    type=click.Choice(["seconds", "steps", "epochs", "chars"]),
    default="seconds",
    help="What the losses are drawn over: time, updates, passes over the text, characters read.",
)
@click.option("--ascii", is_flag=True, help="Draw with ASCII characters only.")
def command(logs, output, x, ascii) -> None:
    """Draw the losses of training runs.

    LOG is the .log.jsonl of a run, or its model, which has the log beside it; without one it is
    model.log.jsonl; `-` is stdin. A run may still be going on. The loss is in nats per character:
    the lower, the better.

    The chart of a single run has its validation loss as a line, the best marked, and its training
    loss as dots. That of several runs has the validation losses, each with a letter, a capital at
    its best. A steep beginning is cut off. The chart fills the terminal, or 80 x 24 characters in
    a pipe; NO_COLOR turns its colours off. A figure needs Matplotlib: pip install 'charrnn[plot]'.

    \b
    Example:
      charrnn plot
      charrnn plot small.safetensors large.safetensors --x epochs
      charrnn plot runs/*.log.jsonl -o losses.svg
      watch -n 5 charrnn plot
    """
    ending = Path(output).suffix.lower() if output is not None else None
    if ending is not None and ending not in ENDINGS:
        raise UsageError(
            f"{output}: a figure's name ends in .png, .svg or .pdf, which says what it is."
        )
    runs = _read(logs or (LOG,), x)
    unit = _unit(x, max(float(curve.x.max(initial=0)) for r in runs for curve in r[2:]))
    if output is None:
        if len(runs) > MOST_RUNS:
            raise UsageError(
                f"a chart has room for {MOST_RUNS} runs, not {len(runs)}: -o FILE.svg draws more."
            )
        for row in _chart(runs, unit, ascii or not _braille()):
            click.echo(row, color=True)
        return
    _keep_logs(output, logs)
    from .figure import write_figure

    write_figure(output, ending[1:], runs, unit)


def _read(paths: tuple[str, ...], axis: str) -> list[Run]:
    """The runs that have losses to draw; says which have not, or raises if it is all."""
    from ..curves import log_beside, read_course

    logs = list(dict.fromkeys(map(log_beside, paths)))
    runs, empty = [], []
    for name, log in zip(_names(logs), logs, strict=True):
        course = read_course(log)
        if course.damaged:
            lines = f"{course.damaged:,} of its lines"
            say(f"Warning: {printable(log)}: left out what is damaged, {lines}.")
        run = Run(name, course, *(course.curve(v, axis) for v in (course.train, course.val)))
        (runs if len(run.train.x) or len(run.val.x) else empty).append(run)
    if not runs:
        raise CharRNNError(
            f"{' and '.join(run.name for run in empty)}: there is no loss in the log yet; "
            "the run has only just begun, or never did."
        )
    for run in empty:
        say(f"note    {run.name} is left out: there is no loss in its log yet")
    return runs


def _names(logs: list[str]) -> list[str]:
    """What to call the runs: file names without their ending, or paths if these are the same."""
    paths = ["stdin" if log == "-" else log.removesuffix(".log.jsonl") for log in logs]
    names = [os.path.basename(path) or path for path in paths]
    return [printable(n) for n in (names if len(set(names)) == len(names) else paths)]


def _keep_logs(output: str, logs: tuple[str, ...]) -> None:
    for log in logs or (LOG,):
        if os.path.exists(output) and os.path.exists(log) and os.path.samefile(output, log):
            raise UsageError(f"the figure would replace {log}; give another name to --output.")


def _unit(axis: str, end: float) -> Unit:
    return Unit(1, UNITS[axis]) if axis in UNITS else Unit(*_time(end / 2)[:2])


def _time(seconds: float) -> tuple[float, str, str]:
    """The largest unit of time of which this is one or more: its seconds, its names."""
    return next((unit for unit in TIMES if seconds >= unit[0]), TIMES[-1])


def _braille() -> bool:
    """Whether stdout, as far as one can know, shows Braille."""
    if os.environ.get("TERM") in ("linux", "dumb") and sys.stdout.isatty():
        return False
    try:
        "\u2800┤●⠒".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _chart(runs: list[Run], unit: Unit, ascii: bool) -> list[str]:
    """The rows of the chart, one less than the terminal has, so that the prompt has room."""
    from .chart import COLORS, chart

    size = shutil.get_terminal_size()
    on_terminal = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    colors = [COLORS[i % len(COLORS)] if on_terminal else 0 for i in range(max(len(runs), 2))]
    head = _several(runs, unit, colors) if len(runs) > 1 else _single(runs[0], unit, colors, ascii)
    lines = _lines(runs, unit, colors, ascii)
    room = size.lines - 1 - len(head)
    return head + chart(lines, size.columns, room, unit.name, ascii=ascii)


def _lines(runs: list[Run], unit: Unit, colors: list[int], ascii: bool) -> list[Line]:
    """What the chart draws: both losses of one run, or of each the one that compares best."""
    from .chart import Line

    if len(runs) == 1:
        [run] = runs
        best = run.best() and (*_scaled(run.best(), unit), "O" if ascii else "●")
        val = Line(_over(run.val, unit), "*", colors[0], best=best)
        return [val, Line(_over(run.train, unit), ".", colors[1], dotted=True)]
    lines = []
    for run, letter, color in zip(runs, ascii_lowercase, colors, strict=False):
        best = run.best() and (*_scaled(run.best(), unit), letter.upper())
        curve = _over(run.val if best else run.train, unit)
        lines.append(Line(curve, letter, color, best=best))
    return lines


def _over(curve: Curve, unit: Unit) -> Curve:
    return curve._replace(x=curve.x / unit.size)


def _scaled(point: tuple[float, float], unit: Unit) -> tuple[float, float]:
    return point[0] / unit.size, point[1]


def _single(run: Run, unit: Unit, colors: list[int], ascii: bool) -> list[str]:
    """What stands above the chart of one run."""
    from .chart import painted

    signs = ("**", "..") if ascii else ("⠤⠤", "⠄⠄")
    val, train = (painted(sign, color) for sign, color in zip(signs, colors, strict=False))
    rows = [f"{run.name}, nats per character"]
    if best := run.best():
        mark = painted("O" if ascii else "●", colors[0])
        last = f", last {_nats(run.val.y[-1])}"
        rows.append(f"{val} validation  best {_nats(best[1])} {mark} at {unit.of(best[0])}{last}")
    else:
        rows.append("   validation  none yet")
    if len(run.train.y):
        rows.append(f"{train} training    last {_nats(run.train.y[-1])}")
    return rows


def _nats(loss: float) -> str:
    return f"{loss:.4f}" if abs(loss) < 1000 else f"{loss:.3g}"


def _several(runs: list[Run], unit: Unit, colors: list[int]) -> list[str]:
    """What stands above the chart of several runs: a table."""
    from .chart import painted

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
        rows.append(f"{painted(letter, color)} {name:<{width}}  {found}  {train}")
    return rows
