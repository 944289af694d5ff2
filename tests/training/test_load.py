"""Long texts, samples and runs take constant memory.

Memory is measured in a separate process, without the disk cache: texts are read, not mapped.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.measured import memory

import charrnn
from charrnn.storage.run_files import run_files

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")

HELPERS = Path(__file__).parents[1] / "helpers"
MB, GB = 10**6, 10**9
SOAK_MINUTES = float(os.environ.get("CHARRNN_SOAK_MINUTES", 3))
TINY = ("--hidden-size", 8, "--num-layers", 1, "--threads", 1)


def measured(*arguments, limit=0, seconds=0):
    """Run the command, at most `seconds` if given; return the peaks that measured.py reports."""
    command = [sys.executable, HELPERS / "measured.py", f"{limit}", f"{seconds}"]
    with tempfile.TemporaryFile() as out:
        done = subprocess.run(
            [*command, *map(str, arguments)], stdout=out, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


@pytest.fixture(scope="session")
def text_of(text, tmp_path_factory):
    """Return a function that makes a text file of a given size in bytes."""
    folder = tmp_path_factory.mktemp("long")

    def make(size):
        path = folder / f"{size}"
        if not path.exists():
            block = (text * (MB // len(text) + 1)).encode()
            with open(path, "wb") as file:
                while file.tell() < size:
                    file.write(block[: size - file.tell()])
        return path

    yield make
    for path in folder.iterdir():
        path.unlink()


@pytest.fixture(scope="module")
def tiny_model(text_of, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "m"
    charrnn.train(text_of(MB), path, hidden_size=8, num_layers=1, steps=1)
    return path


# --- Long texts and samples


@pytest.mark.slow
def test_training_on_a_text_longer_than_the_memory(text_of, tmp_path):
    """A limit that lets a shorter text train also suffices for one 40 MB longer.

    Loading or mapping the longer text would exceed the limit by 15 MB. The baselines read the same
    number of characters of both.
    """
    options = ["--steps", 3, "--overwrite", "-o", tmp_path / "m", *TINY]
    limit = measured("train", text_of(24 * MB), *options)["space"] + 25 * MB
    measured("train", text_of(64 * MB), *options, limit=limit)


@pytest.mark.parametrize("command", ["eval", pytest.param("score", marks=pytest.mark.slow)])
def test_scoring_a_long_text_takes_little_memory(text_of, tiny_model, command):
    short, long = (
        measured(command, text_of(size), "-m", tiny_model)["peak"] for size in (MB // 5, MB)
    )
    assert long < short + 4 * MB


@pytest.mark.slow
@pytest.mark.parametrize("command", ["eval", "score"])
def test_scoring_100_mb_takes_little_memory(text_of, tiny_model, command):
    """The command reads for a minute, however far it gets."""
    short, long = (
        measured(command, text_of(size), "-m", tiny_model, seconds=60)["peak"]
        for size in (MB, 100 * MB)
    )
    assert long < short + 40 * MB


@pytest.mark.slow
def test_a_text_of_2_gb_is_processed_in_an_address_space_of_1_gb(text_of, tmp_path, tiny_model):
    long = text_of(2 * GB)
    measured("train", long, "-o", tmp_path / "m", "--steps", 3, "--hidden-size", 64, limit=GB)
    for command in ("eval", "score"):
        peak = measured(command, long, "-m", tiny_model, limit=GB, seconds=30)["peak"]
        assert peak < 300 * MB


@pytest.mark.slow
def test_training_memory_does_not_grow_with_the_text(text_of, tmp_path):
    options = ["--steps", 3, "--overwrite", "-o", tmp_path / "m", "--hidden-size", 64]
    short, long = (measured("train", text_of(size), *options)["peak"] for size in (MB, GB))
    print(f"{short / MB:.1f} MB for 1 MB of text, {long / MB:.1f} MB for 1 GB")
    assert long < short + 100 * MB


@pytest.mark.parametrize("length", [50_000, pytest.param(10**7, marks=pytest.mark.slow)])
def test_sampling_memory_does_not_grow_with_the_length(tiny_model, length):
    short, long = (
        measured("sample", "-m", tiny_model, "--length", n, "--threads", 1)["peak"]
        for n in (2000, length)
    )
    assert long < short + 3 * MB


# --- Long runs


def watched(process, log):
    """Return [(seconds, bytes of memory)] of a run, and (step, CPU seconds) of each line of `log`.

    CPU time depends less on other processes than wall time.
    """
    taken, steps, start = [], [], time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        if sizes := memory(process.pid):  # empty while the process ends
            taken.append((time.monotonic() - start, sizes["RssAnon"]))
            lines = log.read_bytes().splitlines() if log.exists() else []
            if len(lines) > len(steps):
                steps.append((json.loads(lines[len(steps)])["step"], cpu_seconds(process.pid)))
    return np.array(taken), np.array(steps)


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_memory_and_speed_are_constant_over_a_long_run(text_of, tmp_path):
    """The run trains, validates, samples and saves for CHARRNN_SOAK_MINUTES."""
    output = tmp_path / "m"
    options = ["--time", f"{SOAK_MINUTES}m", "--hidden-size", 64, "--dropout", 0, "--threads", 1]
    options = ["-o", output, "--sample-every", 500, *options]
    command = [sys.executable, "-m", "charrnn", "train", text_of(20 * MB), *map(str, options)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        taken, steps = watched(process, run_files(output).log)
    assert process.returncode == 0
    seconds, used = taken[taken[:, 0] > 0.2 * taken[-1, 0]].T  # without the warm-up
    growth = np.polyfit(seconds, used, 1)[0] * 600
    speeds = np.diff(steps[:, 0]) / np.diff(steps[:, 1])
    third = len(speeds) // 3
    first, last = np.median(speeds[:third]), np.median(speeds[-third:])
    print(f"{growth / MB:+.3f} MB in ten minutes, {first:.1f} and {last:.1f} steps a CPU second")
    assert growth < MB * max(1, 600 / seconds[-1]) and last > 0.85 * first
