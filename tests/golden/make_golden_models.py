"""Write format-N-<cell>.safetensors and format-N.json: models of the current format version N.

Run once, by hand, when the format version is raised, and never again for the same version:

    python tests/golden/make_golden_models.py

Each model has one layer of 8 units, 16 up to version 2, and has learned three lines; from version 3
on it knows n-grams of up to three characters. The JSON file holds `loss_text`
and, for each cell, the `text` of 120 characters at temperature 0 and the `loss` of `loss_text`.
Every later version of charrnn must read the files and give these results
(tests/storage/test_golden.py). A run's state is saved beside them as format-N-state.safetensors.
"""

import json
import sys
import tempfile
from pathlib import Path

import charrnn
from charrnn.config import CELL_NAMES
from charrnn.storage.checkpoint import MODEL_FORMAT_VERSION

LINES = [
    "MARA: The tide is late, and so is he.\n",
    "TOM: Then wait. The tide has never failed.\n",
    "MARA: It has no boat to lose, my friend.\n",
]
TEXT = "".join(LINES[i * i % 3] for i in range(100))
SETTINGS = {"hidden_size": 8, "num_layers": 1, "batch_size": 4, "steps": 300, "threads": 1}


def write_model(cell, corpus, path):
    """Train a model of this cell and save it as `path`; returns its text and loss."""
    model = charrnn.train(corpus, path, cell=cell, **SETTINGS)
    return {"text": model.sample(120, temperature=0), "loss": model.loss(TEXT[:400])}


def main():
    prefix = Path(__file__).with_name(f"format-{MODEL_FORMAT_VERSION}")
    if prefix.with_suffix(".json").exists():
        sys.exit(f"format version {MODEL_FORMAT_VERSION} has its golden files already")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus.txt")
        corpus.write_text(TEXT)
        for cell in CELL_NAMES:
            path = Path(folder, f"{cell}.safetensors")
            results[cell] = write_model(cell, corpus, path)
            Path(f"{prefix}-{cell}.safetensors").write_bytes(path.read_bytes())
        state = Path(folder, "lstm.state.safetensors")
        Path(f"{prefix}-state.safetensors").write_bytes(state.read_bytes())
    content = {"loss_text": TEXT[:400], "models": results}
    prefix.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
