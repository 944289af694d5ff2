"""Numerical gradients, and the error of an analytic gradient.

`arrays` is always a dict {name: float64 array} of the variables: the parameters and the initial
state. `f(arrays)` is the loss.
"""

import numpy as np


def complex_step(f, arrays):
    """The gradient {name: array} of f, exact to rounding: Im f(a + i e) / e per element.

    `f` must be analytic and accept complex arrays, as `naive.loss` does. Nothing is subtracted, so
    the step can be arbitrarily small (Squire & Trapp 1998).
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
    """The directional derivative of f along {name: direction}, by one complex step."""
    step = 1e-100
    return f({name: a + 1j * step * directions[name] for name, a in arrays.items()}).imag / step


def differences(f, arrays, step=1e-2):
    """The gradient {name: array} of f by central differences of step h, h/2 and h/4.

    They are extrapolated twice (Richardson), so the error is of order h^6. The step can then be
    large, so that rounding contributes only about 1e-14 for a loss near 1. `f` gets real arrays.
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
    """The largest |a - b| / (|a| + |b|) of any element; the sum is at least `floor`.

    If shapes differ or an element is not finite, the result is infinite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.inf
    return float(np.max(np.abs(a - b) / np.maximum(floor, np.abs(a) + np.abs(b)), initial=0.0))


def scaled_error(a, b):
    """max |a - b| / max |b|: the error of a whole tensor relative to its reference b.

    If shapes differ or an element is not finite, the result is infinite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.inf
    return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30))
