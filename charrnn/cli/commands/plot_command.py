"""`charrnn plot`: the losses of training runs, as a chart on the terminal or a figure in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import UsageError
from ...storage.inputs import require_not_input
from ..options import FILE, Command, option

if TYPE_CHECKING:
    from ..render.run_curves import AxisUnit, RunCurves

LOG = "model.log.jsonl"
FIGURE_ENDINGS = (".png", ".svg", ".pdf")


@click.command("plot", cls=Command)
@click.argument("logs", metavar="[LOG]...", nargs=-1, type=FILE)
@option(
    "-o",
    "--output",
    type=FILE,
    help="Write a figure to FILE instead of the chart. Its name ends in .png, .svg or .pdf.",
)
@option(
    "-x",
    "--x-axis",
    type=click.Choice(["seconds", "steps", "epochs", "chars"]),
    default="seconds",
    help="Horizontal axis: training time, updates, epochs or characters read.",
)
@option("--ascii", "ascii_only", is_flag=True, help="Draw with ASCII characters only.")
def command(logs: tuple[str, ...], output: str | None, x_axis: str, ascii_only: bool) -> None:
    """Draw the losses of training runs.

    LOG is the .log.jsonl of a run, or its model, whose log has the same name; `-` is stdin. Without
    LOG, model.log.jsonl is read. The run may still be in progress. The loss is in nats per
    character; lower is better.

    The chart of one run shows the validation loss as a line with its minimum marked, and the
    training loss as dots. The chart of several runs shows the validation losses, each with a
    letter, which is a capital at the minimum. A steep beginning is cut off. The chart fills the
    terminal, or 80 x 24 characters in a pipe; NO_COLOR disables its colors. A figure requires
    Matplotlib: pip install 'charrnn[plot]'.

    \b
    Example:
      charrnn plot
      charrnn plot small.safetensors large.safetensors --x-axis epochs
      charrnn plot runs/*.log.jsonl -o losses.svg
      watch -n 5 charrnn plot
    """
    logs = logs or (LOG,)
    if output is not None:
        _check_figure(output)
    from ..render.run_curves import axis_unit, read_runs

    runs = read_runs(logs, x_axis)
    unit = axis_unit(x_axis, runs)
    if output is None:
        _print_chart(runs, unit, ascii_only)
    else:
        _write_figure(output, logs, runs, unit)


def _check_figure(output: str) -> None:
    if Path(output).suffix.lower() not in FIGURE_ENDINGS:
        raise UsageError(
            f"{output}: the name of a figure must end in .png, .svg or .pdf, which sets its format."
        )


def _print_chart(runs: list[RunCurves], unit: AxisUnit, ascii_only: bool) -> None:
    from ..render.run_chart import MAX_RUNS, run_chart

    if len(runs) > MAX_RUNS:
        raise UsageError(
            f"a chart shows at most {MAX_RUNS} runs, not {len(runs)}: -o FILE.svg draws more."
        )
    for row in run_chart(runs, unit, ascii_only or not _shows_braille()):
        click.echo(row, color=True)


def _write_figure(output: str, logs: Sequence[str], runs: list[RunCurves], unit: AxisUnit) -> None:
    require_not_input([output], logs, what="the figure", kind="the log", option="--output")
    from ..render.figure import write_figure

    write_figure(output, Path(output).suffix.lower().removeprefix("."), runs, unit)


def _shows_braille() -> bool:
    """Whether stdout can show Braille, as far as its terminal and its encoding say."""
    if os.environ.get("TERM") in ("linux", "dumb") and sys.stdout.isatty():
        return False
    try:
        "\u2800┤●⠒".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
