"""What the command takes as a whole process: time to start and memory, for tests/bench/bench.py."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
TEXT = HERE.parents[1] / "data" / "harbour.txt"
MEASURED = HERE.parent / "measured.py"
VOCABULARY = 72  # of TEXT
MB, GB = 10**6, 10**9


def python(*arguments: object, **environment: str) -> str:
    """Run Python on these; what it writes on stderr, and on stdout before that."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return done.stdout + done.stderr


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(work: Callable, least: Callable, seconds: float) -> dict[str, float]:
    """Median seconds of `work` and of the `least` beside it, and of the ratio; both warm."""
    work(), least()
    pairs, end = [], time.perf_counter() + seconds
    while len(pairs) < 3 or time.perf_counter() < end:
        pairs.append((seconds_of(work), seconds_of(least)))
    return _summary(pairs)


def _summary(pairs: list[tuple[float, float]]) -> dict[str, float]:
    work, least = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"s": work, "least_s": least, "ratio": statistics.median(a / b for a, b in pairs)}


def help_(seconds: float) -> dict[str, float]:
    """`charrnn --help` against importing what it needs at the least."""
    least = ("-c", "import click, numpy")
    return in_turn(lambda: python("-m", "charrnn", "--help"), lambda: python(*least), seconds)


def import_numba() -> None:
    python("-c", "import numba")


def sample(seconds: float) -> dict[str, float]:
    """500 characters of LSTM 2x128, the compiled code kept, against importing Numba."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "m"
        python("-m", "charrnn", "train", TEXT, "-o", model, "--steps", 1)
        command = ("-m", "charrnn", "sample", "-m", model, "--length", 500)
        return in_turn(lambda: python(*command), import_numba, seconds)


def first_run(seconds: float) -> dict[str, float]:
    """From nothing to the end of the first step of training, against importing Numba."""
    pairs, end = [], time.perf_counter() + seconds
    while not pairs or time.perf_counter() < end:
        pairs.append((_until_first_step(), seconds_of(import_numba)))
    return _summary(pairs)


def _until_first_step() -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "charrnn", "train", TEXT, "-o", f"{folder}/m"]
        environment = {**os.environ, "XDG_CACHE_HOME": folder, "NUMBA_CACHE_DIR": ""}
        start = time.perf_counter()
        with subprocess.Popen(
            [*command, "--steps", "1000"], stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            next(line for line in process.stderr if line.startswith("step "))
            taken = time.perf_counter() - start
            process.terminate()  # it saves, and removes its files' temporaries
            process.communicate()
    return taken


def _peak(text: Path, folder: str, *how: object) -> float:
    """Megabytes in memory at most while the command trains, of all kinds but the disk's cache."""
    command = (MEASURED, 0, 0, "train", text, "-o", f"{folder}/m", "--overwrite", *how)
    return json.loads(python(*command).splitlines()[-1])["peak"] / MB


def memory(seconds: float) -> dict[str, float]:
    """Training LSTM 2x512 B50 T100, with its validations and saves, against PyTorch without."""
    how = ("--hidden-size", 512, "--batch-size", 50, "--seq-length", 100, "--threads", 2)
    with tempfile.TemporaryDirectory() as folder:
        result = {"mb": _peak(TEXT, folder, "--steps", 5, *how)}
    if importlib.util.find_spec("torch"):
        torch = python(HERE / "torch_run.py", VOCABULARY, 2, 512, 50, 100, 2, 5)
        result["other_mb"] = int(torch) / MB
        result["ratio"] = result["mb"] / result["other_mb"]
    return result


def memory_of_long_text(seconds: float) -> dict[str, float]:
    """Training on 1 GB of text against training on 1 MB."""
    block = (TEXT.read_bytes() * 10)[:MB]
    with tempfile.TemporaryDirectory() as folder:
        text, peaks = Path(folder) / "text", []
        for size in (MB, GB):
            with open(text, "wb") as file:
                file.writelines(block for _ in range(size // MB))
            peaks.append(_peak(text, folder, "--steps", 3))
    return {"mb_of_1_mb": peaks[0], "mb_of_1_gb": peaks[1], "above_mb": peaks[1] - peaks[0]}


PARTS = {
    "help": help_,
    "sample-500": sample,
    "first-run": first_run,
    "memory-2x512": memory,
    "memory-1gb": memory_of_long_text,
}
