"""Real processes under mpirun: the bits of one process, and an end for all when one fails.

mpirun is that beside the interpreter, as `pip install mpich` puts it there, or else on the PATH.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.runs import result_of

from charrnn.errors import UsageError
from charrnn.storage.run_files import run_files
from charrnn.training.mpi import connect
from charrnn.training.state import read_state

MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
HAS_MPI = bool(MPIRUN) and importlib.util.find_spec("mpi4py") is not None
needs_mpi = pytest.mark.skipif(not HAS_MPI, reason="mpi4py or mpirun is missing")
ROOT = Path(__file__).parents[2]
LIMIT = 60  # seconds after which a process hangs
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
SMALL = ("--hidden-size=16", "--batch-size=6", "--seq-length=16", "--overwrite", "--quiet")

STARTED = []  # processes of mpirun
STEPS = 3000  # of a run that is interrupted; it takes seconds

SUM = """
import numpy as np
from charrnn.storage.run_files import run_files
from charrnn.training.mpi import connect
ranks = connect("mpi")
parts = [np.random.default_rng(i).normal(size=1001).astype(np.float32) for i in range(ranks.size)]
own = parts[ranks.rank].copy()
ranks.sum_(own)
expected = parts[0].copy()
for part in parts[1:]:
    expected += part
assert np.array_equal(own, expected), ranks.rank
"""


def mpirun(size, *arguments):
    command = [MPIRUN, "-n", str(size), sys.executable, *map(str, arguments)]
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def no_process_left():
    yield
    while STARTED:
        process = STARTED.pop()
        process.terminate()  # which mpirun forwards
        process.communicate()


def charrnn_train(size, *arguments):
    return mpirun(size, "-m", "charrnn", "train", *arguments)


def train(size, *arguments):
    return charrnn_train(size, *arguments, *SMALL)


def ended(process):
    """The exit code and stderr of a process that must end."""
    error = process.communicate(timeout=LIMIT)[1]
    return process.returncode, error


def children_of(pid):
    """The process ids of all descendants."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from children_of(child)


def ranks_below(process):
    """The process ids of the ranks that mpirun has started, by their numbers."""
    found = {}
    for pid in children_of(process.pid):
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        values = dict(word.split(b"=", 1) for word in words if b"=" in word)
        rank = values.get(b"PMI_RANK", values.get(b"OMPI_COMM_WORLD_RANK"))
        if rank is not None:
            found[int(rank)] = pid
    return found


def long_run(corpus_file, output):
    """Start two ranks; returns mpirun and the process ids of the ranks when they train."""
    process = train(2, corpus_file, f"--steps={STEPS}", "--patience=0", "-o", output)
    wait_until(run_files(output).log.exists)
    wait_until(lambda: run_files(output).log.stat().st_size > 0)
    return process, ranks_below(process)


def wait_until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_end(pids):
    for pid in pids.values():
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())


def test_missing_mpi4py_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(UsageError, match=r"pip install 'charrnn\[mpi\]'"):
        connect("mpi")
    assert connect("none").size == 1


def test_other_launchers_ranks_are_not_joined_unasked(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv("PMI_SIZE", "1")
    assert connect("auto").size == 1
    monkeypatch.setenv("PMI_SIZE", "2")
    assert connect("none").size == 1
    with pytest.raises(UsageError, match="mpi4py"):
        connect("auto")


@needs_mpi
@pytest.mark.slow
def test_sums_are_added_in_the_order_of_ranks():
    assert ended(mpirun(3, "-c", SUM)) == (0, "")


@needs_mpi
@pytest.mark.slow
def test_one_rank_trains_the_bits_of_none(corpus_file, tmp_path):
    results = []
    for name, options in ("a", ["--distributed=none"]), ("b", ["--distributed=mpi"]):
        output = tmp_path / f"{name}.safetensors"
        assert ended(train(1, corpus_file, "--steps=20", "-o", output, *options)) == (0, "")
        results.append(result_of(output))
    assert results[0] == results[1]


@needs_mpi
@pytest.mark.slow
def test_several_ranks_train_the_same_bits_again_for_any_number_of_threads(corpus_file, tmp_path):
    results = []
    for threads in 1, 2:
        output = tmp_path / f"{threads}.safetensors"
        how = "--steps=20", "--dropout=0.3", f"--threads={threads}", "-o", output
        assert ended(train(3, corpus_file, *how)) == (0, "")
        results.append(result_of(output))
    assert results[0] == results[1]


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_all_and_the_run_can_be_resumed(rank, corpus_file, tmp_path):
    output = tmp_path / "model.safetensors"
    process, pids = long_run(corpus_file, output)
    os.kill(pids[rank], signal.SIGKILL)
    assert ended(process)[0] != 0
    wait_for_end(pids)
    assert ended(charrnn_train(2, corpus_file, "--resume", "-q", "-o", output)) == (0, "")
    assert read_state(run_files(output).state).progress.step == STEPS


@needs_mpi
@pytest.mark.slow
def test_sigterm_to_all_ranks_saves_and_ends_all(corpus_file, tmp_path):
    output = tmp_path / "model.safetensors"
    process, pids = long_run(corpus_file, output)
    for pid in pids.values():
        os.kill(pid, signal.SIGTERM)
    code, error = ended(process)
    wait_for_end(pids)
    assert code != 0
    assert "Terminated after step" in error and "mpirun -n 2" in error
    assert read_state(run_files(output).state).progress.step > 0


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size=1"], "a batch of 1 streams cannot be shared by 2 processes"),
        (["--ensemble=2"], "2 processes train one model together, not 2"),
        (["-"], "does not forward standard input"),
        (["missing.txt"], "cannot read missing.txt"),
    ],
)
def test_an_error_is_told_once_and_ends_all(arguments, message, corpus_file, tmp_path):
    texts = [] if arguments[0][:2] != "--" else [corpus_file]
    how = ["--steps=5", "-o", tmp_path / "m.safetensors", *SMALL, *arguments]
    code, error = ended(charrnn_train(2, *texts, *how))
    assert code in (1, 2)
    assert error.count("Error: ") == 1 and message in error
