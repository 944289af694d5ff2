"""All pairs of options with extreme values: done or refused in one sentence, never a fault."""

import json
import signal

import numpy as np
import pytest
from pairs import covering_rows

from charrnn import plan
from charrnn.api import read_model
from charrnn.config import CELL_NAMES, OPTIMIZER_NAMES, SCHEDULE_NAMES
from charrnn.files import run_files
from charrnn.state import read_state
from charrnn.train import Run

MOST = 2**63 - 1

# Each of these is possible; None: the option is not given.
TRAIN = {
    "text": [b"ab", b"abc\n" * 9, bytes(range(10, 127)) * 5, "🙂é\x00\x1b\u2028\r\n".encode() * 30],
    "--cell": CELL_NAMES,
    "--hidden-size": [None, 1, 17],
    "--num-layers": [1, 3],
    "--embedding-size": [0, 1, 33],
    "--dropout": [None, 0, 1e-300, 0.5, 0.9999999],
    "--seq-length": [1, 7, MOST],
    "--batch-size": [1, 5, MOST],
    "--time": [None, 1e-9, 1e-320, 1e308],
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
    "--bytes": [None, True],
    "--encoding": [None, None, None, "latin-1", "utf-16-le"],
    "--seed": [None, MOST],
    "--threads": [None, 1, 3, MOST],
    "--sample-every": [None, 1, MOST],
    "--quiet": [None, True],
}


def arguments_of(row):
    given = {name: value for name, value in row.items() if value is not None}
    return [w for k, v in given.items() for w in ([k] if v is True else [k, v])]


def require_sentence(result):
    """The command has failed as it should: in one sentence."""
    message = result.stderr.rpartition("Error: ")[2]
    assert message.count("\n") == 1 and message.endswith("\n"), result.stderr
    assert "fault" not in message and "Traceback" not in result.stderr, result.stderr


def require_sound(output):
    """Whatever files there are are whole and finite."""
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
    """Runs end by an interruption after three steps; plans take no time to measure."""
    advance = Run._advance

    def advance_or_stop(run):
        report = advance(run)
        if report.step >= 3:
            signal.raise_signal(signal.SIGINT)
        return report

    monkeypatch.setattr(Run, "_advance", advance_or_stop)
    monkeypatch.setattr(plan, "TRIAL_SECONDS", 0)


def one_length(row):
    """Of --time, --epochs and --steps keep the first that is given, or most rows are refused."""
    given = [name for name in ("--time", "--epochs", "--steps") if row[name] is not None]
    return row | dict.fromkeys(given[1:])


@pytest.mark.usefixtures("brief")
@pytest.mark.filterwarnings("error")
def test_train(invoke, tmp_path):
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
