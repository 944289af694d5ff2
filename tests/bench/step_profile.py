"""Where the time of a training step goes: `bench.py --profile PART`.

The compiled kernels that a step calls are wrapped with clocks, on every thread. Inside a cell's
kernel, products and gates alternate: in other steps it is replaced by its products alone, on the
same arrays, and its gates are the difference. Weights do not change meanwhile.

Rows are seconds of the processor, which other processes disturb least: the mean of the threads, the
lower quartile of many steps. What they leave of the step is waiting: for the other thread, or for a
processor if the machine is busy. Python is what lies between the kernels, the clocks included.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from charrnn.network import model, stack
from charrnn.network.cells import CELLS
from charrnn.network.jit import ThreadTeam, kernel
from charrnn.network.kernels import updates
from charrnn.network.kernels.matmul import output_product, product
from charrnn.network.optimizers import Adam, CautiousAdam
from charrnn.training.trainer import Trainer

PYTHON, HAND_OVER, CELL, STEP = "Python", "hand-over between threads", "cell", "step"
BLOCK_SECONDS, MIN_STEPS = 0.25, 4  # of steps of one kind
# (owner of a function, its names, row of the table). One that others call counts without them.
FUNCTIONS: list[tuple[Any, str, str]] = [
    (stack, "input_product output_product logits_of output_gradient", "products"),
    (stack, "look_up embed find_rows", "look-up"),
    (stack, "look_up_gradient embed_gradient group_places row_gradient", "look-up, gradient"),
    (stack, "losses_of", "loss"),
    (stack, "weight_gradient vector_gradient", "weight gradients"),
    (stack, "drop drop_", "dropout"),
    (model, "drop_", "dropout"),
    (Trainer, "_pack_dropped", "dropout"),
    (updates, "square_sums clip_value scale", "norm and clipping"),
    (Adam, "_kernel", "optimizer, dense"),
    (CautiousAdam, "_kernel", "optimizer, dense"),
    (updates, "update_rows", "optimizer, rows"),
    (model, "pack pack_transposed sum_biases", "packing"),
    (stack.Stack, "advance_state", "state between chunks"),
    (stack, "zero_states", "state between chunks"),
]


class _Clocks(threading.local):
    """The processor's seconds of each row on one thread, without functions called inside."""

    threads: list[Counter[str]] = []  # of all threads

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.inner = 0.0  # of the functions that the running one has called
        self.threads.append(self.seconds)


_clocks = _Clocks()


