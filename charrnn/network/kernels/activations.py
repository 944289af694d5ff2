"""tanh, sigmoid and exp that LLVM turns into vector code: for float32, and exp for float64 too.

Numba has no vector mathematics library any more, so `math.tanh` in a loop is one call per value.
These are branchless approximations over the whole range; NaN stays NaN. Their errors, which
tests/network/test_kernels.py measures: tanh below 6 ulp, sigmoid below 1e-7 absolute, exp below
3 ulp for results that are not denormal, in float64 below 1 ulp.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from ..jit import OVERLOAD_OPTIONS, jit

# tanh(x) = x P(x²) / Q(x²) on [-9, 9]. The coefficients minimise the relative error at these
# degrees (Lawson's iteration on a dense grid). Beyond 9, float32 tanh is 1.
_LIMIT = np.float32(9.0)
_P0, _P1, _P2, _P3, _P4 = map(
    np.float32,
    (
        1.0,
        0.13379713892936707,
        0.0034940303303301334,
        2.0583409423124976e-05,
        1.331896726242121e-08,
    ),
)
_Q1, _Q2, _Q3, _Q4 = map(
    np.float32,
    (0.46713030338287354, 0.02587105706334114, 0.00032830858253873885, 7.761977371956164e-07),
)
_ONE, _HALF = np.float32(1), np.float32(0.5)

# exp(x) = 2**n exp(r), where n is the integer nearest to x / ln 2. ln 2 is split in two parts; the
# products of n with the first are exact, so r loses no digits. exp(r) is its Taylor polynomial.
_LOG2E = np.float32(1 / math.log(2))
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(math.log(2) - 0.693359375)
_E2, _E3, _E4, _E5, _E6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))
_LOWEST, _HIGHEST = np.float32(-87.0), np.float32(88.0)
_ROUND = np.float32(1.5 * 2**23)  # adding and subtracting it rounds to an integer
_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)

# The same in float64, where n is read from the lowest bits of the rounded number: before AVX-512
# there is no vector instruction that converts a float64 to an integer.
_LOG2E_64 = 1 / math.log(2)
_LN2_HIGH_64, _LN2_LOW_64 = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
_F3, _F4, _F5, _F6, _F7, _F8, _F9, _F10, _F11, _F12, _F13 = (
    1 / math.factorial(n) for n in range(3, 14)
)
_LOWEST_64, _HIGHEST_64 = -708.0, 709.0
_ROUND_64 = 1.5 * 2**52
_BIAS_64, _MANTISSA_BITS_64 = np.int64(1023), np.int64(52)


def tanh(x):
    """Hyperbolic tangent of a scalar, for use in compiled code."""
    return math.tanh(x)


def exp(x):
    """e to the x of a scalar, for use in compiled code.

    A float32 x is clipped to [-87, 88]. A float64 x is clipped to at most 709; below -708 the
    result is 0.
    """
    return math.exp(x)


@overload(tanh, jit_options=OVERLOAD_OPTIONS)
def _tanh(x):
    if x != types.float32:
        return lambda x: math.tanh(x)

    def rational(x):
        x = -_LIMIT if x < -_LIMIT else (_LIMIT if x > _LIMIT else x)
        u = x * x
        p = _P0 + u * (_P1 + u * (_P2 + u * (_P3 + u * _P4)))
        q = _ONE + u * (_Q1 + u * (_Q2 + u * (_Q3 + u * _Q4)))
        return x * p / q

    return rational


@overload(exp, jit_options=OVERLOAD_OPTIONS)
def _exp(x):
    if x == types.float64:
        return _exp_64
    if x != types.float32:
        return lambda x: math.exp(x)

    def polynomial(x):
        x = _LOWEST if x < _LOWEST else (_HIGHEST if x > _HIGHEST else x)
        n = (x * _LOG2E + _ROUND) - _ROUND
        r = (x - n * _LN2_HIGH) - n * _LN2_LOW
        e = _ONE + r * (_ONE + r * (_HALF + r * (_E3 + r * (_E4 + r * (_E5 + r * _E6)))))
        exponent = (np.int32(n) + _BIAS) << _MANTISSA_BITS
        return e * np.int32(exponent).view(np.float32)

    return polynomial


def _exp_64(x):
    y = _HIGHEST_64 if x > _HIGHEST_64 else x
    rounded = y * _LOG2E_64 + _ROUND_64
    n = rounded - _ROUND_64
    r = (y - n * _LN2_HIGH_64) - n * _LN2_LOW_64
    e = _F8 + r * (_F9 + r * (_F10 + r * (_F11 + r * (_F12 + r * _F13))))
    e = _F3 + r * (_F4 + r * (_F5 + r * (_F6 + r * (_F7 + r * e))))
    e = 1.0 + r * (1.0 + r * (0.5 + r * e))
    exponent = (np.float64(rounded).view(np.int64) + _BIAS_64) << _MANTISSA_BITS_64
    return 0.0 if x < _LOWEST_64 else e * np.int64(exponent).view(np.float64)


@jit
def tanh_(x):
    """Replace x (n,) by tanh(x), in place."""
    for i in range(x.size):
        x[i] = tanh(x[i])


@jit
def sigmoid_(x):
    """Replace x (n,) by 1 / (1 + exp(-x)) = ½ + ½ tanh(x/2), in place."""
    half = x.dtype.type(0.5)
    for i in range(x.size):
        x[i] = half + half * tanh(half * x[i])
