"""All pairs of options with extreme values: success or one sentence, never an internal error."""

import json
import signal

import numpy as np
import pytest
from helpers.covering_array import covering_rows

from charrnn.api import read_model
from charrnn.config import CELL_NAMES, OPTIMIZER_NAMES, PRECISIONS, SCHEDULE_NAMES
from charrnn.generation import filters
from charrnn.network import jit, precision
from charrnn.storage.run_files import run_files
from charrnn.training import planner as plan
from charrnn.training.run import TrainingRun
from charrnn.training.state import read_state

MOST = 2**63 - 1

# Each of these values is allowed; None omits the option.
TRAIN = {
    "text": [b"ab", b"abc\n" * 9, bytes(range(10, 127)) * 5, "🙂é\x00\x1b\u2028\r\n".encode() * 30],
    "--cell": CELL_NAMES,
    "--hidden-size": [None, 1, 17],
    "--num-layers": [1, 3],
    "--embedding-size": [0, 1, 33],
    "--ngrams": [1, 2, 4],
    "--ensemble": [None, 1, 3],
    "--dropout": [None, 0, 1e-300, 0.5, 0.9999999],
    "--recurrent-dropout": [None, 0, 1e-300, 0.5, 0.9999999],
    "--seq-length": [1, 7, MOST],
    "--batch-size": [1, 5, MOST],
    "--time": [None, 1e-9, 1e-320, 1e9],
    "--epochs": [None, 1e-320, 0.5, 1e308],
    "--steps": [None, 1, 3, MOST],
    "--optimizer": OPTIMIZER_NAMES,
    "--learning-rate": [None, 1e-320, 1, 1e30, 1e308],
    "--schedule": SCHEDULE_NAMES,
    "--momentum": [None, 0, 0.9999999],
    "--weight-decay": [None, 1e-320, 1, 1e308],
    "--lr-decay": [None, 1e-320, 1],
    "--lr-decay-after": [None, 0, 1e308],
    "--clip-value": [None, 1e-320, 1, 1e308],
    "--clip-norm": [None, 0, 1e-320, 1e308],
    "--val-fraction": [None, 0, 1e-320, 0.5, 0.9999999],
    "--separator": [None, None, "c", r"\n"],
    "--bytes": [None, True],
    "--encoding": [None, None, None, "latin-1", "utf-16-le"],
    "--errors": [None, None, "strict", "replace"],
    "--min-count": [None, 1, 2, MOST],
    "--init-from": [None, None, None, "missing"],
    "--prune-vocabulary": [None, None, True],
    "--precision": PRECISIONS,
    "--seed": [None, MOST],
    "--threads": [None, 1, 3, MOST],
    "--sample-every": [None, 1, MOST],
    "--quiet": [None, True],
}


SAMPLE = {
    "--length": [1, 3],
    "--lines": [None, 1, MOST],
    "--min-p": [None, 0, 1e-320, 1],
    "--repetition-penalty": [None, 1, 1e308],
    "--beam": [None, None, None, 2],
    "--all": [None, None, True],
    "--unique": [None, True],
    "--not-in": [None, "known", "-"],
    "--match": [None, "", "[a-z]|^.|^$", "("],
    "--min-length": [None, 0, 1, MOST],
    "--max-length": [None, 3],
    "--first": [None, 0, MOST],
    "--primes": [None, None, "primes", "-"],
    "--omit-prime": [None, None, True],
    "--forbid": [None, "\n", "\udcff\ud800"],
    "--jsonl": [None, True],
    "--temperature": [None, 0, 1e-320, 1e-9, 1e308],
    "--mid-line": [None, True],
    "--prime": [None, "", "MARA", "M\udcff", "\u202eü\x00"],
    "--top-k": [None, 1, 3, MOST],
    "--top-p": [None, 1e-320, 0.5, 1],
    "--seed": [None, 0, MOST],
    "--num-samples": [None, 1, 40],
    "--separator": [None, "", "\x00", "\udcff"],
    "--stop": [None, "a", "\n", "\udcff\ud800", "never" * 99],
    "--unknown": [None, "error", "skip"],
    "--threads": [None, 3, MOST],
    "--output": [None, "out", "no/such/folder"],
}
OF_RECORDS = {
    "--length": [0, 1, 3],
    "--unique": [None, None, True],
    "--not-in": [None, "known", "-"],
    "--match": [None, "[a-z]|^.|^$"],
    "--min-length": [None, 0, 1],
    "--max-length": [None, 40, MOST],
    "--first": [None, MOST],
    "--primes": [None, None, "primes", "-"],
    "--omit-prime": [None, None, None, True],
    "--allow": [None, "a", "\n"],
    "--forbid": [None, None, "\n", "a"],
    "--jsonl": [None, None, True],
    "--temperature": [None, 1e-9, 1e308],
    "--top-p": [None, 1e-320, 0.5],
    "--num-samples": [None, None, None, 3],
    "--separator": [None, None, "", "\udcff"],
    "--novelty": [None, "known"],
    "--output": [None, "out", "out{n}"],
}
READ = {
    "text": [b"", b"M", b"MARA: no", b"\xff\xfe\x00", "\ufeffM\u2028\x1b".encode(), b"\n\r\n" * 9],
    "--json": [None, True],
    "--unknown": [None, "error", "skip", "count"],
    "--errors": [None, "strict", "replace"],
    "--encoding": [None, "latin-1", "utf-16", "utf-7", "no-such", ""],
}
EVAL = READ | {"--adapt": [None, True], "--threads": [None, 3, MOST]}
SCORE = READ | {
    "--sort": [None, "position", "surprisal"],
    "--color": [None, True],
    "--html": [None, "-", "page.html", "no/such/folder"],
}


