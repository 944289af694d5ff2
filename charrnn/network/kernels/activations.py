"""tanh, sigmoid and exp that LLVM turns into vector code: for float32, and exp for float64 too.

Numba has no vector mathematics library any more, so `math.tanh` in a loop is one call per value,
and its last bits depend on the C library; so would those of `math.log`. These are branchless
approximations over the whole range; NaN stays NaN. Their errors, which
tests/network/test_kernels.py measures: tanh below 6 ulp, sigmoid below 1e-7 absolute, exp below
3 ulp for results that are not denormal, in float64 below 1 ulp, log below 1 ulp.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from ..jit import OPTIONS, jit
from .fma import fma

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
_LN2 = 0.6931471805599453
_LOG2E = np.float32(1 / _LN2)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(_LN2 - 0.693359375)
_E2, _E3, _E4, _E5, _E6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))
_LOWEST, _HIGHEST = np.float32(-87.0), np.float32(88.0)
_ROUND = np.float32(1.5 * 2**23)  # adding and subtracting it rounds to an integer
_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)

# The same in float64, where n is read from the lowest bits of the rounded number: before AVX-512
# there is no vector instruction that converts a float64 to an integer.
_LOG2E_64 = 1 / _LN2
_LN2_HIGH_64, _LN2_LOW_64 = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
_F3, _F4, _F5, _F6, _F7, _F8, _F9, _F10, _F11, _F12, _F13 = (
    1 / math.factorial(n) for n in range(3, 14)
)
_LOWEST_64, _HIGHEST_64 = -708.0, 709.0
_ROUND_64 = 1.5 * 2**52
_BIAS_64, _MANTISSA_BITS_64 = np.int64(1023), np.int64(52)
_FRACTION, _EXPONENT_OF_HALF = np.int64(2**52 - 1), np.int64(1022 << 52)


def tanh(x):
    """Hyperbolic tangent of a scalar, for use in compiled code."""
    return math.tanh(x)


def exp(x):
    """e to the x of a scalar, for use in compiled code.

    A float32 x is clipped to [-87, 88]. A float64 x is clipped to at most 709; below -708 the
    result is 0.
    """
    return math.exp(x)


@overload(tanh, jit_options=OPTIONS)
def _tanh(x):
    if x != types.float32:
        return lambda x: math.tanh(x)

    def rational(x):
        x = -_LIMIT if x < -_LIMIT else (_LIMIT if x > _LIMIT else x)
        u = x * x
        p = fma(u, fma(u, fma(u, fma(u, _P4, _P3), _P2), _P1), _P0)
        q = fma(u, fma(u, fma(u, fma(u, _Q4, _Q3), _Q2), _Q1), _ONE)
        return x * p / q

    return rational


@overload(exp, jit_options=OPTIONS)
def _exp(x):
    if x == types.float64:
        return _exp_64
    if x != types.float32:
        return lambda x: math.exp(x)

    def polynomial(x):
        x = _LOWEST if x < _LOWEST else (_HIGHEST if x > _HIGHEST else x)
        n = fma(x, _LOG2E, _ROUND) - _ROUND
        r = fma(-n, _LN2_LOW, fma(-n, _LN2_HIGH, x))
        e = fma(r, fma(r, fma(r, fma(r, _E6, _E5), _E4), _E3), _HALF)
        e = fma(r, fma(r, e, _ONE), _ONE)
        exponent = (np.int32(n) + _BIAS) << _MANTISSA_BITS
        return e * np.int32(exponent).view(np.float32)

    return polynomial


def _exp_64(x):
    y = _HIGHEST_64 if x > _HIGHEST_64 else x
    rounded = fma(y, _LOG2E_64, _ROUND_64)
    n = rounded - _ROUND_64
    r = fma(-n, _LN2_LOW_64, fma(-n, _LN2_HIGH_64, y))
    e = fma(r, fma(r, fma(r, fma(r, fma(r, _F13, _F12), _F11), _F10), _F9), _F8)
    e = fma(r, fma(r, fma(r, fma(r, fma(r, e, _F7), _F6), _F5), _F4), _F3)
    e = fma(r, fma(r, fma(r, e, 0.5), 1.0), 1.0)
    exponent = (np.float64(rounded).view(np.int64) + _BIAS_64) << _MANTISSA_BITS_64
    return 0.0 if x < _LOWEST_64 else e * np.int64(exponent).view(np.float64)


# log(x) = n log 2 + log m with m from √½ to √2, and log m = 2 artanh(s) with s = (m - 1) / (m + 1),
# whose series ends where s <= 0.172 makes its terms vanish.
_SQRT_HALF = math.sqrt(0.5)
_LOG_TERMS = tuple(2 / n for n in range(21, 1, -2))


@jit
def log(x):
    """The natural logarithm of a float64 that is neither denormal, infinite nor negative."""
    if not x > 0.0:
        return np.nan
    bits = np.float64(x).view(np.int64)
    n = (bits >> _MANTISSA_BITS_64) - _BIAS_64 + 1
    m = np.int64((bits & _FRACTION) | _EXPONENT_OF_HALF).view(np.float64)
    if m < _SQRT_HALF:
        m, n = 2 * m, n - 1
    f = m - 1.0
    s = f / (2.0 + f)
    u = s * s
    series = 0.0
    for term in _LOG_TERMS:
        series = fma(series, u, term)
    return n * _LN2_HIGH_64 + (f - (s * (f - u * series) - n * _LN2_LOW_64))


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
        x[i] = fma(half, tanh(half * x[i]), half)
