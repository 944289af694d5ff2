"""The losses of training runs as a figure in a file, drawn by Matplotlib."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CharRNNError
from ...evaluation.training_log import binned_means, without_burn_in
from ...storage.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...evaluation.training_log import Curve
    from .run_curves import AxisUnit, RunCurves

MAX_POINTS = 1000  # per curve; longer curves are averaged
# Without the date, the same figure is the same file.
METADATA: dict[str, dict[str, None]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "charrnn",
}


def write_figure(path: str, file_format: str, runs: list[RunCurves], unit: AxisUnit) -> None:
    """Write the losses of `runs` to `path`, atomically, as png, svg or pdf.

    Raises CharRNNError when Matplotlib is missing or the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise CharRNNError(
            "a figure needs Matplotlib, which is not installed: pip install 'charrnn[plot]', or "
            "omit --output for a chart on the terminal."
        ) from None
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters that the font lacks, for example
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        _draw(figure.add_subplot(), runs, unit)
        figure.savefig(content, format=file_format, dpi=150, metadata=METADATA[file_format])
    write_atomically(path, [content.getvalue()])


def _draw(axes: Axes, runs: list[RunCurves], unit: AxisUnit) -> None:
    handles, labels = [], []
    for number, run in enumerate(runs):
        color = f"C{number}"
        best = run.best_point()
        [train] = axes.plot(*_points(run.train, unit), color=color, alpha=0.4, linewidth=1)
        [val] = axes.plot(*_points(run.val, unit), color=color, linewidth=1.8)
        if best:
            axes.plot(best[0] / unit.size, best[1], "o", color=color, markersize=5)
            handles.append(val)
            labels.append(f"{run.name}, validation: best {best[1]:.4f}")
        if len(run.train.y):
            handles.append(train)
            labels.append(f"{run.name}, training: last {run.train.y[-1]:.4f}")
    labels = [label.replace("$", r"\$") for label in labels]  # $ would begin a formula
    if len(runs) > 3:
        axes.figure.legend(handles, labels, loc="outside right upper")
    else:
        axes.legend(handles, labels)
    axes.set(xlabel=unit.name, ylabel="nats per character", xlim=(0, None))
    _cut_burn_in(axes, runs)


def _points(curve: Curve, unit: AxisUnit) -> Curve:
    if len(curve.x) > MAX_POINTS:
        curve = binned_means(curve, MAX_POINTS, float(curve.x.max()))
    return curve._replace(x=curve.x / unit.size)


def _cut_burn_in(axes: Axes, runs: list[RunCurves]) -> None:
    """Limit the axis of the losses to those after the steep fall at the start."""
    losses = np.concatenate(
        [without_burn_in(curve) for run in runs for curve in (run.train, run.val)]
    )
    margin = (losses.max() - losses.min()) / 20 or 0.1
    axes.set_ylim(losses.min() - margin, losses.max() + margin)
