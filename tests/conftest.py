"""Shared fixtures: a small text, models trained on it, ways to run the command."""

import itertools
import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

import charrnn
from charrnn.cli import main
from charrnn.generation import seeds

# Processes that the tests start inherit ignored signals, and must receive them: a shell ignores
# SIGINT in background jobs, nohup ignores SIGHUP.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # a handler is not inherited

LINES = [
    "MARA: The tide is late, and so is he.\n",
    "TOM: Then wait. The tide has never failed.\n",
    "MARA: It has no boat to lose, my friend.\n",
]


def pytest_report_header():
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "click"))


@pytest.fixture(autouse=True)
def fresh_seeds_that_repeat(monkeypatch):
    """Texts sampled without a seed are the same in each run of the tests."""
    numbers = itertools.count()
    monkeypatch.setattr(seeds.secrets, "randbits", lambda bits: next(numbers))


@pytest.fixture(scope="session")
def text():
    return "".join(LINES[i * i % 3] for i in range(100))


@pytest.fixture(scope="session")
def corpus_file(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_bytes(text.encode())
    return path


@pytest.fixture(scope="session")
def model_file(corpus_file, tmp_path_factory):
    """A model trained briefly on `text`."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    charrnn.train(corpus_file, path, hidden_size=16, num_layers=1, steps=30, batch_size=4)
    return path


@pytest.fixture(scope="session")
def bytes_model_file(tmp_path_factory):
    """A model of bytes trained briefly on characters of two and three bytes."""
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "corpus.txt").write_bytes("Grüße aus 東京, ça va\n".encode() * 60)
    path = folder / "model.safetensors"
    charrnn.train(
        folder / "corpus.txt", path, as_bytes=True, hidden_size=16, num_layers=1, steps=30
    )
    return path


@pytest.fixture(scope="session")
def records_model(tmp_path_factory):
    """A model of records, lines of a and b."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "list").write_text("ab\nb\naab\nabb\nba\n" * 9)
    charrnn.train(
        folder / "list", folder / "m", separator="\n", hidden_size=8, num_layers=1, steps=20
    )
    return folder / "m"


@pytest.fixture
def invoke():
    """Run the command in this process, which is fast; returns click's Result."""

    def run(*arguments, **options):
        return CliRunner().invoke(main, list(map(str, arguments)), prog_name="charrnn", **options)

    return run


@pytest.fixture
def spawn():
    """Start the command as a process with pipes; `env` is added to the environment."""
    processes = []

    def start(*arguments, env=None, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        command = [sys.executable, "-m", "charrnn", *map(os.fspath, arguments)]
        # PYTHONUNBUFFERED may be set here, but is not where users run the command.
        environment = {**os.environ, "PYTHONUNBUFFERED": "", **(env or {})}
        processes.append(subprocess.Popen(command, env=environment, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for stream in filter(None, (process.stdout, process.stderr)):
            stream.close()