def _timed(row: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        outer, _clocks.inner = _clocks.inner, 0.0
        start = time.thread_time()
        try:
            return function(*args)
        finally:
            elapsed = time.thread_time() - start
            _clocks.seconds[row] += elapsed - _clocks.inner
            _clocks.inner = outer + elapsed

    return run


@kernel
def _forward_products(z, s, planes, W, steps, first, last):  # type: ignore[no-untyped-def]
    for t in range(steps):
        for g in range(planes.size):
            product(s[0, t, first:last], W[g], z[t, planes[g], first:last])


class _Cell:
    """Stands in for a cell's kernels: the whole ones, or their products alone."""

    products_alone = False

    def __init__(self, cell: Any) -> None:
        self._cell, self._forward, self._backward = cell, cell.forward, cell.backward

    def forward(self, z: Any, s: Any, saved: Any, w: Any, *rest: Any) -> None:
        if self.products_alone:
            _forward_products(z, s, self._cell.HIDDEN_PLANES, w, *rest[-3:])
        else:
            self._forward(z, s, saved, w, *rest)

    def backward(self, z: Any, s: Any, saved: Any, w: Any, v: Any, dh: Any, *rest: Any) -> None:
        if self.products_alone:
            output_product(z, w, self._cell.HIDDEN_PLANES, dh, *rest[-3:])
        else:
            self._backward(z, s, saved, w, v, dh, *rest)


def _patches() -> Iterator[Any]:
    for owner, names, row in FUNCTIONS:
        for name in names.split():
            timed = _timed(row, getattr(owner, name))
            is_static = isinstance(vars(owner)[name], staticmethod)
            yield mock.patch.object(owner, name, staticmethod(timed) if is_static else timed)
    for cell in CELLS.values():
        stand_in = _Cell(cell)
        for name in "forward", "backward":
            yield mock.patch.object(cell, name, _timed(CELL, getattr(stand_in, name)))
    run = _timed(HAND_OVER, ThreadTeam.run)
    yield mock.patch.object(
        ThreadTeam, "run", lambda team, task, *size: run(team, _timed(PYTHON, task), *size)
    )


@contextmanager
def _patched(products_alone: bool = False) -> Iterator[None]:
    """Have the functions timed, and the cells compute everything or their products alone."""
    with ExitStack() as patches:
        for patch in _patches():
            patches.enter_context(patch)
        patches.enter_context(mock.patch.object(_Cell, "products_alone", products_alone))
        yield


def _rows(step: Callable[[], Any], threads: int) -> Counter[str]:
    """The processor's seconds of a step by row, as the mean of the threads; STEP is the time."""
    for seconds in _clocks.threads:
        seconds.clear()
    start = time.perf_counter()
    _timed(PYTHON, step)()
    elapsed = time.perf_counter() - start
    rows: Counter[str] = Counter()
    for seconds in _clocks.threads:
        rows.update(seconds)
    return Counter({STEP: elapsed} | {row: seconds / threads for row, seconds in rows.items()})


def _block(run: Callable[[], Any], threads: int) -> list[Counter[str]]:
    """The rows of consecutive calls but the first, which finds other data in the caches."""
    run()
    steps = [_rows(run, threads)]
    while len(steps) < MIN_STEPS or sum(rows[STEP] for rows in steps) < BLOCK_SECONDS:
        steps.append(_rows(run, threads))
    return steps


def _lower_quartiles(steps: list[Counter[str]]) -> Counter[str]:
    """The lower quartile of each row: other processes disturb a step now here, now there."""
    rows = set().union(*steps)
    return Counter({row: float(np.quantile([s[row] for s in steps], 0.25)) for row in rows})


class Measurement(NamedTuple):
    """What is measured in turn: the lower quartile of each row."""

    step: Counter[str]
    products: Counter[str]  # the step with the products of its cells alone
    plain: Counter[str]  # without clocks
    microkernel: Counter[str]


def measure(
    make_step: Callable[[], Callable[[], Any]],
    microkernel: Callable[[], Any],
    threads: int,
    seconds: float,
) -> Measurement:
    """Measure the step that `make_step` makes and `microkernel`, both on `threads` threads."""
    plain = make_step()
    with _patched():
        step = make_step()  # the model keeps the functions that pack it
    blocks: list[list[Counter[str]]] = [[], [], [], []]
    end = time.perf_counter() + seconds
    while not blocks[0] or time.perf_counter() < end:
        with _patched():
            blocks[0] += _block(step, threads)
        with _patched(products_alone=True):
            blocks[1] += _block(step, threads)
            blocks[3] += _block(microkernel, threads)
        blocks[2] += _block(plain, threads)
    return Measurement(*map(_lower_quartiles, blocks))


def print_profile(
    measured: Measurement, threads: int, step_gflop: float, kernel_gflop: float
) -> None:
    """Print the milliseconds and shares of each row, and the speed beside the microkernel's.

    step_gflop, kernel_gflop: the operations of a step and of a call of the microkernel, in 10^9.
    """
    rows, of_cells = measured.step, measured.products[CELL]
    rows["gates"] = rows.pop(CELL) - of_cells
    rows["products"] += of_cells
    step, peak = rows.pop(STEP), kernel_gflop / _work(measured.microkernel)
    work = rows.total()
    for row, seconds in rows.most_common():
        print(f"{row:28}{1e3 * seconds:10.3f} ms{100 * seconds / work:7.1f} %")
    print(f"{'waiting':28}{1e3 * (step - work):10.3f} ms")
    sums = {"work of a thread": work, "step": step, "step without clocks": measured.plain[STEP]}
    for name, seconds in sums.items():
        speed = step_gflop / seconds
        print(f"{name:28}{1e3 * seconds:10.3f} ms{speed:7.0f} GFLOP/s{100 * speed / peak:6.0f} %")
    print(f"{'microkernel, data in cache':28}{peak:20.0f} GFLOP/s   100 %  on {threads} threads")


def _work(rows: Counter[str]) -> float:
    """The processor's seconds of a thread."""
    return rows.total() - rows[STEP]
