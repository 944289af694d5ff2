"""Arithmetic whose bits do not depend on the C library."""

import math

import pytest

from charrnn.arithmetic import power, sin


@pytest.mark.parametrize("base", [0.0, 0.5, 0.97, 0.999999, 1.0, 1.1])
@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 7, 64, 1000])
def test_power_of_an_integer(base, exponent):
    assert power(base, exponent) == pytest.approx(base**exponent, rel=1e-13)


def test_power_of_a_huge_exponent_takes_no_time():
    assert power(0.5, 10**300) == 0
    assert power(1.0, 10**300) == 1


def test_sine():
    for k in range(-500, 501):
        x = k / 500 * math.pi / 2
        assert sin(x) == pytest.approx(math.sin(x), rel=4e-16)
