"""`charrnn plot`: the losses of training runs, as a chart of characters or a figure in a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import CharRNNError, UsageError, escape_unprintable
from ...storage.inputs import require_not_input
from ..options import FILE, Command, option
from ..output import echo_err

if TYPE_CHECKING:
    from ..render.run_curves import RunCurves

LOG = "model.log.jsonl"
FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
MAX_RUNS = 26  # of a chart, which has a letter for each


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
    suffix = _figure_suffix(output)
    from ..render.run_curves import axis_unit, chart_rows

    runs = _read_runs(logs, x_axis)
    unit = axis_unit(x_axis, max(float(curve.x.max(initial=0)) for r in runs for curve in r[2:]))
    if output is not None:
        require_not_input([output], logs, what="the figure", kind="the log", option="--output")
        from ..render.figure import write_figure

        write_figure(output, suffix[1:], runs, unit)
        return
    if len(runs) > MAX_RUNS:
        raise UsageError(
            f"a chart shows at most {MAX_RUNS} runs, not {len(runs)}: use -o FILE.svg for more."
        )
    for row in chart_rows(runs, unit, ascii_only or not _can_show_braille()):
        click.echo(row, color=True)


def _figure_suffix(output: str | None) -> str:
    """The file type of a figure; nothing for a chart."""
    if output is None:
        return ""
    suffix = Path(output).suffix.lower()
    if suffix not in FIGURE_SUFFIXES:
        raise UsageError(f"{output}: the name of a figure must end in .png, .svg or .pdf.")
    return suffix


def _read_runs(paths: tuple[str, ...], axis: str) -> list[RunCurves]:
    """Read the runs that have losses. Names those without; CharRNNError if no run has any."""
    from ...evaluation.training_log import log_beside

    logs = list(dict.fromkeys(map(log_beside, paths)))
    runs = [_read_run(name, log, axis) for name, log in zip(_names(logs), logs, strict=True)]
    empty = [run.name for run in runs if not _has_losses(run)]
    if len(empty) == len(runs):
        raise CharRNNError(
            f"{' and '.join(empty)}: the log holds no loss yet; the run has only just begun, "
            "or never did."
        )
    for name in empty:
        echo_err(f"note    {name} is omitted: its log holds no loss yet")
    return list(filter(_has_losses, runs))


def _read_run(name: str, log: str, axis: str) -> RunCurves:
    from ...evaluation.training_log import read_loss_history
    from ..render.run_curves import RunCurves

    history = read_loss_history(log)
    if history.damaged:
        lines = f"{history.damaged:,} of its lines"
        echo_err(f"Warning: {escape_unprintable(log)}: skipped {lines}, which are damaged.")
    train, val = (history.curve(values, axis) for values in (history.train, history.val))
    return RunCurves(name, history, train, val)


def _has_losses(run: RunCurves) -> bool:
    return len(run.train.x) > 0 or len(run.val.x) > 0


def _names(logs: list[str]) -> list[str]:
    """Name the runs: by file names without suffixes, or by paths if these are not unique."""
    paths = ["stdin" if log == "-" else log.removesuffix(".log.jsonl") for log in logs]
    names = [os.path.basename(path) or path for path in paths]
    return [escape_unprintable(n) for n in (names if len(set(names)) == len(names) else paths)]


def _can_show_braille() -> bool:
    """Whether stdout, as far as is known, can show Braille patterns."""
    if os.environ.get("TERM") in ("linux", "dumb") and sys.stdout.isatty():
        return False
    try:
        "\u2800┤●⠒".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
