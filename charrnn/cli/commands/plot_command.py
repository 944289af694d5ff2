"""`charrnn plot`: the losses of training runs, as a chart on the terminal or a figure in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import UsageError
from ..options import FILE

if TYPE_CHECKING:
    from ..render.run_curves import AxisUnit, RunCurves

LOG = "model.log.jsonl"
FIGURE_ENDINGS = (".png", ".svg", ".pdf")


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
def command(logs: tuple[str, ...], output: str | None, x: str, ascii: bool) -> None:
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
    logs = logs or (LOG,)
    if output is not None:
        _check_figure(output)
    from ..render.run_curves import axis_unit, read_runs

    runs = read_runs(logs, x)
    unit = axis_unit(x, runs)
    if output is None:
        _print_chart(runs, unit, ascii)
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
    for log in logs:
        if os.path.exists(output) and os.path.exists(log) and os.path.samefile(output, log):
            raise UsageError(f"the figure would replace {log}; give another name to --output.")
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
