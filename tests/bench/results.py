"""What is learned in so many minutes: `make results`, for hours.

    python tests/bench/results.py [--times "1m 3m 10m"] [--folder build/results] [TEXT ...]

Each text is split as `charrnn train` splits it, its last tenth held out, and learned with no option
but --time; then the held-out tenth is measured by `charrnn eval` in one piece with carried state,
and in cold windows of 256 characters: nanoGPT's measure, on windows side by side instead of random
ones. A Markdown table goes to stdout, a row as soon as it is known; each is kept in results.jsonl,
so that an interrupted run goes on. Without the folder it starts anew.
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
    "--time": "{asked}",
    "taken": "{seconds:.0f} s",
    "model": "{model}",
    "parameters": "{parameters:,}",
    "loss": "{loss:.4f}",
    "cold": "{cold:.4f}",
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
    kept = arguments.folder / "results.jsonl"
    lines = kept.read_text("utf-8").splitlines() if kept.exists() else []
    known = {(row["sha256"], row["asked"]): row for row in map(json.loads, lines)}
    print(
        "Nats per character on the last tenth, held out: loss with carried state; cold in windows"
    )
    print(f"of {WINDOW}, each from a zero state; the best n-gram's and xz's, as train says them.\n")
    show(COLUMNS)
    show(["---"] * len(COLUMNS))
    for text in map(Path, arguments.texts):
        digest = hashlib.sha256(text.read_bytes()).hexdigest()
        for asked in arguments.times.split():
            row = known.get((digest, asked))
            if row is None:
                row = {"sha256": digest, **measured(text, asked, arguments.folder)}
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            show(form.format(**row) for form in COLUMNS.values())


def show(cells) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def measured(text: Path, asked: str, folder: Path) -> dict[str, object]:
    """One row: a run of training on `text`, a process of its own, and its model's losses."""
    model = folder / f"{text.stem}-{asked}.safetensors"
    seconds, memory = run(["train", text, "-o", model, "--overwrite", "--time", asked])
    train, held_out = parts(text, folder)
    losses = answer("eval", "-m", model, held_out, "--corpus", train, "--window", WINDOW, "--json")
    facts = answer("info", model, "--json")
    c = facts["config"]
    log = model.with_suffix(".log.jsonl").read_text("utf-8").splitlines()
    return {
        "text": text.name,
        "characters": len(read_corpus(text).ids),
        "asked": asked,
        "seconds": seconds,
        "model": f"{c['cell']} {c['num_layers']} x {c['hidden_size']}, dropout {c['dropout']:g}",
        "parameters": facts["parameters"],
        "loss": losses["nats_per_character"],
        "cold": losses["window_nats_per_character"],
        "ngram": losses["ngram_nats_per_character"],
        "xz": losses["xz_nats_per_character"],
        "speed": json.loads(log[-1])["chars_per_second"],
        "memory": memory / 1e6,
    }


def run(arguments: list) -> tuple[float, int]:
    """Seconds that the command took and the most bytes of memory it held."""
    began = time.monotonic()
    process = subprocess.Popen([*CHARRNN, *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"charrnn {arguments[0]} ended with exit code {process.returncode}")
    return seconds, usage.ru_maxrss * KILOBYTE


def parts(text: Path, folder: Path) -> list[Path]:
    """The part that trains and the part held out, as files."""
    corpus = read_corpus(text)
    files = [folder / f"{text.stem}.{name}.txt" for name in ("train", "held-out")]
    for file, ids in zip(files, split(corpus.ids, TrainOptions.val_fraction), strict=True):
        file.write_bytes(corpus.vocabulary.to_utf8(ids))
    return files


def answer(*arguments) -> dict:
    """The JSON that the command prints."""
    command = [*CHARRNN, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    main()
