"""Numerical gradients, and how far an analytic gradient is from one.

`arrays` is always a dict {name: float64 array} of all that is differentiated: the parameters and,
under the name of the caller's choice, the start state; `f(arrays)` gives the loss.
"""

import numpy as np


def complex_step(f, arrays):
    """d f / d every element, {name: array}, exact to rounding: Im f(a + i e) / e.

    `f` must be analytic and take complex arrays, as `naive.loss` does. Nothing is subtracted, so
    the step can be as small as one likes (Squire & Trapp 1998).
    """
    step = 1e-100
    gradients = {name: np.zeros(a.shape) for name, a in arrays.items()}
    for name, a in arrays.items():
        for index in np.ndindex(a.shape):
            moved = a.astype(complex)
            moved[index] += 1j * step
            gradients[name][index] = f(arrays | {name: moved}).imag / step
    return gradients


def slope(f, arrays, directions):
    """The slope of f when every array moves along its direction, by one complex step."""
    step = 1e-100
    return f({name: a + 1j * step * directions[name] for name, a in arrays.items()}).imag / step


def differences(f, arrays, step=1e-2):
    """d f / d every element, {name: array}, by central differences of step h, h/2 and h/4.

    Extrapolated twice (Richardson), the error is of order h^6, so that a large step leaves
    rounding little room: about 1e-14 absolute for a loss near 1. `f` gets real arrays only.
    """
    gradients = {name: np.zeros(a.shape) for name, a in arrays.items()}
    for name, a in arrays.items():
        for index in np.ndindex(a.shape):
            coarse, middle, fine = (
                central_difference(f, arrays, name, index, step / k) for k in (1, 2, 4)
            )
            first, second = (4 * middle - coarse) / 3, (4 * fine - middle) / 3
            gradients[name][index] = (16 * second - first) / 15
    return gradients


def central_difference(f, arrays, name, index, step):
    above, below = arrays[name].copy(), arrays[name].copy()
    above[index] += step
    below[index] -= step
    return (f(arrays | {name: above}) - f(arrays | {name: below})) / (2 * step)


def relative_error(a, b, floor=1e-8):
    """The worst |a - b| / (|a| + |b|) of any element; sums below `floor` count as `floor`.

    A shape or a NaN that does not belong there gives infinity, never a small number.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.inf
    return float(np.max(np.abs(a - b) / np.maximum(floor, np.abs(a) + np.abs(b)), initial=0.0))


def scaled_error(a, b):
    """max |a - b| / max |b|: the error of a whole tensor against its reference b."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.inf
    return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30))
