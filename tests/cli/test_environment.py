"""The command in unusual environments: variables of Numba, missing packages."""

import sys

import pytest
from helpers.commands import sentence_of

VARIABLES = {
    "NUMBA_CACHE_LOCATOR_CLASSES": "Nope",
    "NUMBA_DEBUG": "1",
    "NUMBA_DEBUG_CACHE": "1",
    "NUMBA_DEBUG_NRT": "1",
    "NUMBA_DISABLE_JIT": "1",
    "NUMBA_LOOP_VECTORIZE": "0",
    "NUMBA_NUM_THREADS": "0",
    "NUMBA_OPT": "nonsense",
    "NUMBA_TRACE": "1",
}


def test_variables_of_numba_do_not_change_or_enter_the_text(spawn, model_file):
    arguments = ["sample", "-m", model_file, "--length", 30, "--seed", 1]
    expected, _ = spawn(*map(str, arguments)).communicate()
    assert len(expected) == 30
    assert spawn(*map(str, arguments), env=VARIABLES).communicate() == (expected, b"")


@pytest.mark.parametrize("value", ["nonsense", "+nonsense", "-sse2"])
def test_impossible_processor_is_refused_by_the_name_of_its_variable(spawn, model_file, value):
    process = spawn("sample", "-m", str(model_file), env={"NUMBA_CPU_FEATURES": value})
    out, err = process.communicate()
    assert process.returncode == 2 and out == b"" and err.count(b"\n") == 1
    assert err.startswith(b"Error: NUMBA_CPU_FEATURES has ")


def test_bfloat16_for_a_processor_without_it_is_refused(spawn, corpus_file, tmp_path):
    """LLVM would end the process by SIGABRT."""
    command = ["train", corpus_file, "--precision", "bfloat16", "-o", tmp_path / "m.safetensors"]
    process = spawn(*map(str, command), env={"NUMBA_CPU_NAME": "generic"})
    out, err = process.communicate()
    assert process.returncode == 2 and out == b"" and err.count(b"\n") == 1
    assert b"the processor that NUMBA_CPU_NAME or NUMBA_CPU_FEATURES describes has no" in err


def test_missing_package_is_named(invoke, corpus_file, monkeypatch):
    monkeypatch.delitem(sys.modules, "charrnn.evaluation.novelty", raising=False)
    monkeypatch.setitem(sys.modules, "numpy", None)
    result = invoke("novelty", corpus_file, "--corpus", corpus_file)
    assert sentence_of(result, 1) == "the package numpy is not installed; run `pip install numpy`."
