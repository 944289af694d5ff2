"""Benchmarks of whole processes: start-up time and memory. Used by bench.py."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
TEXT = HERE.parents[1] / "data" / "harbour.txt"
MEASURED = HERE.parent / "helpers" / "measured.py"
VOCABULARY = 72  # distinct characters of TEXT
MB, GB = 10**6, 10**9


def python(*arguments: object, **environment: str) -> str:
    """Run Python with these arguments; return its stdout followed by its stderr."""
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


def in_turn(work: Callable, baseline: Callable, seconds: float) -> dict[str, float]:
    """Median seconds of `work` and `baseline`, measured in turn, and of their ratio; both warm."""
    work(), baseline()
    pairs, end = [], time.perf_counter() + seconds
    while len(pairs) < 3 or time.perf_counter() < end:
        pairs.append((seconds_of(work), seconds_of(baseline)))
    return _summary(pairs)


def _summary(pairs: list[tuple[float, float]]) -> dict[str, float]:
    work, baseline = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"s": work, "baseline_s": baseline, "ratio": statistics.median(a / b for a, b in pairs)}


def help_(seconds: float) -> dict[str, float]:
    """`charrnn --help`, relative to importing click and NumPy."""
    baseline = ("-c", "import click, numpy")
    return in_turn(lambda: python("-m", "charrnn", "--help"), lambda: python(*baseline), seconds)


def import_numba() -> None:
    python("-c", "import numba")


def sample(seconds: float) -> dict[str, float]:
    """500 characters of LSTM 2x128 with a warm compile cache, relative to importing Numba."""
    with tempfile.TemporaryDirectory() as folder:
        command = ("-m", "charrnn", "sample", "-m", _train_model(folder), "--length", 500)
        return in_turn(lambda: python(*command), import_numba, seconds)


def score(seconds: float) -> dict[str, float]:
    """`score` of 1 MB with LSTM 2x128, relative to `eval` of the same text."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text"
        text.write_bytes(_lines(MB))
        arguments = ("-m", _train_model(folder), text)
        return in_turn(
            lambda: python("-m", "charrnn", "score", *arguments),
            lambda: python("-m", "charrnn", "eval", *arguments),
            seconds,
        )


def _train_model(folder: str) -> Path:
    """A model file of LSTM 2x128; writing it also fills the compile cache."""
    model = Path(folder) / "m"
    python("-m", "charrnn", "train", TEXT, "-o", model, "--steps", 1)
    return model


def _lines(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes of lines that are drawn from TEXT."""
    lines = TEXT.read_bytes().splitlines(keepends=True)
    chosen = random.Random(seed).choices(lines, k=size // 10)
    return b"".join(chosen)[:size]


def novelty(seconds: float) -> dict[str, float]:
    """100 KB with a corpus of 10 MB: time, and memory in excess of a corpus of 100 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        text, corpus, small = (Path(folder) / name for name in ("text", "corpus", "small"))
        text.write_bytes(_lines(100_000, seed=1))
        corpus.write_bytes(_lines(10 * MB))
        small.write_bytes(_lines(100))
        peaks = [_peak("novelty", text, "--corpus", file) for file in (corpus, small)]
        command = ("-m", "charrnn", "novelty", text, "--corpus", corpus)
        seconds = seconds_of(lambda: python(*command))
    return {"s": seconds, "bytes_per_character": (peaks[0] - peaks[1]) / 10}


def first_run(seconds: float) -> dict[str, float]:
    """From an empty compile cache to the first training step, relative to importing Numba."""
    pairs, end = [], time.perf_counter() + seconds
    while not pairs or time.perf_counter() < end:
        pairs.append((_seconds_to_first_step(), seconds_of(import_numba)))
    return _summary(pairs)


def _seconds_to_first_step() -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "charrnn", "train", TEXT, "-o", f"{folder}/m"]
        environment = {**os.environ, "XDG_CACHE_HOME": folder, "NUMBA_CACHE_DIR": ""}
        start = time.perf_counter()
        with subprocess.Popen(
            [*command, "--steps", "1000"], stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            next(line for line in process.stderr if line.startswith("step "))
            seconds = time.perf_counter() - start
            process.terminate()  # it saves and removes its temporary files
            process.communicate()
    return seconds


def _peak(*arguments: object) -> float:
    """Peak memory of the command in megabytes, without the disk cache."""
    return json.loads(python(MEASURED, 0, 0, *arguments).splitlines()[-1])["peak"] / MB


def _peak_of_training(text: Path, folder: str, *options: object) -> float:
    return _peak("train", text, "-o", f"{folder}/m", "--overwrite", *options)


def memory(seconds: float) -> dict[str, float]:
    """Training LSTM 2x512 B50 T100 with validations and saves, relative to PyTorch without them."""
    options = ("--hidden-size", 512, "--batch-size", 50, "--seq-length", 100, "--threads", 2)
    with tempfile.TemporaryDirectory() as folder:
        result = {"mb": _peak_of_training(TEXT, folder, "--steps", 5, *options)}
    if importlib.util.find_spec("torch"):
        torch = python(HERE / "torch_run.py", VOCABULARY, 2, 512, 50, 100, 2, 5)
        result["other_mb"] = int(torch) / MB
        result["ratio"] = result["mb"] / result["other_mb"]
    return result


def memory_of_long_text(seconds: float) -> dict[str, float]:
    """Training on 1 GB of text, compared with training on 1 MB."""
    block = _lines(MB)
    with tempfile.TemporaryDirectory() as folder:
        text, peaks = Path(folder) / "text", []
        for size in (MB, GB):
            with open(text, "wb") as file:
                file.writelines(block for _ in range(size // MB))
            peaks.append(_peak_of_training(text, folder, "--steps", 3))
    return {"mb_for_1_mb": peaks[0], "mb_for_1_gb": peaks[1], "difference_mb": peaks[1] - peaks[0]}


PARTS = {
    "help": help_,
    "sample-500": sample,
    "score-1mb": score,
    "novelty-10mb": novelty,
    "first-run": first_run,
    "memory-2x512": memory,
    "memory-1gb": memory_of_long_text,
}
