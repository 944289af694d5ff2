"""Model files of every released format version, which every later version must read.

tests/golden/make_golden_models.py wrote them.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import charrnn
from charrnn.api import read_model
from charrnn.config import CELL_NAMES
from charrnn.storage.checkpoint import MODEL_FORMAT_VERSION
from charrnn.text.vocabulary import SEPARATOR
from charrnn.training.state import read_state

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
    text = model.sample(120, temperature=0)
    assert (text.split(model.separator)[0] if model.separator else text) == expected["text"]
    loss = model.loss(RESULTS[version]["loss_text"])
    assert loss == pytest.approx(expected["loss"], rel=1e-5)


def test_golden_models_of_version_4_have_its_additions():
    """If they had none, they would be written as version 3, and this version as yet untested."""
    for cell in CELL_NAMES:
        model = read_model(GOLDEN / f"format-4-{cell}.safetensors")
        assert model.format_version == 4
        assert model.vocabulary.separator == " %\n" and model.vocabulary.unknown_id >= 0
        assert model.config["record_end_id"] == model.vocabulary.look_up(SEPARATOR)[0]


def copied_state(version, folder):
    """Copy the golden state of a format version into `folder`; returns the output of its run."""
    shutil.copy(GOLDEN / f"format-{version}-state.safetensors", folder / "m.state.safetensors")
    return folder / "m"


def test_golden_state_of_version_3_gives_the_model_of_its_run(corpus_file, tmp_path):
    """The run was finished; its text is that of the fixture."""
    output = copied_state(3, tmp_path)
    state = read_state(output.with_name("m.state.safetensors"))
    assert len(state.members) == state.options.ensemble == 1 and state.config.record_end_id == -1
    assert state.progress.step == 300
    model = charrnn.train(corpus_file, output, resume=True, threads=1)
    golden = charrnn.load(GOLDEN / "format-3-lstm.safetensors")
    assert model.model.state_dict().keys() == golden.model.state_dict().keys()
    for name, tensor in golden.model.state_dict().items():
        np.testing.assert_array_equal(model.model.state_dict()[name], tensor)
    assert model.sample(120, temperature=0) == RESULTS["format-3"]["models"]["lstm"]["text"]


def test_golden_state_of_version_4_is_resumed(tmp_path):
    """It is that of an ensemble of two that has read half of its records."""
    (tmp_path / "corpus").write_bytes(RESULTS["format-4"]["corpus"].encode())
    output = copied_state(4, tmp_path)
    state = read_state(output.with_name("m.state.safetensors"))
    assert len(state.members) == 2 and state.progress.step == 150
    model = charrnn.train(tmp_path / "corpus", output, resume=True, threads=1)
    assert model.training["options"]["ensemble"] == 2 and model.separator == " %\n"
    loss = model.loss(RESULTS["format-4"]["loss_text"])
    assert loss == pytest.approx(RESULTS["format-4"]["resumed_loss"], rel=1e-5)
