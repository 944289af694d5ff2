"""Arithmetic that Python's operators do not spell out, or leave to the C library.

The last bits of the C library's `pow` and `cos` differ between systems.
"""

from __future__ import annotations


def ceil_div(dividend: int, divisor: int) -> int:
    """The quotient rounded up to an integer."""
    return -(-dividend // divisor)


def power(base: float, exponent: int) -> float:
    """`base ** exponent` with the same bits everywhere; exponent >= 0."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base, exponent = base * base, exponent >> 1
    return result


def sin(x: float) -> float:
    """The sine of -π/2 <= x <= π/2 with the same bits everywhere, by its Taylor series."""
    series = 1.0
    for n in range(22, 0, -2):
        series = 1 - series * x * x / (n * (n + 1))
    return x * series
