"""The command as a process: `charrnn train`, `kill -9`, `--resume`."""

import random
import signal
import time

import pytest
from helpers.runs import files_in, result_of

from charrnn.api import read_model

OPTIONS = ["--hidden-size=8", "--num-layers=1", "--batch-size=8", "--seq-length=12", "--steps=1500"]
FILES = ["m", "m.log.jsonl", "m.state.safetensors"]


@pytest.fixture
def run(spawn, corpus_file):
    """Start or resume a run in a folder; send it a signal after `delay` seconds."""

    def run(folder, delay=None, number=None):
        more = ["--resume"] if (folder / "m.state.safetensors").exists() else OPTIONS
        process = spawn("train", corpus_file, "-o", folder / "m", "--quiet", *more)
        if delay is not None:
            time.sleep(delay)
            process.send_signal(number)
        _, err = process.communicate(timeout=300)
        assert b"Traceback" not in err and b"Error" not in err
        return process.returncode

    return run


def killed(run, folder, choose, longest):
    """Terminate a run, which saves it, then resume and kill it twice; returns how often it died."""
    codes = [
        run(folder, choose.uniform(0, longest), number)
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL)
    ]
    assert {*codes} <= {0, 143, -signal.SIGTERM, -signal.SIGKILL}
    if (folder / "m").exists():
        read_model(folder / "m")
    return codes.count(-signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_command_resumes_exactly(run, tmp_path):
    whole, choose, deaths = tmp_path / "whole", random.Random(9), 0
    whole.mkdir()
    began = time.monotonic()
    assert run(whole) == 0
    longest = time.monotonic() - began
    for number in range(5):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        deaths += killed(run, folder, choose, longest)
        assert run(folder) == 0
        assert result_of(folder / "m") == result_of(whole / "m")
        assert files_in(folder) == FILES
    assert deaths >= 3
