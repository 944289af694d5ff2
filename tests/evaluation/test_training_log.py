"""Training logs: reading and reducing their losses."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.training_logs import line_of, write_log

from charrnn.errors import CharRNNError
from charrnn.evaluation.training_log import (
    Curve,
    binned_means,
    log_beside,
    read_loss_history,
    without_burn_in,
)


@pytest.fixture
def write(tmp_path):
    return lambda name, lines, end="": write_log(tmp_path / name, lines, end)


def test_the_log_of_a_training_run_is_read_completely(model_file):
    history = read_loss_history(log_beside(model_file))
    lines = [json.loads(line) for line in Path(log_beside(model_file)).read_text().splitlines()]
    assert history.damaged == 0 and len(lines) > 5
    for axis, field in (
        ("seconds", "seconds"),
        ("steps", "step"),
        ("epochs", "epoch"),
        ("chars", "chars"),
    ):
        assert history.times[axis].tolist() == [line[field] for line in lines]
    assert history.train.tolist() == [line["train_loss"] for line in lines]
    measured = [(x["epoch"], x["val_loss"]) for x in lines if x["val_loss"] is not None]
    val = history.curve(history.val, "epochs")
    assert list(zip(val.x.tolist(), val.y.tolist(), strict=True)) == measured


def test_log_model_and_state_belong_to_the_same_log(write):
    log = write("a.log.jsonl", [line_of(1)])
    for name in ("a.log.jsonl", "a.safetensors", "a.state.safetensors"):
        assert log_beside(log.parent / name) == str(log)
    assert log_beside("other name") == "other name"


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        '{"step": 1}',
        "[1]",
        "3",
        "null",
        "\x00",
        "[" * 5000,
        json.dumps(line_of(1)).replace("1000.0", "9" * 5000),
        json.dumps(line_of(1, seconds=math.nan)),
        json.dumps(line_of(1, seconds=-1)),
        json.dumps(line_of(1)).replace('"step": 1', '"step": 1' + "0" * 400),
        json.dumps(line_of(1)).replace("2.0", '"two"'),
        "x" * 200_000,
    ],
)
def test_damaged_lines_are_counted_and_ignored(write, damage):
    text = [line_of(1), line_of(2)]
    path = write("a", text, damage + "\n" + json.dumps(line_of(3)) + "\n")
    history = read_loss_history(path)
    assert history.times["steps"].tolist() == [1, 2, 3]
    assert history.damaged >= 1
    if len(damage) < 60_000:
        assert history.damaged == 1


def test_an_incomplete_last_line_is_not_damage(write):
    whole = json.dumps(line_of(3))
    for length in range(len(whole) + 1):
        history = read_loss_history(write("a", [line_of(1), line_of(2)], whole[:length]))
        assert history.damaged == 0 and len(history.train) == 2 + (length == len(whole))


def test_losses_of_nan_infinity_and_huge_numbers_are_unknown(write):
    losses = [math.nan, math.inf, -math.inf, 1e300, None, 1.25]
    history = read_loss_history(write("a", [line_of(i, x, x) for i, x in enumerate(losses)]))
    for values in history.train, history.val:
        curve = history.curve(values, "steps")
        assert curve.x.tolist() == [5] and curve.y.tolist() == [1.25]


def test_files_that_are_not_logs_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"line\n" * 1000)
    (tmp_path / "b").write_bytes(bytes(10_000_000))
    for name in "ab":
        with pytest.raises(CharRNNError, match="not the log of a run"):
            read_loss_history(tmp_path / name)


def test_binned_means_equal_numpy_means():
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.uniform(0, 10, 5000)), rng.normal(size=5000)
    binned = binned_means(Curve(x, y), 20, 10)
    for k in range(20):
        part = (x >= k / 2) & (x < (k + 1) / 2)
        assert binned.x[k] == pytest.approx(x[part].mean())
        assert binned.y[k] == pytest.approx(y[part].mean())
    few = Curve(np.array([0.0, 3.0, 10.0]), np.array([5.0, 4.0, 3.0]))
    assert [v.tolist() for v in binned_means(few, 100, 10.0)] == [v.tolist() for v in few]


def test_without_burn_in_removes_the_first_twentieth():
    curve = Curve(np.linspace(0, 100, 101), np.linspace(100, 0, 101))
    assert without_burn_in(curve).tolist() == list(range(95, -1, -1))
    one = Curve(np.array([3.0]), np.array([2.0]))
    assert without_burn_in(one).tolist() == [2.0]
