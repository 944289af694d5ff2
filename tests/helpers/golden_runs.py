"""Short runs whose weights, losses and samples have the same bits on every processor.

    python tests/helpers/golden_runs.py > tests/golden/runs.json

writes the hashes anew, after a change of charrnn that changes its results: on a processor with
AVX-512 BF16, or those of bfloat16 are missing. NAME ... as arguments choose some of the runs.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import charrnn
from charrnn.config import CELL_NAMES
from charrnn.network import precision as precisions
from charrnn.network.jit import BFLOAT16

TEXT = "".join(
    f"{n} of the tides {verb}, {n * n % 89} did not; who counts them?\n"
    for n in range(60)
    for verb in ("rose", "fell")
)
# Widths, rows and steps fill neither vectors nor tiles.
SETTINGS = {
    "hidden_size": 39,
    "num_layers": 2,
    "batch_size": 7,
    "seq_length": 19,
    "steps": 30,
    "dropout": 0.1,
    "recurrent_dropout": 0.1,
    "ngrams": 3,
    "weight_decay": 0.05,
    "schedule": "cosine",
}
RUNS = {cell: {"cell": cell} for cell in CELL_NAMES} | {
    "embedding": {"embedding_size": 21, "schedule": "exponential", "lr_decay_after": 1},
    "one row": {"batch_size": 1, "clip_value": 0.1, "dropout": 0.0},
    "adam": {"cell": "rnn", "optimizer": "adam"},
    "rmsprop": {"cell": "rnn", "optimizer": "rmsprop", "weight_decay": None},
    "adagrad": {"cell": "rnn", "optimizer": "adagrad", "weight_decay": None},
    "sgd": {"cell": "rnn", "optimizer": "sgd", "weight_decay": None},
    "ensemble": {"cell": "gru", "ensemble": 2},
    "records": {"cell": "lstm", "separator": "?\n", "min_count": 40},
}
SAMPLINGS = [
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 2},
]


def hash_of_run(name: str, precision: str = "float32") -> str:
    """Train a model as RUNS[name] says, sample from it, and hash all that came of it."""
    settings = SETTINGS | RUNS[name] | {"precision": precision}
    with tempfile.TemporaryDirectory() as folder:
        corpus, output = Path(folder, "corpus.txt"), Path(folder, "model.safetensors")
        corpus.write_text(TEXT)
        given = {k: v for k, v in settings.items() if v is not None}
        with mock.patch.object(precisions, "slower_bfloat16", str):  # would refuse the run
            charrnn.train(corpus, output, threads=1, **given)
        model = charrnn.load(output, threads=1)
        log = output.with_name("model.log.jsonl").read_text().splitlines()
    digest = hashlib.sha256()
    for tensor, array in sorted(model.model.state_dict().items()):
        digest.update(tensor.encode() + array.astype("<f4").tobytes())
    for line in map(json.loads, log):
        digest.update(repr((line["step"], line["train_loss"], line["val_loss"])).encode())
    for sampling in SAMPLINGS:
        digest.update(model.sample(60, **sampling).encode())
    return digest.hexdigest()


def hashes(names: list[str]) -> dict[str, dict[str, str]]:
    """{precision: {name: hash}} of the precisions that this processor has."""
    result = {"float32": {name: hash_of_run(name) for name in names}}
    if BFLOAT16:
        bfloat16 = [name for name in names if name in CELL_NAMES]
        result["bfloat16"] = {name: hash_of_run(name, "bfloat16") for name in bfloat16}
    return result


if __name__ == "__main__":
    print(json.dumps(hashes(sys.argv[1:] or list(RUNS)), indent=2))
