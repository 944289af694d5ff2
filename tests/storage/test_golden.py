"""Model files of every released format version, which every later version must read.

tests/golden/make_golden_models.py wrote them.
"""

import json
from pathlib import Path

import pytest

import charrnn
from charrnn.config import CELL_NAMES
from charrnn.storage.checkpoint import MODEL_FORMAT_VERSION

GOLDEN = Path(__file__).parents[1] / "golden"
RESULTS = {path.stem: json.loads(path.read_text()) for path in GOLDEN.glob("format-*.json")}
CASES = [(version, cell) for version in sorted(RESULTS) for cell in RESULTS[version]["models"]]


def test_every_format_version_has_golden_models_of_cells_that_still_exist():
    assert set(RESULTS) == {f"format-{n}" for n in range(1, MODEL_FORMAT_VERSION + 1)}
    assert {cell for _, cell in CASES} <= set(CELL_NAMES)


@pytest.mark.parametrize(("version", "cell"), CASES)
def test_golden_model_gives_the_text_and_loss_of_the_version_that_wrote_it(version, cell):
    """Losses are compared roughly, since processors round differently."""
    model = charrnn.load(GOLDEN / f"{version}-{cell}.safetensors")
    expected = RESULTS[version]["models"][cell]
    assert model.config.cell == cell
    assert model.sample(120, temperature=0) == expected["text"]
    loss = model.loss(RESULTS[version]["loss_text"])
    assert loss == pytest.approx(expected["loss"], rel=1e-5)
