"""An installation or environment in which Numba does not work: one sentence with the remedy."""

import os
import subprocess
import sys

import numba
import pytest

IMPORT = """
import sys
from charrnn.errors import CharRNNError
{before}
try:
    import charrnn.network.model
except CharRNNError as error:
    print(type(error).__name__, error)
"""


def outcome(before="", **environment):
    """What is printed when the network is imported; nothing else may be said."""
    command = [sys.executable, "-c", IMPORT.format(before=before)]
    environment = {**os.environ, **environment}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return result.stdout


@pytest.mark.parametrize("name", ["numba", "llvmlite"])
def test_missing_package_is_named_with_the_remedy(name):
    said = outcome(f"sys.modules[{name!r}] = None")
    assert said.startswith(f"CharRNNError {name} is not installed; run `pip install ")
    assert "numba>=0." in said and said.count("\n") == 1


@pytest.mark.parametrize("version", ["9.1.0", "1.1.0"])
def test_unsuitable_numpy_is_named_with_numba_and_the_remedy(version):
    said = outcome(f"import numpy; numpy.__version__ = {version!r}")
    assert said.startswith(f"CharRNNError Numba {numba.__version__} ")
    assert f"does not work with NumPy {version} (" in said
    assert said.endswith("' numpy`.\n") and said.count("\n") == 1


def test_numba_without_a_part_that_charrnn_uses_is_named():
    said = outcome("import numba.core.serialize as s; del s.dumps")
    assert f"Numba {numba.__version__} with" in said and "cannot import name 'dumps'" in said


@pytest.mark.parametrize(
    "setting",
    [
        "NUMBA_DISABLE_JIT=1",
        "NUMBA_NUM_THREADS=0",
        "NUMBA_NUM_THREADS=many",
        "NUMBA_OPT=9",
        "NUMBA_OPT=",
        "NUMBA_CPU_NAME=nonsense",
        "NUMBA_CPU_FEATURES=garbage",
        "NUMBA_CPU_FEATURES=+nonsense",
        "NUMBA_CPU_FEATURES=-sse2",
    ],
)
def test_impossible_variable_of_numba_is_named(setting):
    name, _, value = setting.partition("=")
    said = outcome(**{name: value})
    assert said.startswith("UsageError ") and name in said and said.count("\n") == 1
    assert said.endswith("unset it.\n")
