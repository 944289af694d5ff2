"""How alike a model's characters are: a chart of them in the plane, and their neighbours."""

from __future__ import annotations

import json as json_
import shutil
from collections.abc import Iterator
from typing import TextIO

import numpy as np

from ...api import LanguageModel
from ...evaluation.activations import character_vectors, neighbours, pca_2d
from .color import width_of

WIDEST, HEIGHT = 100, 0.3  # columns of the chart, rows a column
NEAREST = 6  # neighbours that are named
REACH = 4  # columns, half as many rows, that a character is moved where its place is taken
SIGNS = {" ": "\u2423", "\\n": "\u21b5"}  # for those that a chart cannot show


def show(model: LanguageModel, out: TextIO, json: bool) -> None:
    """Write what the model's vectors of characters tell."""
    vectors = character_vectors(model.model)
    points, shares = pca_2d(vectors)
    near = neighbours(vectors, NEAREST)
    if json:
        out.write(json_.dumps(_object(model, points, shares, near)) + "\n")
        return
    names = [SIGNS.get(name, name) for name in model.vocabulary.display_names()]
    width = min(shutil.get_terminal_size().columns, WIDEST)
    out.writelines(f"{row}\n" for row in _chart(names, points, width))
    out.write(f"\naxes      {shares[0]:.0%} and {shares[1]:.0%} of the variance of output.weight\n")
    out.write("\nnearest characters, with the cosine of the first\n")
    for name, ids, cosines in zip(names, *near, strict=True):
        if len(ids):
            others = "  ".join(names[i] for i in ids)
            out.write(f"{name:<4}  {cosines[0]:5.2f}  {others}\n")


def _chart(names: list[str], points: np.ndarray, width: int) -> Iterator[str]:
    """Rows of `width` columns with the names that are one character, near their points (V, 2)."""
    height = int(width * HEIGHT)
    grid = [[" "] * width for _ in range(height)]
    free = np.ones((height, width), bool)
    low, high = points.min(axis=0), points.max(axis=0)
    places = (points - low) / np.where(high > low, high - low, 1)
    for name, (x, y) in zip(names, places, strict=True):
        columns = width_of(name)
        if len(name) == 1 and columns:
            at = _nearest(free, (1 - y) * (height - 1), x * (width - columns), columns)
            if at:
                row, column = at
                free[row, column : column + columns] = False
                grid[row][column : column + columns] = [name] + [""] * (columns - 1)
    return ("".join(row).rstrip() for row in grid)


def _nearest(free: np.ndarray, row: float, column: float, size: int) -> tuple[int, int] | None:
    """Where in reach of a place `size` free columns begin; None: nowhere."""
    fits = free if size == 1 else free[:, :-1] & free[:, 1:]
    rows, columns = np.nonzero(fits)
    distances = (2 * (rows - row)) ** 2 + (columns - column) ** 2
    best = int(distances.argmin()) if len(distances) else 0
    if not len(distances) or distances[best] > REACH**2:
        return None
    return int(rows[best]), int(columns[best])


def _object(model, points, shares, near) -> dict[str, object]:
    """What the chart and the table say; a model of bytes has numbers for characters."""
    names = model.vocabulary.json_names()
    return {
        "weights": "output.weight",
        "variance": shares.tolist(),
        "characters": [
            {
                "character": name,
                "x": x,
                "y": y,
                "nearest": [names[i] for i in ids],
                "cosines": cosines.round(4).tolist(),
            }
            for name, (x, y), ids, cosines in zip(
                names, points.round(5).tolist(), near[0].tolist(), near[1], strict=True
            )
        ],
    }
