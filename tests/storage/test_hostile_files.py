"""Untrusted model and state files: thousands of mutants (see helpers/fuzz.py), and bombs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from charrnn.config import ModelConfig, tensor_shapes
from charrnn.storage import checkpoint

HELPERS = Path(__file__).parents[1] / "helpers"


def fuzzed(count, first):
    """Return the report of helpers/fuzz.py; a warning is a fault too."""
    command = [sys.executable, "-W", "error", HELPERS / "fuzz.py", str(count), str(first)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def test_thousands_of_mutants_are_refused_or_valid():
    report = fuzzed(1500, 0)
    # If all mutants were refused, or none, they would test little.
    assert 0.7 < report["refused"] / report["mutants"] < 0.95


@pytest.mark.slow
def test_hundreds_of_thousands_of_mutants_are_refused_or_valid():
    assert fuzzed(150_000, 10_000)["mutants"] == 150_000


# --- Bombs: headers of the largest allowed size, and larger

ITEMS, BYTES = checkpoint.MAX_HEADER_ITEMS, checkpoint.MAX_HEADER_BYTES
KEYS = "{" + ",".join(f'"{i}":1' for i in range(ITEMS - 9)) + "}"
BOMBS = {
    "keys": KEYS,
    "objects in objects": "{" + ",".join(f'"{i}":{{"a":9}}' for i in range(ITEMS // 2 - 9)) + "}",
    "keys within keys": json.dumps({"__metadata__": {"charrnn": KEYS}, "b": [1] * (ITEMS - 99)}),
    "wide characters": '{"a":"🙂' + "a" * (BYTES - 99) + '"}',
    "wide characters within": '{"__metadata__":{"charrnn":"{\\"format_version\\":1,\\"a\\":\\"🙂'
    + "a" * (BYTES - 199)
    + '\\"}"}}',
    "escapes": '{"a":"' + r"\ud83d\ude00" * (BYTES // 12 - 9) + '"}',
    "escapes of backslashes": json.dumps({"__metadata__": {"charrnn": "\\" * (BYTES // 3)}}),
    "long numbers": '{"a":[' + ",".join(["1." + "3" * 60] * (ITEMS - 9)) + "]}",
    "spaces": '{"a":' + " " * (BYTES - 99) + "1}",
    "one item too many": "[" * (ITEMS + 1),
    "one byte too many": "{" + " " * BYTES + "}",
}
READ = """
import sys
from charrnn.api import read_model
from charrnn.errors import CharRNNError

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

before = peak()
try:
    read_model(sys.argv[1])
except CharRNNError as error:
    print((peak() - before) >> 10, error)
"""


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def require_refused_in_little_memory(path):
    """Return the message. Quadratic reading of a bomb takes hours; the timeout ends it."""
    command = [sys.executable, "-c", READ, path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and result.stderr == ""
    megabytes, message = result.stdout.split(maxsplit=1)
    assert int(megabytes) - (path.stat().st_size >> 20) < 200
    assert message.startswith(str(path)) and message.count("\n") == 1
    return message


@needs_proc
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_within_200_mb(tmp_path, name):
    header = BOMBS[name].encode()
    (tmp_path / "m").write_bytes(len(header).to_bytes(8, "little") + header)
    require_refused_in_little_memory(tmp_path / "m")


@needs_proc
@pytest.mark.parametrize("num_ngrams", [0, 2**20, 2**20 + 1])
def test_millions_of_ngrams_are_refused_within_200_mb(tmp_path, num_ngrams):
    """As many as the header may have, or as the configuration says; these are not sorted."""
    config = vars(ModelConfig(2, "rnn", 1, 1, ngrams=2)) | {"num_ngrams": num_ngrams}
    inputs, size = 2 + num_ngrams, 2 * num_ngrams or checkpoint.MAX_HEADER_BYTES - 4000
    shapes = tensor_shapes(vars(ModelConfig(2, "rnn", 1, 1))) | {"rnn.weight_ih_l0": (1, inputs)}
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    content = {
        "config": config, "vocabulary": "ab", "training": {}, "ngrams": ["ba" * (size // 2)]
    }  # fmt: skip
    path = tmp_path / "m"
    path.write_bytes(b"".join(checkpoint.serialize(checkpoint.MODEL_KEY, 3, content, tensors)))
    message = require_refused_in_little_memory(path)
    assert ("num ngrams" if num_ngrams > 2**20 else "n-grams") in message


def test_the_state_of_a_thousand_layers_is_within_the_limits():
    config = ModelConfig(5, "lstm-peephole", 1, 1000, embedding_size=3)
    names = config.tensor_shapes()
    arrays = {f"{g}.{n}": np.zeros(1) for g in ("weights", "mean", "mean_square") for n in names}
    start = next(checkpoint.serialize(checkpoint.STATE_KEY, 2, {"info": {}}, arrays))
    assert checkpoint.parse_json(bytes(start[8:]).decode()).keys() == {*arrays, "__metadata__"}
