"""Write format-N-<cell>.safetensors and format-N.json: models of the current format version N.

Run once, by hand, when the format version is raised, and never again for the same version:

    python tests/golden/make_golden_models.py

Each model has one layer of 8 units, 16 up to version 2, and has learned three lines; from version 3
on it knows n-grams of up to three characters. Those of version 4 have learned records with a
separator of several characters and a symbol for rare characters. The JSON file holds `loss_text`
and, for each cell, the `text` of 120 characters at temperature 0, of records only the first, and
the `loss` of `loss_text`. Every later version of charrnn must read the files and give these results
(tests/storage/test_golden.py). A run's state is saved beside them as format-N-state.safetensors:
up to version 3 that of a finished run, from version 4 on that of an ensemble after half of the
steps, with its text `corpus` and the `resumed_loss` of `loss_text` of the finished model.
"""

import json
import sys
import tempfile
from pathlib import Path

import charrnn
from charrnn.config import CELL_NAMES
from charrnn.storage.checkpoint import MODEL_FORMAT_VERSION
from charrnn.training.start import prepare_run

SENTENCES = [
    "The tide is late, and so is he.",
    "Then wait. The tide has never failed.",
    "It has no boat to lose, my friend.",
]
SEPARATOR = " %\n"
RARE = "é东"  # each occurs once
RECORDS = [f"{who}: {SENTENCES[i * i % 3]}" for i in range(25) for who in ("MARA", "TOM", "ANN")]
TEXT = SEPARATOR.join([*RECORDS, *RARE, ""])
LOSS_TEXT = f"MARA: It never failed, ß{SEPARATOR}" + TEXT[:400]
SETTINGS = {"hidden_size": 8, "num_layers": 1, "batch_size": 4, "steps": 300}
SETTINGS |= {"separator": SEPARATOR, "min_count": 2}


def write_model(cell, corpus, path):
    """Train a model of this cell and save it as `path`; returns its text and loss."""
    model = charrnn.train(corpus, path, cell=cell, threads=1, **SETTINGS)
    text, end, _ = model.sample(120, temperature=0).partition(SEPARATOR)
    return {"text": text, "loss": model.loss(LOSS_TEXT)}


def write_state(corpus, path, target):
    """Save the state of an ensemble after half of its steps as `target`; returns the final loss."""
    run = prepare_run(corpus, path, SETTINGS | {"ensemble": 2}, threads=1).start()
    for step, _ in enumerate(run, 1):
        if 2 * step == SETTINGS["steps"]:
            run.stop()
    target.write_bytes(path.with_name("stopped.state.safetensors").read_bytes())
    return charrnn.train(corpus, path, resume=True, threads=1).loss(LOSS_TEXT)


def main():
    prefix = Path(__file__).with_name(f"format-{MODEL_FORMAT_VERSION}")
    if prefix.with_suffix(".json").exists():
        sys.exit(f"format version {MODEL_FORMAT_VERSION} has its golden files already")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus.txt")
        corpus.write_bytes(TEXT.encode())
        for cell in CELL_NAMES:
            path = Path(folder, f"{cell}.safetensors")
            results[cell] = write_model(cell, corpus, path)
            Path(f"{prefix}-{cell}.safetensors").write_bytes(path.read_bytes())
        state = Path(f"{prefix}-state.safetensors")
        resumed_loss = write_state(corpus, Path(folder, "stopped.safetensors"), state)
    content = {
        "corpus": TEXT, "loss_text": LOSS_TEXT, "models": results, "resumed_loss": resumed_loss
    }  # fmt: skip
    prefix.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
