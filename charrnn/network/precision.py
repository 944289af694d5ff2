"""Which precision this processor multiplies fastest."""

from __future__ import annotations

import time

import numpy as np

from .arrays import zeros
from .jit import BFLOAT16
from .kernels.matmul import input_product
from .kernels.microkernel import NR

# bfloat16 costs up to 0.01 nats at equal steps (tests/bench/LOG.md): it must give more steps.
MIN_SPEEDUP = 1.2
ROUNDS = 5
STEPS, ROWS, INPUTS, GATES = 8, 8, 256, 4  # of the product that is timed: some tenths of a ms


def fastest_precision() -> str:
    """The precision of matrix products with which training learns most in a given time."""
    return "bfloat16" if BFLOAT16 and bfloat16_speedup() >= MIN_SPEEDUP else "float32"


def bfloat16_speedup() -> float:
    """The speed of matrix products in bfloat16 relative to float32, measured in milliseconds."""
    seconds: dict[type, list[float]] = {np.float32: [], np.uint32: []}
    for _ in range(1 + ROUNDS):  # the first round compiles
        for dtype, times in seconds.items():
            times.append(_time_product(dtype))
    float32, bfloat16 = (min(times[1:]) for times in seconds.values())
    return float32 / bfloat16


def _time_product(panel_dtype: type) -> float:
    """Seconds of a product with panels of float32, or of pairs of bfloat16 (uint32)."""
    depth = INPUTS // 2 if panel_dtype == np.uint32 else INPUTS
    w = zeros((GATES, INPUTS // NR, depth, NR), panel_dtype)
    x, z = zeros((STEPS, ROWS, INPUTS), np.float32), zeros((STEPS, GATES, ROWS, INPUTS), np.float32)
    bias, planes = zeros((GATES, INPUTS), np.float32), np.arange(GATES)
    start = time.perf_counter()
    input_product(x, w, planes, bias, z, STEPS, 0, ROWS)
    return time.perf_counter() - start
