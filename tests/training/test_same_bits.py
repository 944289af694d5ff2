"""One seed gives one model, byte for byte, on every processor with a fused multiply-add.

tests/golden/runs.json has the hashes; helpers/golden_runs.py writes it.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import golden_runs
from helpers.golden_runs import RUNS, hash_of_run

from charrnn.config import CELL_NAMES
from charrnn.network.jit import BFLOAT16, CPU_FEATURES

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "runs.json").read_text())
HAS_FMA = "fma" in CPU_FEATURES or platform.machine() in ("aarch64", "arm64")
pytestmark = pytest.mark.skipif(not HAS_FMA, reason="the processor has no fused multiply-add")

# Old code of NumPy, OpenBLAS and the C library, which choose it at run time.
OLD_LIBRARIES = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_ICL",
    "OPENBLAS_CORETYPE": "Prescott",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F,-AVX2_Usable,-FMA_Usable",
}


def test_every_run_has_a_golden_hash():
    assert GOLDEN["float32"].keys() == RUNS.keys()
    assert GOLDEN["bfloat16"].keys() == set(CELL_NAMES)
    assert len({hash for part in GOLDEN.values() for hash in part.values()}) == len(RUNS) + 5


@pytest.mark.parametrize("name", RUNS)
def test_run_has_its_golden_hash(name):
    assert hash_of_run(name) == GOLDEN["float32"][name]


@pytest.mark.skipif(not BFLOAT16, reason="the processor does not multiply bfloat16")
@pytest.mark.parametrize("name", CELL_NAMES)
def test_run_in_bfloat16_has_its_golden_hash(name):
    assert hash_of_run(name, "bfloat16") == GOLDEN["bfloat16"][name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("features", "environment"), [("+avx2,+fma", {}), ("+fma", {}), ("+fma", OLD_LIBRARIES)]
)
def test_runs_on_older_processors_have_the_same_hashes(features, environment):
    """Vectors of 32 and 16 bytes; those of 64 are this process's where the processor has them."""
    if not {feature[1:] for feature in features.split(",")} <= CPU_FEATURES:
        pytest.skip(f"the processor lacks {features}")
    processor = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
    result = subprocess.run(
        [sys.executable, golden_runs.__file__],
        env=os.environ | processor | environment,
        capture_output=True,
        check=True,
    )
    assert json.loads(result.stdout) == {"float32": GOLDEN["float32"]}
