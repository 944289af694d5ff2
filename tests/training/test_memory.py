"""Training that cannot fit into memory is refused before it allocates."""

import os
import subprocess
import sys
import tracemalloc

import pytest
from helpers.runs import trained

from charrnn.errors import CharRNNError
from charrnn.training import ensemble, memory
from charrnn.training.memory import require_memory


@pytest.fixture
def required(monkeypatch):
    """The numbers of bytes passed to require_memory."""
    asked = []
    monkeypatch.setattr(ensemble, "require_memory", lambda n, *words: asked.append(n))
    return asked


def test_an_impossible_amount_of_memory_is_refused_in_one_sentence():
    require_memory(1 << 20, "this", "do that")
    expected = r"^there is not enough memory: this needs about 1,152,921,504.6 GB, and [\d.]+ "
    with pytest.raises(CharRNNError, match=expected) as caught:
        require_memory(1 << 60, "this", "do that")
    assert str(caught.value).endswith("; do that.")


@pytest.mark.skipif(sys.platform != "linux", reason="memory in use is read from /proc")
def test_the_limit_of_the_process_is_respected():
    code = (
        "import resource, sys; from charrnn.training.memory import require_memory\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)\n"
        "require_memory(150 << 20, 'this', 'do that')\n"
        "require_memory(250 << 20, 'this', 'do that')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "this needs about 0.3 GB, and 0.2 GB can be had; do that." in result.stderr


@pytest.mark.parametrize(
    "files, free",
    [
        ({}, []),
        ({"memory.max": "max\n", "memory.current": "5\n"}, []),
        (
            {
                "memory.max": "500\n",
                "memory.current": "200\n",
                "memory.stat": "anon 30\nfile 150\nactive_file 40\ninactive_file 80\nshmem 30\n",
            },
            [420],
        ),
        (
            {
                "memory/memory.limit_in_bytes": "9\n",
                "memory/memory.usage_in_bytes": "8\n",
                "memory/memory.stat": "active_file 5\ntotal_active_file 1\ntotal_inactive_file 2\n",
            },
            [4],
        ),
    ],
)
def test_the_limit_of_the_container_is_respected(tmp_path, files, free):
    """Its usage counts, except for cached files."""
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert list(memory.available_in_container(tmp_path)) == free


@pytest.mark.parametrize("num_bytes", [10**12, 10**30])
def test_any_amount_of_memory_is_accepted_when_no_limit_is_known(monkeypatch, num_bytes):
    monkeypatch.setattr(memory, "limits", lambda: iter(()))
    require_memory(num_bytes, "this", "do that")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"hidden_size": 300}, marks=pytest.mark.slow),
        {"hidden_size": 16, "seq_length": 64, "num_layers": 9, "embedding_size": 100},
        {"hidden_size": 200, "optimizer": "sgd", "cell": "gru", "dropout": 0.5},
        pytest.param({"hidden_size": 96, "ensemble": 3}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_memory_required_is_what_a_run_allocates(corpus_file, tmp_path, required, settings):
    """Less, down to 1 / 1.7, since WEIGHT_COPIES counts two moments and undropped weights, which
    not every run has. At most 4 MB more: the text and other small objects do not count.
    """
    trained(corpus_file, tmp_path / "compiled", steps=2, **settings)
    tracemalloc.start()
    try:
        trained(corpus_file, tmp_path / "m", steps=12, save_every=0, **settings)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert required[-1] / 1.7 < peak < required[-1] + 4e6


def test_validation_allocates_only_one_copy_of_the_weights(corpus_file, tmp_path):
    """The best weights are that copy; the activations use the memory of training."""
    peaks = []
    for fraction in 0.0, 0.0, 0.3:  # the first compiles
        tracemalloc.start()
        run = trained(
            corpus_file, tmp_path / f"m{len(peaks)}", steps=10, hidden_size=200,
            batch_size=60, seq_length=20, val_fraction=fraction,
        )  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(run.progress.history) == 10
    one_copy = 4 * run.summary.parameters
    assert run.ensemble.workspace.nbytes > 2 * one_copy
    assert peaks[2] - peaks[1] < 1.2 * one_copy


HUGE = [
    ["--hidden-size", "65536"],
    ["--hidden-size", "65536", "--num-layers", "1000"],
    ["--embedding-size", "65536", "--hidden-size", "16384"],
    ["--hidden-size", "65536", "--time", "1s"],
]


@pytest.mark.parametrize("options", HUGE, ids=" ".join)
def test_a_model_larger_than_memory_is_refused(invoke, corpus_file, tmp_path, monkeypatch, options):
    monkeypatch.setattr(memory, "available_on_machine", lambda: iter([8 << 30]))
    more = [] if "--time" in options else ["--steps", "1"]
    result = invoke("train", corpus_file, "-o", tmp_path / "m", *options, *more)
    assert result.exit_code == 1
    assert "there is not enough memory" in result.stderr and "--hidden-size" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_proc_has_all_of_its_memory(monkeypatch):
    def unreadable(path):
        raise FileNotFoundError(path)

    expected = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert next(memory.available_on_machine()) != expected
    monkeypatch.setattr(memory.Path, "read_text", unreadable)
    assert list(memory.available_on_machine()) == [expected]
    with pytest.raises(CharRNNError, match="this needs about"):
        require_memory(expected + 1, "this", "do that")
