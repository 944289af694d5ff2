"""Table of losses after fixed training times: `make results`. It takes hours.

    python tests/bench/results.py [--times "1m 3m 10m"] [--folder build/results] [TEXT ...]

Each text is split as `charrnn train` splits it; the last tenth is the validation text. A model is
trained with no option but --time. `charrnn eval` then measures the validation text in one pass with
carried state, and in windows of 256 characters that start from a zero state, as nanoGPT does (there
the windows are random, here they are adjacent). A Markdown table is printed row by row. Rows are
saved in FOLDER/rows.jsonl, so that an interrupted run continues; delete the folder to start again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from charrnn.config import TrainOptions
from charrnn.text.corpus import read_corpus
from charrnn.text.streams import split

WINDOW = 256
CHARRNN = [sys.executable, "-m", "charrnn"]
KILOBYTE = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss

COLUMNS = {
    "text": "{text}",
    "characters": "{characters:,}",
    "--time": "{time}",
    "wall time": "{seconds:.0f} s",
    "model": "{model}",
    "parameters": "{parameters:,}",
    "loss": "{loss:.4f}",
    "windowed": "{windowed:.4f}",
    "n-gram": "{ngram:.4f}",
    "xz": "{xz:.4f}",
    "characters/s": "{speed:,.0f}",
    "memory": "{memory:,.0f} MB",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("texts", nargs="*", default=["data/harbour.txt", "data/python.txt"])
    parser.add_argument("--times", default="1m 3m 10m")
    parser.add_argument("--folder", type=Path, default=Path("build/results"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    saved = arguments.folder / "rows.jsonl"
    lines = saved.read_text("utf-8").splitlines() if saved.exists() else []
    known = {(row["sha256"], row["time"]): row for row in map(json.loads, lines)}
    print("Nats per character on the last tenth of each text: loss with carried state; windowed,")
    print(f"in windows of {WINDOW} from a zero state; the baselines that `charrnn train` prints.\n")
    print_row(COLUMNS)
    print_row(["---"] * len(COLUMNS))
    for text in map(Path, arguments.texts):
        digest = hashlib.sha256(text.read_bytes()).hexdigest()
        for time_option in arguments.times.split():
            row = known.get((digest, time_option))
            if row is None:
                row = {"sha256": digest, **measure(text, time_option, arguments.folder)}
                with saved.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            print_row(template.format(**row) for template in COLUMNS.values())


def print_row(cells) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def measure(text: Path, time_option: str, folder: Path) -> dict[str, object]:
    """One row of the table: train on `text` in a process of its own, and evaluate the model."""
    model = folder / f"{text.stem}-{time_option}.safetensors"
    seconds, memory = run(["train", text, "-o", model, "--overwrite", "--time", time_option])
    train, val = write_split(text, folder)
    window = min(WINDOW, len(val.read_text("utf-8")) - 1)
    losses = json_of("eval", "-m", model, val, "--corpus", train, "--window", window, "--json")
    info = json_of("info", model, "--json")
    log = model.with_suffix(".log.jsonl").read_text("utf-8").splitlines()
    return {
        "text": text.name,
        "characters": len(read_corpus(text).ids),
        "time": time_option,
        "seconds": seconds,
        "model": model_name(info),
        "parameters": info["parameters"],
        "loss": losses["nats_per_character"],
        "windowed": losses["window_nats_per_character"],
        "ngram": losses["ngram_nats_per_character"],
        "xz": losses["xz_nats_per_character"],
        "speed": json.loads(log[-1])["chars_per_second"],
        "memory": memory / 1e6,
    }


def model_name(info: dict) -> str:
    """The cell, the number of averaged models if several, layers and units of each, dropout."""
    c, count = info["config"], info["training"]["options"]["ensemble"]
    models = f"{count} of " if count > 1 else ""
    units = c["hidden_size"] // count
    return f"{c['cell']} {models}{c['num_layers']} x {units}, dropout {c['dropout']:g}"


def run(arguments: list) -> tuple[float, int]:
    """Run a command; return its wall time in seconds and its peak memory in bytes."""
    start = time.monotonic()
    process = subprocess.Popen([*CHARRNN, *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"charrnn {arguments[0]} failed with exit code {process.returncode}")
    return seconds, usage.ru_maxrss * KILOBYTE


def write_split(text: Path, folder: Path) -> list[Path]:
    """Write the training text and the validation text to files; return their paths."""
    corpus = read_corpus(text)
    files = [folder / f"{text.stem}.{name}.txt" for name in ("train", "val")]
    for file, ids in zip(files, split(corpus.ids, TrainOptions.val_fraction), strict=True):
        file.write_bytes(corpus.vocabulary.to_utf8(ids))
    return files


def json_of(*arguments) -> dict:
    """The JSON object that a command prints."""
    command = [*CHARRNN, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    main()
