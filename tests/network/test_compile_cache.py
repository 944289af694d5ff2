"""The cache of compiled code: concurrent processes, faults of the disk, damaged files."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.namespaces import NAMESPACE, can_mount

import charrnn
from charrnn.network import jit

WORK = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
import numpy as np
from charrnn.network import jit
from charrnn.network.optimizers import norm
assert norm(np.full(9, 2, np.float32), jit.ThreadTeam(1)) == 6
print(jit.CACHE_FOLDER)
"""


DECORATORS = {"jit", "kernel", "intrinsic", "overload"}


def double(x):
    return 2 * x


def has_compiled_function(path):
    """Whether a file decorates a function with one of DECORATORS, imported from elsewhere."""
    tree = ast.parse(path.read_text("utf-8"))
    decorators = (d for node in ast.walk(tree) for d in getattr(node, "decorator_list", []))
    functions = (d.func if isinstance(d, ast.Call) else d for d in decorators)
    return any(isinstance(f, ast.Name) and f.id in DECORATORS for f in functions)


def test_cache_folder_depends_on_every_source_that_is_compiled():
    root = Path(charrnn.__file__).parent
    compiled = {path for path in root.rglob("*.py") if has_compiled_function(path)}
    assert len(compiled) > 10
    assert compiled <= set(jit.compiled_sources())


# --- in one process, where a new dispatcher stands for a new process


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(jit, "CACHE_FOLDER", str(tmp_path))
    return tmp_path


def is_compiled():
    """Whether the first call of a new dispatcher compiles; checks its result."""
    function = jit.kernel(double)
    assert function(3) == 6
    return not function.stats.cache_hits


def test_cached_code_is_not_compiled_again(folder):
    assert is_compiled()
    files = code_in(folder)
    assert sorted(path.suffix for path in files) == [".nbc", ".nbi"]
    assert not is_compiled() and code_in(folder) == files


def code_in(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.nb?")}


@pytest.mark.parametrize("content", [b"", b"\x80", bytes(9), None], ids=repr)
@pytest.mark.parametrize("kind", [".nbi", ".nbc"])
def test_damaged_cache_file_costs_one_compilation(folder, kind, content):
    """Numba does not flush its files, so a power cut may leave them empty or full of zeros."""
    is_compiled()
    (path,) = (path for path in code_in(folder) if path.suffix == kind)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert is_compiled()
    assert not is_compiled()


def test_removed_cache_folder_is_tolerated(folder):
    folder.rmdir()
    assert is_compiled() and is_compiled()


def test_unwritable_cache_file_is_tolerated(folder, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    assert is_compiled() and is_compiled()
    assert not list(folder.glob("*.nb*"))


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_no_cache_folder_for_a_user_without_a_home(homeless, tmp_path, monkeypatch):
    """The user is in no password file, as in a container."""
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    assert jit._cache_folder() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"])
def test_no_cache_folder_if_it_is_relative_or_a_file(homeless, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "relative")
    assert jit._cache_folder() is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv(name, str(tmp_path / "file"))
    assert jit._cache_folder() is None
    monkeypatch.setenv(name, str(tmp_path / "good"))
    assert Path(jit._cache_folder()).is_relative_to(tmp_path / "good")


def test_no_cache_folder_if_others_can_write_it(homeless, tmp_path, monkeypatch):
    """Code in the folder is executed, so only this user may write it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = Path(jit._cache_folder())
    for mode in 0o770, 0o702:
        folder.chmod(mode)
        assert jit._cache_folder() is None
    folder.chmod(0o700)
    assert jit._cache_folder() == str(folder)
    monkeypatch.setattr("os.getuid", lambda: folder.stat().st_uid + 1)
    assert jit._cache_folder() is None


# --- processes


@pytest.fixture
def start(tmp_path):
    """Start WORK, or another command, with a cache folder of its own."""
    processes = []
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    def begin(*command, before=()):
        command = command or ("-c", WORK)
        command = map(str, [*before, sys.executable, *command])
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **how))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def outcome(process):
    """(stderr, stdout) of a process that must have succeeded."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return err, out.strip()


def compiled(process):
    return "compiling" in outcome(process)[0]


def test_two_concurrent_processes_share_the_cache(start, tmp_path):
    both = [start(), start()]
    assert {compiled(p) for p in both} >= {True}
    files = code_in(tmp_path)
    assert not compiled(start()) and code_in(tmp_path) == files
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_loading_cached_code_compiles_nothing(start):
    """Numba would compile a part of its runtime first, which takes as long as loading all code."""
    work = WORK + "from numba.core.runtime import rtsys; print(rtsys._init)"
    assert [outcome(start("-c", work))[1].split()[-1] for _ in range(2)] == ["True", "False"]


UPDATES = """
import hashlib
import numpy as np
from charrnn.network.optimizers import OPTIMIZERS
for make in OPTIMIZERS.values():
    w, g = np.random.default_rng(0).standard_normal((2, 5000)).astype(np.float32)
    optimizer = make(w.size)
    for _ in range(3):
        optimizer.step(w, g, 0.01)
    print(hashlib.sha256(w.tobytes()).hexdigest())
"""


def test_loaded_code_gives_the_same_bits_as_compiled_code(start):
    """They may differ if a helper is not inlined: it is then compiled twice, once on its own.

    The two versions may round differently, and which one is called would depend on which other
    code has been loaded.
    """
    first, second = (outcome(start("-c", UPDATES))[1].split() for _ in range(2))
    assert first == second and len(set(first)) > 3


READ_ONLY = 'mount -t tmpfs -o mode=755 none "$1" && mount -o remount,ro "$1" && shift && exec "$@"'
FULL = 'mount -t tmpfs -o size=4k,nr_inodes=9 none "$1" && shift && exec "$@"'


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")
@pytest.mark.parametrize("mount", [READ_ONLY, FULL], ids=["read-only", "full"])
def test_full_or_read_only_disk_is_tolerated(start, tmp_path, mount):
    (tmp_path / "cache").mkdir()
    before = [*NAMESPACE, "sh", "-c", mount, "sh", tmp_path / "cache"]
    said, folder = outcome(start(before=before))
    assert said.count("\n") == 1 and (folder == "None") == (mount is READ_ONLY)


@pytest.mark.slow
def test_eight_concurrent_first_runs_train_the_same_model(start, tmp_path, corpus_file):
    """Eight more runs then find nothing to compile."""

    def wave(names):
        how = ["--steps", 2, "--hidden-size", 8, "--threads", 1]
        command = ["-m", "charrnn", "train", corpus_file, *how, "-o"]
        return [compiled(p) for p in [start(*command, tmp_path / name) for name in names]]

    assert any(wave("abcdefgh"))
    files = code_in(tmp_path)
    assert wave("ijklmnop") == [False] * 8
    assert code_in(tmp_path) == files
    assert len({(tmp_path / name).read_bytes() for name in "abcdefghijklmnop"}) == 1
    assert not list(tmp_path.rglob("*.tmp.*"))
