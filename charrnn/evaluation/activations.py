"""Activations of hidden units over a text, and similarities between character vectors.

After Karpathy, Johnson & Fei-Fei 2015, "Visualizing and understanding recurrent networks".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..network.model import Model
from ..network.stack import Stack
from .loss import STEPS

SATURATED = 0.1  # distance from 0 or 1 within which a gate is saturated
MIN_CORRELATION = 0.2  # minimum correlation of a match
MIN_SIGMAS = 3  # the same, in standard deviations of the correlation of independent values


class HiddenUnit(NamedTuple):
    """One value of a cell's state; layer, state and number count from 0."""

    layer: int
    state: int  # 0: h, 1: c
    number: int


class UnitMatch(NamedTuple):
    """A feature and the unit whose values correlate with it most."""

    feature: str
    unit: HiddenUnit
    selection_correlation: float  # in the half of the text that the unit was chosen on
    correlation: float  # in the other half


class ActivationReport(NamedTuple):
    """Activations of the units and gates of a model over a text."""

    matches: list[UnitMatch]  # the strongest first
    unmatched: list[str]  # features without a matching unit
    low: np.ndarray  # (L, gates, H): fraction of the characters where a gate is below SATURATED
    high: np.ndarray  # (L, gates, H): the same above 1 - SATURATED


