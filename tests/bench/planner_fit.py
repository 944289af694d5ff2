"""Measure runs for the planner's model of the loss, and fit its constants.

    python tests/bench/planner_fit.py measure TEXT ...
    python tests/bench/planner_fit.py fit

`measure` trains the runs of GRID on the first 90 % of each text, at equal numbers of characters and
with one thread each, and appends their losses on the rest to planner_runs.jsonl. It takes an hour
for a megabyte. `fit` prints the constants of charrnn/training/loss_model.py, which are those that
fit the runs of that file best, and how far each run is from them.

Of runs that differ in their dropout alone, the best counts: the rates are chosen elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import charrnn
from charrnn.training.loss_model import UPDATES_POWER, Curve

RUNS = Path(__file__).with_name("planner_runs.jsonl")
SEED = 0
MIN_NGRAM_CHARACTERS = 100_000

# layers, units, ngrams; the epochs are EPOCHS / sqrt(megabytes).
GRID = [
    (1, 96, 3), (1, 128, 3), (1, 160, 3), (1, 192, 3), (1, 256, 3), (1, 320, 3),
    (2, 64, 1), (2, 128, 1), (2, 192, 1), (2, 256, 1),
]  # fmt: skip
EPOCHS = {3: (1, 2, 3, 4), 1: (1, 2, 4, 8)}  # by ngrams
MEMBERS = (1, 2, 4)
DROPOUTS = ((0.0, 0.0), (0.1, 0.1), (0.2, 0.3))  # and the recurrent one
WEIGHT_DECAY = 0.6  # in total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=["measure", "fit"])
    parser.add_argument("texts", nargs="*", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "measure":
        for text in arguments.texts:
            for run in measured(text):
                print(json.dumps(run), flush=True)
                with RUNS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(run) + "\n")
        return
    runs = best_runs(read_runs())
    curves, constants = fitted(runs)
    for name, curve in curves.items():
        print(f"{name} = {curve}")
    errors = [predicted(run, curves, constants) - run["loss"] for run in runs]
    for run, error in zip(runs, errors, strict=True):
        print(f"{error:+.4f} {run}")
    print(f"mean absolute error {np.mean(np.abs(errors)):.4f}", file=sys.stderr)


def measured(text: Path) -> Iterator[dict[str, Any]]:
    """Train on a text with every setting of the grid; yields the runs with their losses."""
    megabytes = len(text.read_text("utf-8")) / 1e6
    for layers, units, ngrams in GRID:
        for epochs in EPOCHS[ngrams]:
            for members in MEMBERS:
                for dropout, recurrent_dropout in DROPOUTS:
                    settings = {
                        "num_layers": layers,
                        "hidden_size": units,
                        "ngrams": ngrams,
                        "epochs": round(epochs / megabytes**0.5, 2),
                        "ensemble": members,
                        "dropout": dropout,
                        "recurrent_dropout": recurrent_dropout,
                    }
                    yield {"text": text.name, **measured_run(text, settings)}


def measured_run(text: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train once; returns the settings, the characters of the training text and the loss."""
    characters = int(len(text.read_text("utf-8")) * 0.9)
    steps = max(100, settings["epochs"] * characters / 1024)
    decay = WEIGHT_DECAY / (0.01 * steps / 2)  # over a schedule from 0.01 down to zero
    with tempfile.TemporaryDirectory() as folder:
        more = {"weight_decay": decay, "seed": SEED, "threads": 1}
        model = charrnn.train(text, Path(folder, "m"), **settings, **more)
    return {**settings, "characters": characters, "loss": round(model.training["val_loss"], 4)}


def read_runs() -> list[dict[str, Any]]:
    """The runs of the file, without those with n-grams on very short texts, which gain nothing."""
    runs = [json.loads(line) for line in RUNS.read_text("utf-8").splitlines()]
    return [r for r in runs if r["ngrams"] == 1 or r["characters"] >= MIN_NGRAM_CHARACTERS]


def best_runs(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of runs with equal text, size, epochs and members, the one with the lowest loss."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    names = "text", "num_layers", "hidden_size", "ngrams", "epochs", "ensemble"
    for run in runs:
        key = tuple(run[name] for name in names)
        if key not in best or run["loss"] < best[key]["loss"]:
            best[key] = run
    return list(best.values())


def fitted(runs: list[dict[str, Any]]) -> tuple[dict[str, Curve], dict[str, float]]:
    """The curves by their names, and the constant of each text, by least absolute errors."""
    texts = sorted({run["text"] for run in runs})
    rows = [[*_terms(run, True), *_terms(run, False), *_is_text(run, texts)] for run in runs]
    losses = [run["loss"] for run in runs]
    solution = _least_absolute_errors(np.array(rows), np.array(losses)).tolist()
    terms = len(Curve._fields)
    with_ngrams, without = solution[: terms - 1], solution[terms - 1 : 2 * terms - 1]
    curves = {
        "WITH_NGRAMS": _rounded([0.0, *with_ngrams]),
        "WITHOUT_NGRAMS": _rounded(without),
    }
    return curves, dict(zip(texts, solution[2 * terms - 1 :], strict=True))


def _least_absolute_errors(rows: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """The x for which the sum of |rows x - losses| is least, by reweighted least squares.

    A few runs have unsuitable dropout rates and are far off.
    """
    weights = np.ones(len(losses))
    for _ in range(50):
        x = np.linalg.lstsq(rows * weights[:, None], losses * weights, rcond=None)[0]
        weights = np.maximum(np.abs(rows @ x - losses), 0.004) ** -0.5
    return x


def _terms(run: dict[str, Any], ngrams: bool) -> list[float]:
    """What the constants of a curve are multiplied by; zeros for a run of the other kind."""
    epochs, read = run["epochs"], run["epochs"] * run["characters"] / 1e6
    spread = 1 / run["ensemble"] - 1
    terms = [1 / run["hidden_size"], read**-UPDATES_POWER, max(epochs - 1, 0), spread]
    if not ngrams:
        terms.insert(0, 1.0)
    return [term * ((run["ngrams"] > 1) == ngrams) for term in terms]


def _is_text(run: dict[str, Any], texts: list[str]) -> list[float]:
    return [float(run["text"] == text) for text in texts]


def _rounded(values: list[float]) -> Curve:
    """A curve with constants of three digits; repeated reading never lowers the loss."""
    digits = [float(f"{value:.3g}") for value in values]
    curve = Curve(*digits)
    return curve._replace(repeats=max(curve.repeats, 2e-4))


def predicted(run: dict[str, Any], curves: dict[str, Curve], constants: dict[str, float]) -> float:
    """The loss that the fit gives to a run."""
    curve = curves["WITH_NGRAMS" if run["ngrams"] > 1 else "WITHOUT_NGRAMS"]
    sizes = run["characters"], run["hidden_size"], run["epochs"], run["ensemble"]
    return constants[run["text"]] + curve.loss(*sizes)


if __name__ == "__main__":
    main()
