"""The output vectors of a model's characters: a chart of them in the plane, and the neighbours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import TextIO

import numpy as np

from ...api import LanguageModel
from ...evaluation.activations import character_vectors, neighbours, pca_2d
from .characters import display_width

MAX_WIDTH, ROWS_PER_COLUMN = 100, 0.3  # size of the chart
NUM_NEIGHBOURS = 6
MAX_SHIFT = 4  # columns, or half as many rows, that a character is moved off an occupied cell
SUBSTITUTES = {" ": "\u2423", "\\n": "\u21b5"}  # visible signs for the chart

Neighbours = tuple[np.ndarray, np.ndarray]  # ids and cosine similarities, (V, neighbours) each


def write_embedding(model: LanguageModel, out: TextIO, as_json: bool) -> None:
    """Write the chart and the neighbours of the model's characters to `out`, or a JSON object."""
    vectors = character_vectors(model.model)
    points, variance_fractions = pca_2d(vectors)
    near = neighbours(vectors, NUM_NEIGHBOURS)
    if as_json:
        fields = _json_object(model, points, variance_fractions, near)
        out.write(json.dumps(fields) + "\n")
        return
    names = [SUBSTITUTES.get(name, name) for name in model.vocabulary.display_names()]
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    x, y = variance_fractions
    out.writelines(f"{row}\n" for row in _chart(names, points, width))
    out.write(f"\naxes      {x:.0%} and {y:.0%} of the variance of output.weight\n\n")
    out.writelines(f"{row}\n" for row in _neighbour_rows(names, near))


def _neighbour_rows(names: list[str], near: Neighbours) -> Iterator[str]:
    yield "nearest characters, with the cosine similarity of the first"
    for name, ids, cosines in zip(names, *near, strict=True):
        if len(ids):
            others = "  ".join(names[i] for i in ids)
            yield f"{name:<4}  {cosines[0]:5.2f}  {others}"


def _chart(names: list[str], points: np.ndarray, width: int) -> Iterator[str]:
    """Yield rows of `width` columns with the one-character names near their points (V, 2)."""
    height = int(width * ROWS_PER_COLUMN)
    grid = [[" "] * width for _ in range(height)]
    free = np.ones((height, width), bool)
    low, high = points.min(axis=0), points.max(axis=0)
    positions = (points - low) / np.where(high > low, high - low, 1)
    for name, (x, y) in zip(names, positions, strict=True):
        columns = display_width(name)
        if len(name) == 1 and columns:
            cell = _nearest_free(free, (1 - y) * (height - 1), x * (width - columns), columns)
            if cell:
                row, column = cell
                free[row, column : column + columns] = False
                grid[row][column : column + columns] = [name] + [""] * (columns - 1)
    return ("".join(row).rstrip() for row in grid)


def _nearest_free(
    free: np.ndarray, row: float, column: float, columns: int
) -> tuple[int, int] | None:
    """Return where within MAX_SHIFT of a position 1 or 2 free columns begin; None: nowhere."""
    fits = free if columns == 1 else free[:, :-1] & free[:, 1:]
    free_rows, free_columns = np.nonzero(fits)
    distances = (2 * (free_rows - row)) ** 2 + (free_columns - column) ** 2
    best = int(distances.argmin()) if len(distances) else 0
    if not len(distances) or distances[best] > MAX_SHIFT**2:
        return None
    return int(free_rows[best]), int(free_columns[best])


def _json_object(
    model: LanguageModel, points: np.ndarray, variance_fractions: np.ndarray, near: Neighbours
) -> dict[str, object]:
    """Return the values of chart and table; a model of bytes has numbers for characters."""
    names = model.vocabulary.json_names()
    rows = zip(names, points.round(5).tolist(), near[0].tolist(), near[1], strict=True)
    return {
        "weights": "output.weight",
        "variance_fractions": variance_fractions.tolist(),
        "characters": [
            {
                "character": name,
                "x": x,
                "y": y,
                "nearest": [names[i] for i in ids],
                "cosines": cosines.round(4).tolist(),
            }
            for name, (x, y), ids, cosines in rows
        ],
    }
