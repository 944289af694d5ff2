"""Integer arithmetic that Python's operators do not spell out."""

from __future__ import annotations


def ceil_div(dividend: int, divisor: int) -> int:
    """The quotient rounded up to an integer."""
    return -(-dividend // divisor)
