"""What the cells of a model do with a text, and which characters are alike to it.

After Karpathy, Johnson & Fei-Fei 2015, "Visualizing and understanding recurrent networks".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..network.model import Model
from ..network.stack import Stack
from .loss import STEPS

SATURATED = 0.1  # a gate is saturated this near to 0 or 1
MIN_CORRELATION = 0.2  # a correlation that is worth telling
MIN_SIGMAS = 3  # of the correlation of so many pairs of chance


class HiddenUnit(NamedTuple):
    """Where a value is found: layer and number from 0, and which of the cell's states it is."""

    layer: int
    state: int  # 0: h, 1: c
    number: int


class UnitMatch(NamedTuple):
    """The unit that follows a feature best."""

    feature: str
    unit: HiddenUnit
    selection_correlation: float  # its correlation in the part of the text that it was chosen on
    correlation: float  # in the other part


class ActivationReport(NamedTuple):
    """What the units and gates of a model do over a text."""

    matches: list[UnitMatch]  # the strongest first
    unmatched: list[str]  # features that no unit was found to follow
    low: np.ndarray  # (L, gates, H) share of the characters at which a gate is below SATURATED
    high: np.ndarray  # (L, gates, H) and above 1 - SATURATED


def iter_activations(model: Model, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The states (T, L, S, H) and the gates (T, L, gates, H) after each of `ids` (n,), in chunks.

    From a zero state. The gates are those of the cell's SIGMOIDS.
    """
    stack, h = Stack(model, 1, STEPS), model.config.hidden_size
    planes = np.array(list(model.cell.SIGMOIDS.values()), int)
    for start in range(0, len(ids), STEPS):
        x = ids[start : start + STEPS, None].astype(np.int32)
        stack.forward(x)
        states = np.stack([s[:, 1 : len(x) + 1, 0, :h] for s in stack.s])  # (L, S, T, H)
        gates = np.stack([z[: len(x), planes, 0, :h] for z in stack.z], axis=1)
        yield states.transpose(2, 0, 1, 3), gates
        stack.advance_state(len(x))


def values(model: Model, ids: np.ndarray, unit: HiddenUnit) -> np.ndarray:
    """(n,) the values of a unit after each of `ids`."""
    layer, state, number = unit
    return np.concatenate(
        [s[:, layer, state, number].copy() for s, _ in iter_activations(model, ids)]
    )


def measure_activations(
    model: Model, ids: np.ndarray, features: dict[str, np.ndarray], counted: np.ndarray
) -> ActivationReport:
    """Find the unit that follows each of the `features` (n,) of `ids` (n,), by correlation.

    Only ids that are `counted` (n,), the last of a character, are correlated. The unit is chosen
    on the first half of the text and its correlation measured on the second, which knows nothing
    of the choice among many; a feature that does not change in both halves is left out.
    """
    halves, middle, start = (Moments(), Moments()), len(ids) // 2, 0
    low = high = 0
    for states, gates in iter_activations(model, ids):
        end = start + len(states)
        low += np.count_nonzero(gates < SATURATED, axis=0)
        high += np.count_nonzero(gates > 1 - SATURATED, axis=0)
        f = np.array([a[start:end] for a in features.values()], float).T
        u = states.reshape(len(states), -1)
        split = int(np.clip(middle - start, 0, len(u)))
        for half, part in zip(halves, (slice(split), slice(split, None)), strict=True):
            kept = counted[start:end][part]
            half.add(f[part][kept], u[part][kept])
        start = end
    matches, unmatched = _followers(list(features), halves, states.shape[1:])
    return ActivationReport(matches, unmatched, low / len(ids), high / len(ids))


class Moments:
    """Running sums from which F features are correlated with U units."""

    def __init__(self) -> None:
        self.count, self._sums = 0, [0.0] * 5

    def add(self, f: np.ndarray, u: np.ndarray) -> None:
        """Take in f (T, F) and u (T, U)."""
        u = u.astype(float)
        self.count += len(f)
        parts = f.sum(0), u.sum(0), (f * f).sum(0), np.einsum("tu,tu->u", u, u), f.T @ u
        self._sums = [total + part for total, part in zip(self._sums, parts, strict=True)]

    def correlations(self) -> np.ndarray:
        """(F, U) Pearson's r, NaN for a feature or unit that does not change."""
        f, u, ff, uu, fu = self._sums
        n = self.count
        f_spread, u_spread = _spread(n, f, ff), _spread(n, u, uu)
        return (n * fu - np.outer(f, u)) / np.sqrt(np.outer(f_spread, u_spread))


def _spread(n: int, total: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """n² times the variance, NaN where it is lost in rounding."""
    spread = n * squares - total * total
    return np.where(spread > 1e-10 * n * squares, spread, np.nan)


def _followers(
    names: list[str], halves: tuple[Moments, Moments], shape: tuple[int, ...]
) -> tuple[list[UnitMatch], list[str]]:
    """The followers and the features without one; units are of `shape` (L, S, H)."""
    first, second = (half.correlations() for half in halves)
    least = max(MIN_CORRELATION, MIN_SIGMAS / max(halves[1].count, 1) ** 0.5)
    matches, unmatched = [], []
    for name, selection_correlation, confirmed in zip(names, first, second, strict=True):
        if np.isnan(selection_correlation).all() or np.isnan(confirmed).all():
            continue
        best = int(np.nanargmax(np.abs(selection_correlation)))
        r = float(confirmed[best])
        if r * np.sign(selection_correlation[best]) >= least:
            unit = HiddenUnit(*map(int, np.unravel_index(best, shape)))
            matches.append(UnitMatch(name, unit, float(selection_correlation[best]), r))
        else:
            unmatched.append(name)
    return sorted(matches, key=lambda f: -abs(f.correlation)), unmatched


def character_vectors(model: Model) -> np.ndarray:
    """(V, H) the rows of the output's weights: characters expected in the same places are alike.

    Rows of the input's weights say less: much of what they were first drawn as stays in them.
    """
    return model.parameters.view("output.weight")[0].astype(float)


def pca_2d(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(V, 2) the two principal components of vectors (V, D), and the share of variance of each."""
    centred = vectors - vectors.mean(axis=0)
    wide = centred.shape[1] > centred.shape[0]
    variances, axes = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    variances, axes = variances.clip(0)[::-1], axes[:, ::-1]
    found = axes[:, :2] * np.sqrt(variances[:2]) if wide else centred @ axes[:, :2]
    points = np.zeros((len(vectors), 2))
    points[:, : found.shape[1]] = found
    shares = np.zeros(2)
    shares[: found.shape[1]] = variances[:2] / (variances.sum() or 1)
    # The signs of axes are arbitrary: the farthest character is at the right and at the top.
    far = points[np.abs(points).argmax(axis=0), [0, 1]]
    return points * np.where(far < 0, -1, 1), shares


def neighbours(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(V, count) the ids of the most similar characters, the nearest first, and the cosines."""
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
