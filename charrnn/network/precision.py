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
PANEL_DTYPES = {"float32": np.float32, "bfloat16": np.uint32}  # the latter holds pairs
STEPS, ROWS, INPUTS, GATES = 8, 8, 256, 4  # of the product that is timed: some tenths of a ms


def fastest_precision() -> str:
    """The precision of matrix products with which training learns most in a given time."""
    if not BFLOAT16:
        return "float32"
    gflops = measure_gflops()
    is_faster = gflops["bfloat16"] >= MIN_SPEEDUP * gflops["float32"]
    return "bfloat16" if is_faster else "float32"


def slower_bfloat16() -> str:
    """A clause with both speeds if this processor multiplies bfloat16 slower, otherwise ""."""
    gflops = measure_gflops()
    if gflops["bfloat16"] >= gflops["float32"]:
        return ""
    return (
        f"bfloat16 is slower than float32 here, {gflops['bfloat16']:.0f} against "
        f"{gflops['float32']:.0f} GFLOP/s in matrix products on one core"
    )


def measure_gflops() -> dict[str, float]:
    """GFLOP/s of one thread in the matrix products of each precision, measured in milliseconds."""
    times: dict[str, list[float]] = {precision: [] for precision in PANEL_DTYPES}
    for _ in range(1 + ROUNDS):  # the first round compiles
        for precision, dtype in PANEL_DTYPES.items():
            times[precision].append(_time_product(dtype))
    operations = 2e-9 * STEPS * ROWS * INPUTS * INPUTS * GATES
    return {precision: operations / min(seconds[1:]) for precision, seconds in times.items()}


def _time_product(panel_dtype: type) -> float:
    """Seconds of a product with panels of float32, or of pairs of bfloat16 (uint32)."""
    depth = INPUTS // 2 if panel_dtype == np.uint32 else INPUTS
    w = zeros((GATES, INPUTS // NR, depth, NR), panel_dtype)
    x, z = zeros((STEPS, ROWS, INPUTS), np.float32), zeros((STEPS, GATES, ROWS, INPUTS), np.float32)
    bias, planes = zeros((GATES, INPUTS), np.float32), np.arange(GATES)
    start = time.perf_counter()
    input_product(x, w, planes, bias, z, STEPS, 0, ROWS)
    return time.perf_counter() - start