def iter_activations(model: Model, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the states (T, L, S, H) and gates (T, L, gates, H) after each of `ids` (n,), in chunks.

    The text starts from the model's first start. The gates are in the order of the cell's SIGMOIDS.
    """
    stack, h = Stack(model, 1, STEPS), model.config.hidden_size
    stack.set_state(model.start.first.states)
    stack.forward(model.start.ids.reshape(-1, 1))
    stack.advance_state(len(model.start.ids))
    planes = np.array(list(model.cell.SIGMOIDS.values()), int)
    for start in range(0, len(ids), STEPS):
        x = ids[start : start + STEPS, None].astype(np.int32)
        stack.forward(x)
        states = np.stack([s[:, 1 : len(x) + 1, 0, :h] for s in stack.s])  # (L, S, T, H)
        gates = np.stack([z[: len(x), planes, 0, :h] for z in stack.z], axis=1)
        yield states.transpose(2, 0, 1, 3), gates
        stack.advance_state(len(x))


def values(model: Model, ids: np.ndarray, unit: HiddenUnit) -> np.ndarray:
    """Return the values (n,) of a unit after each of `ids` (n,)."""
    layer, state, number = unit
    return np.concatenate(
        [s[:, layer, state, number].copy() for s, _ in iter_activations(model, ids)]
    )


def measure_activations(
    model: Model, ids: np.ndarray, features: dict[str, np.ndarray], mask: np.ndarray
) -> ActivationReport:
    """Match each of the `features` (n,) of `ids` (n,) with a unit by correlation.

    Only ids in the `mask` (n,) bool, the last one of each character, are correlated. A unit is
    chosen on the first half of the text. The choice among many biases its correlation there, so
    the second half measures it again. A feature that is constant in one half is ignored.
    """
    halves, middle, start = (Moments(), Moments()), len(ids) // 2, 0
    shape = len(model.cell.SIGMOIDS), model.config.hidden_size
    low = np.zeros((model.config.num_layers, *shape), int)
    high = np.zeros_like(low)
    for states, gates in iter_activations(model, ids):
        end = start + len(states)
        low += np.count_nonzero(gates < SATURATED, axis=0)
        high += np.count_nonzero(gates > 1 - SATURATED, axis=0)
        f = np.array([a[start:end] for a in features.values()], float).T
        u = states.reshape(len(states), -1)
        split = int(np.clip(middle - start, 0, len(u)))
        for half, part in zip(halves, (slice(split), slice(split, None)), strict=True):
            selected = mask[start:end][part]
            half.add(f[part][selected], u[part][selected])
        start = end
    matches, unmatched = _match(list(features), halves, states.shape[1:])
    return ActivationReport(matches, unmatched, low / len(ids), high / len(ids))


class Moments:
    """Running sums that give the correlations of F features with U units."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: list[np.ndarray] = [np.zeros(())] * 5

    def add(self, f: np.ndarray, u: np.ndarray) -> None:
        """Add the values f (T, F) of the features and u (T, U) of the units."""
        u = u.astype(float)
        self.count += len(f)
        parts = f.sum(0), u.sum(0), (f * f).sum(0), np.einsum("tu,tu->u", u, u), f.T @ u
        self._sums = [total + part for total, part in zip(self._sums, parts, strict=True)]

    def correlations(self) -> np.ndarray:
        """Pearson's r (F, U), NaN for a constant feature or unit."""
        f, u, ff, uu, fu = self._sums
        n = self.count
        f_spread, u_spread = _spread(n, f, ff), _spread(n, u, uu)
        r: np.ndarray = (n * fu - np.outer(f, u)) / np.sqrt(np.outer(f_spread, u_spread))
        return r


def _spread(n: int, total: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """n² times the variance, NaN where rounding errors dominate it."""
    spread = n * squares - total * total
    return np.where(spread > 1e-10 * n * squares, spread, np.nan)


def _match(
    names: list[str], halves: tuple[Moments, Moments], shape: tuple[int, ...]
) -> tuple[list[UnitMatch], list[str]]:
    """The matches and the features without one, for units of `shape` (L, S, H)."""
    first, second = (half.correlations() for half in halves)
    least = max(MIN_CORRELATION, MIN_SIGMAS / max(halves[1].count, 1) ** 0.5)
    matches, unmatched = [], []
    for name, selection, confirmation in zip(names, first, second, strict=True):
        if np.isnan(selection).all() or np.isnan(confirmation).all():
            continue
        best = int(np.nanargmax(np.abs(selection)))
        r = float(confirmation[best])
        if r * np.sign(selection[best]) >= least:
            unit = HiddenUnit(*map(int, np.unravel_index(best, shape)))
            matches.append(UnitMatch(name, unit, float(selection[best]), r))
        else:
            unmatched.append(name)
    return sorted(matches, key=lambda match: -abs(match.correlation)), unmatched


def character_vectors(model: Model) -> np.ndarray:
    """Return the rows (V, H) of the output weights; similar characters are expected alike.

    Input weights are less suitable: they stay close to their random initial values.
    """
    weight: np.ndarray = model.parameters.view("output.weight")[0]
    return weight.astype(float)


def pca_2d(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two principal components (V, 2) of `vectors` (V, D).

    Also return the fraction (2,) of the variance that each explains.
    """
    centred = vectors - vectors.mean(axis=0)
    wide = centred.shape[1] > centred.shape[0]
    variances, axes = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    variances, axes = variances.clip(0)[::-1], axes[:, ::-1]
    components = axes[:, :2] * np.sqrt(variances[:2]) if wide else centred @ axes[:, :2]
    points = np.zeros((len(vectors), 2))
    points[:, : components.shape[1]] = components
    fractions = np.zeros(2)
    fractions[: components.shape[1]] = variances[:2] / (variances.sum() or 1)
    # The sign of an axis is arbitrary: the extreme character gets a positive coordinate.
    extreme = points[np.abs(points).argmax(axis=0), [0, 1]]
    return points * np.where(extreme < 0, -1, 1), fractions


def neighbours(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids (V, count) of the most similar vectors, the nearest first, and their cosines.

    The cosines are those of `vectors` (V, D) with their mean subtracted.
    """
    centred = vectors - vectors.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    directions = centred / np.where(lengths, lengths, 1)
    count = min(count, len(vectors) - 1)
    ids, cosines = np.empty((len(vectors), count), int), np.empty((len(vectors), count))
    for k, direction in enumerate(directions):
        cosine = directions @ direction
        cosine[k] = -np.inf
        ids[k] = np.argsort(-cosine, kind="stable")[:count]
        cosines[k] = cosine[ids[k]]
    return ids, cosines
