"""What cannot fit into memory is refused before it is allocated."""

import subprocess
import sys
import tracemalloc

import pytest
from helpers.runs import trained

from charrnn.errors import CharRNNError
from charrnn.training import memory
from charrnn.training import trainer as learner
from charrnn.training.memory import require_memory


@pytest.fixture
def required(monkeypatch):
    """The bytes that have been asked for."""
    asked = []
    monkeypatch.setattr(learner, "require_memory", lambda n, *words: asked.append(n))
    return asked


def test_what_there_can_never_be_is_refused_in_one_sentence():
    require_memory(1 << 20, "this", "do that")
    expected = r"^there is not enough memory: this needs about 1,152,921,504.6 GB, and [\d.]+ "
    with pytest.raises(CharRNNError, match=expected) as caught:
        require_memory(1 << 60, "this", "do that")
    assert str(caught.value).endswith("; do that.")


def test_a_limit_of_the_process_counts():
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
def test_a_limit_of_the_container_counts(tmp_path, files, free):
    """Less what is used, but for the copies of files that have been read."""
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert list(memory._free_in_the_container(tmp_path)) == free


@pytest.mark.parametrize("num_bytes", [10**12, 10**30])
def test_no_more_is_known_where_nothing_tells(monkeypatch, num_bytes):
    monkeypatch.setattr(memory, "_limits", lambda: iter(()))
    require_memory(num_bytes, "this", "do that")


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": 300},
        {"hidden_size": 16, "seq_length": 64, "num_layers": 9, "embedding_size": 100},
        {"hidden_size": 200, "optimizer": "sgd", "cell": "gru", "dropout": 0.5},
    ],
    ids=str,
)
def test_a_run_takes_what_was_asked_for(corpus_file, tmp_path, required, settings):
    trained(corpus_file, tmp_path / "compiled", steps=2, **settings)
    tracemalloc.start()
    try:
        trained(corpus_file, tmp_path / "m", steps=12, save_every=0, **settings)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert required[-1] / 1.7 < peak < required[-1] + 4e6


def test_validations_and_the_best_weights_take_no_more_than_one_copy(corpus_file, tmp_path):
    """What lies between layers while the held-out text is read is in memory that training has."""
    peaks = []
    for fraction in 0.0, 0.0, 0.3:  # the first compiles
        tracemalloc.start()
        run = trained(
            corpus_file, tmp_path / f"m{len(peaks)}", steps=10, hidden_size=200,
            batch_size=30, seq_length=20, val_fraction=fraction,
        )  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(run.progress.history) == 10
    one_copy = 4 * run.summary.parameters
    assert run.learner.workspace.nbytes > 2 * one_copy
    assert peaks[2] - peaks[1] < 1.2 * one_copy


HUGE = [
    ["--hidden-size", "65536"],
    ["--hidden-size", "65536", "--num-layers", "1000"],
    ["--embedding-size", "65536", "--hidden-size", "16384"],
    ["--hidden-size", "65536", "--time", "1s"],
]


@pytest.mark.parametrize("options", HUGE, ids=" ".join)
def test_models_larger_than_memory(invoke, corpus_file, tmp_path, monkeypatch, options):
    monkeypatch.setattr(memory, "_free_on_the_machine", lambda: iter([8 << 30]))
    more = [] if "--time" in options else ["--steps", "1"]
    result = invoke("train", corpus_file, "-o", tmp_path / "m", *options, *more)
    assert result.exit_code == 1
    assert "there is not enough memory" in result.stderr and "--hidden-size" in result.stderr
    assert list(tmp_path.iterdir()) == []
