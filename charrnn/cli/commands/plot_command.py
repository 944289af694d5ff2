"""`charrnn plot`: how runs of training went, as a chart of characters or as a figure in a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import CharRNNError, UsageError, escape_unprintable
from ...storage.inputs import require_not_input
from ..options import FILE, echo_err

if TYPE_CHECKING:
    from ..render.run_curves import RunCurves

LOG = "model.log.jsonl"
ENDINGS = (".png", ".svg", ".pdf")
MOST_RUNS = 26  # there is a letter for each


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
    from ..render.run_curves import axis_unit, chart_rows

    runs = _read(logs or (LOG,), x)
    unit = axis_unit(x, max(float(curve.x.max(initial=0)) for r in runs for curve in r[2:]))
    if output is None:
        if len(runs) > MOST_RUNS:
            raise UsageError(
                f"a chart has room for {MOST_RUNS} runs, not {len(runs)}: -o FILE.svg draws more."
            )
        for row in chart_rows(runs, unit, ascii or not _braille()):
            click.echo(row, color=True)
        return
    require_not_input(
        [output], logs or (LOG,), what="the figure", kind="the log", option="--output"
    )
    from ..render.figure import write_figure

    write_figure(output, ending[1:], runs, unit)


def _read(paths: tuple[str, ...], axis: str) -> list[RunCurves]:
    """The runs that have losses to draw; says which have not, or raises if it is all."""
    from ...evaluation.training_log import log_beside, read_loss_history
    from ..render.run_curves import RunCurves

    logs = list(dict.fromkeys(map(log_beside, paths)))
    runs, empty = [], []
    for name, log in zip(_names(logs), logs, strict=True):
        course = read_loss_history(log)
        if course.damaged:
            lines = f"{course.damaged:,} of its lines"
            echo_err(f"Warning: {escape_unprintable(log)}: left out what is damaged, {lines}.")
        run = RunCurves(name, course, *(course.curve(v, axis) for v in (course.train, course.val)))
        (runs if len(run.train.x) or len(run.val.x) else empty).append(run)
    if not runs:
        raise CharRNNError(
            f"{' and '.join(run.name for run in empty)}: there is no loss in the log yet; "
            "the run has only just begun, or never did."
        )
    for run in empty:
        echo_err(f"note    {run.name} is left out: there is no loss in its log yet")
    return runs


def _names(logs: list[str]) -> list[str]:
    """What to call the runs: file names without their ending, or paths if these are the same."""
    paths = ["stdin" if log == "-" else log.removesuffix(".log.jsonl") for log in logs]
    names = [os.path.basename(path) or path for path in paths]
    return [escape_unprintable(n) for n in (names if len(set(names)) == len(names) else paths)]


def _braille() -> bool:
    """Whether stdout, as far as one can know, shows Braille."""
    if os.environ.get("TERM") in ("linux", "dumb") and sys.stdout.isatty():
        return False
    try:
        "\u2800┤●⠒".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
