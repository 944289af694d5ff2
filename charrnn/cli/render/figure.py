"""Losses as a figure in a file, drawn by Matplotlib."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from ...errors import CharRNNError
from ...evaluation.training_log import binned_means, without_burn_in
from ...storage.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...evaluation.training_log import Curve
    from .run_curves import AxisUnit, RunCurves

MOST_POINTS = 1000  # of a curve; more are averaged
# Nothing that differs from one writing of the same figure to the next.
METADATA = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "charrnn",
}


def write_figure(path: str, kind: str, runs: list[RunCurves], unit: AxisUnit) -> None:
    """Write the losses of `runs` to `path`, whole or not at all, as png, svg or pdf.

    Raises CharRNNError when there is no Matplotlib or the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise CharRNNError(
            "a figure needs Matplotlib, which is not installed: pip install 'charrnn[plot]', or "
            "leave --output out for a chart of characters."
        ) from None
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of characters that the font lacks
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        _draw(figure.add_subplot(), runs, unit)
        figure.savefig(content, format=kind, dpi=150, metadata=METADATA[kind])
    write_atomically(path, [content.getvalue()])


def _draw(axes: Axes, runs: list[RunCurves], unit: AxisUnit) -> None:
    handles, labels = [], []
    for number, run in enumerate(runs):
        color = f"C{number}"
        best = run.best()
        [train] = axes.plot(*_points(run.train, unit), color=color, alpha=0.4, linewidth=1)
        [val] = axes.plot(*_points(run.val, unit), color=color, linewidth=1.8)
        if best:
            axes.plot(best[0] / unit.size, best[1], "o", color=color, markersize=5)
            handles.append(val)
            labels.append(f"{run.name}, validation: best {best[1]:.4f}")
        if len(run.train.y):
            handles.append(train)
            labels.append(f"{run.name}, training: last {run.train.y[-1]:.4f}")
    labels = [label.replace("$", r"\$") for label in labels]  # no mathematics
    if len(runs) > 3:
        axes.figure.legend(handles, labels, loc="outside right upper")
    else:
        axes.legend(handles, labels)
    axes.set(xlabel=unit.name, ylabel="nats per character", xlim=(0, None))
    _cut_beginnings(axes, runs)


def _points(curve: Curve, unit: AxisUnit) -> Curve:
    if len(curve.x) > MOST_POINTS:
        curve = binned_means(curve, MOST_POINTS, float(curve.x.max()))
    return curve._replace(x=curve.x / unit.size)


def _cut_beginnings(axes: Axes, runs: list[RunCurves]) -> None:
    """Let the axis of the losses end where the steep fall at the beginning is over."""
    seen = np.concatenate(
        [without_burn_in(curve) for run in runs for curve in (run.train, run.val)]
    )
    room = (seen.max() - seen.min()) / 20 or 0.1
    axes.set_ylim(seen.min() - room, seen.max() + room)