def arguments_of(row):
    given = {name: value for name, value in row.items() if value is not None}
    return [word for k, v in given.items() for word in ([k] if v is True else [f"{k}={v}"])]


def require_sentence(result):
    """Require that the command failed with one sentence."""
    _, found, message = result.stderr.rpartition("Error: ")
    assert found and message.count("\n") == 1 and message.endswith("\n"), result.stderr
    assert "fault" not in message and "Traceback" not in result.stderr, result.stderr


def require_sound(output):
    """Require that the files of a run, if there are any, are complete and finite."""
    files = run_files(output)
    if files.model.exists():
        read_model(files.model)
    if files.state.exists():
        read_state(files.state)
    if files.log.exists():
        for line in files.log.read_text().splitlines():
            assert np.isfinite(json.loads(line)["train_loss"])


@pytest.fixture
def brief(monkeypatch):
    """Interrupt runs after three steps; let the planner measure for no time.

    Every processor passes for one with bfloat16.
    """
    advance = TrainingRun._step

    def advance_or_stop(run):
        report = advance(run)
        if report.step >= 3:
            signal.raise_signal(signal.SIGINT)
        return report

    monkeypatch.setattr(TrainingRun, "_step", advance_or_stop)
    monkeypatch.setattr(plan, "TRIAL_SECONDS", 0)
    monkeypatch.setattr(jit, "BFLOAT16", True)
    monkeypatch.setattr(precision, "slower_bfloat16", str)


def one_length(row):
    """Retain the first of --time, --epochs and --steps: most rows would be refused otherwise."""
    given = [name for name in ("--time", "--epochs", "--steps") if row[name] is not None]
    return row | dict.fromkeys(given[1:])


@pytest.mark.usefixtures("brief")
@pytest.mark.filterwarnings("error")
def test_train_handles_all_pairs_of_options(invoke, tmp_path):
    codes = []
    for number, row in enumerate(covering_rows(TRAIN)):
        row = one_length(row)
        (tmp_path / "text").write_bytes(row.pop("text"))
        output = tmp_path / f"{number}"
        result = invoke("train", tmp_path / "text", "-o", output, *arguments_of(row))
        codes.append(result.exit_code)
        assert result.exit_code in (0, 1, 2, 130), (row, result.stderr)
        if result.exit_code in (1, 2):
            require_sentence(result)
        require_sound(output)
    assert codes.count(0) + codes.count(130) > len(codes) / 3


HUGE = [
    *(2**62, 2**63, 10**30, -(10**30), 1e308, "1e999", "nan", "-inf", "9" * 5000),
    *("", " ", "0x1", "\x1b"),
]
COMMANDS = {
    "train": "hidden-size num-layers embedding-size ngrams ensemble dropout recurrent-dropout "
    "seq-length batch-size time epochs steps learning-rate momentum weight-decay lr-decay "
    "lr-decay-after clip-value clip-norm val-fraction seed threads sample-every cell optimizer "
    "schedule precision encoding separator",
    "sample": "length min-length max-length first temperature top-k top-p seed num-samples "
    "unknown threads",
    "eval": "unknown encoding threads",
    "score": "sort unknown encoding",
}


@pytest.mark.usefixtures("brief")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("command", COMMANDS)
def test_values_out_of_bounds_are_refused_in_one_sentence(
    invoke, corpus_file, model_file, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    words = {
        "train": [corpus_file, "--overwrite", "--hidden-size", "4", "--steps", "1"],
        "sample": ["-m", model_file, "--length", "1", "-n", "1"],
        "eval": ["-m", model_file, corpus_file],
        "score": ["-m", model_file, corpus_file],
    }[command]
    for name in COMMANDS[command].split():
        for value in HUGE:
            if name in ("length", "num-samples") and value == 2**62:
                continue  # this much text would be written
            result = invoke(command, *words, f"--{name}={value}")
            assert result.exit_code in (0, 1, 2, 130), (name, value, result.stderr)
            if result.exit_code in (1, 2):
                require_sentence(result)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("columns, letters", [(SAMPLE, "MT"), (OF_RECORDS, "ab")])
def test_sample_handles_all_pairs_of_options(
    invoke, model_file, records_model, tmp_path, monkeypatch, columns, letters
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(filters, "MAX_REJECTED", 100)
    model, (one, other) = {"MT": model_file, "ab": records_model}[letters], letters
    (tmp_path / "primes").write_text(f"{one}\n\n{other}")
    (tmp_path / "known").write_text(f"{one}\n{other}\n")
    codes = []
    for row in covering_rows(columns):
        result = invoke("sample", "-m", model, *arguments_of(row), input=f"{other}\n{one}")
        codes.append(result.exit_code)
        assert result.exit_code in (0, 1, 2), (row, result.stderr)
        if result.exit_code:
            require_sentence(result)
    assert codes.count(0) > len(codes) / (4 if letters == "MT" else 6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["characters", "bytes"])
@pytest.mark.parametrize("command, columns", [("eval", EVAL), ("score", SCORE)])
def test_eval_and_score_handle_all_pairs_of_options(
    invoke, model_file, bytes_model_file, tmp_path, monkeypatch, command, columns, kind
):
    monkeypatch.chdir(tmp_path)
    model = {"characters": model_file, "bytes": bytes_model_file}[kind]
    codes = []
    for row in covering_rows(columns):
        (tmp_path / "text").write_bytes(row.pop("text"))
        result = invoke(command, "-m", model, "text", *arguments_of(row))
        codes.append(result.exit_code)
        assert result.exit_code in (0, 1, 2), (row, result.stderr)
        if result.exit_code:
            require_sentence(result)
    assert codes.count(0) > 1
