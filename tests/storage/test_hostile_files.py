"""Model and state files from strangers: mutants by the thousand (see fuzz.py), and bombs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from charrnn.config import ModelConfig
from charrnn.storage import checkpoint

HELPERS = Path(__file__).parents[1] / "helpers"


def fuzzed(count, first):
    """The report of fuzz.py; even a warning is a fault."""
    command = [sys.executable, "-W", "error", HELPERS / "fuzz.py", str(count), str(first)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def test_thousands_of_mutants():
    report = fuzzed(2500, 0)
    # Mutants that are refused at the door, or all accepted, would test little.
    assert 0.7 < report["refused"] / report["mutants"] < 0.95


@pytest.mark.slow
def test_hundreds_of_thousands_of_mutants():
    assert fuzzed(150_000, 10_000)["mutants"] == 150_000


# --- Bombs: as large as a header may be, and larger

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
import sys, time
from charrnn.api import read_model
from charrnn.errors import CharRNNError

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

before, start = peak(), time.process_time()
try:
    read_model(sys.argv[1])
except CharRNNError as error:
    print((peak() - before) >> 10, time.process_time() - start, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_a_second_and_200_mb(tmp_path, name):
    header = BOMBS[name].encode()
    (tmp_path / "m").write_bytes(len(header).to_bytes(8, "little") + header)
    command = [sys.executable, "-c", READ, tmp_path / "m"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == ""
    megabytes, seconds, message = result.stdout.split(maxsplit=2)
    assert int(megabytes) - (len(header) >> 20) < 200
    assert float(seconds) < 1
    assert message.startswith(str(tmp_path)) and message.count("\n") == 1


def test_the_state_of_the_most_layers_is_no_bomb():
    config = ModelConfig(5, "lstm-peephole", 1, 1000, embedding_size=3)
    names = config.tensor_shapes()
    arrays = {f"{g}.{n}": np.zeros(1) for g in ("weights", "mean", "mean_square") for n in names}
    start = next(checkpoint._serialized(checkpoint.STATE_KEY, {"info": {}}, arrays))
    assert checkpoint._parsed(start[8:].decode()).keys() == {*arrays, "__metadata__"}
