"""The cache of compiled code: concurrent processes, faults of the disk, damaged files."""

import ast
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.namespaces import NAMESPACE, can_mount
from numba.core import config

import charrnn
from charrnn.network import jit
from charrnn.network.numba_internals import CODE_SETTINGS

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
    assert [path.suffix for path in files] == [".nbc"]
    assert not is_compiled() and code_in(folder) == files


def refuse(x):
    if x < 0:
        raise ValueError("negative", x)
    return x


def test_cached_code_raises_what_it_raised_when_it_was_compiled(folder):
    for _ in range(2):
        function = jit.kernel(refuse)
        assert function(3) == 3
        with pytest.raises(ValueError, match=r"'negative', -2"):
            function(-2)
    assert function.stats.cache_hits


def code_in(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.nb?")}


@pytest.mark.parametrize("content", [b"", b"\x80", bytes(9), None], ids=repr)
def test_damaged_cache_file_costs_one_compilation(folder, content):
    """Numba does not flush its files, so a power cut may leave them empty or full of zeros."""
    is_compiled()
    (path,) = code_in(folder)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert is_compiled()
    assert not is_compiled()


OTHER_VALUES = dict.fromkeys(CODE_SETTINGS, "other") | {
    "BOUNDSCHECK": 1,
    "DEBUGINFO_DEFAULT": 1,
    "LLVM_REFPRUNE_FLAGS": "per_bb",
    "OPT": config._OptLevel("max"),
}


@pytest.mark.parametrize("name", CODE_SETTINGS)
def test_code_compiled_with_another_setting_is_other_code(folder, monkeypatch, name):
    """NUMBA_LOOP_VECTORIZE=0, for example, must not leave slow code with other bits behind."""
    assert is_compiled()
    with monkeypatch.context() as patch:
        patch.setattr(config, name, OTHER_VALUES[name], raising=False)
        assert is_compiled()
        assert not is_compiled()
    assert not is_compiled()


def test_removed_cache_folder_is_made_again(folder):
    folder.rmdir()
    assert is_compiled() and not is_compiled()


@pytest.fixture
def notes(monkeypatch):
    """What is logged."""
    messages = []
    monkeypatch.setattr(jit, "_log_once", messages.append)
    return messages


def test_saved_code_is_not_said_to_be_lost(folder, notes):
    assert is_compiled() and not is_compiled()
    assert len(notes) == 1 and "some 10 seconds" in notes[0]


def test_unwritable_cache_file_is_tolerated(folder, monkeypatch, notes):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    assert is_compiled() and is_compiled()
    assert not list(folder.glob("*.nb*"))
    assert notes[1] == (
        f"each start compiles, since code cannot be saved: {folder}: No space left on device"
    )


def test_code_that_holds_addresses_is_not_saved(folder, monkeypatch, notes):
    """NUMBA_OPT=0 leaves some."""
    monkeypatch.setattr("numba.core.codegen.CPUCodeLibrary.has_dynamic_globals", True)
    assert is_compiled() and is_compiled()
    assert "addresses" in notes[1] and not code_in(folder)


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jit, "CACHE_FOLDER", None)

    def folder():
        """The cache folder, if code is kept there."""
        monkeypatch.setattr(jit, "CACHE_FOLDER", jit._cache_folder())
        is_compiled()
        return None if is_compiled() else Path(jit.CACHE_FOLDER)

    return folder


def test_no_cache_folder_for_a_user_without_a_home(homeless, tmp_path, monkeypatch):
    """The user is in no password file, as in a container."""
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    assert homeless() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"])
def test_no_cache_folder_if_it_is_relative_or_a_file(homeless, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "relative")
    assert homeless() is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv(name, str(tmp_path / "file"))
    assert homeless() is None
    monkeypatch.setenv(name, str(tmp_path / "good"))
    assert homeless().is_relative_to(tmp_path / "good")


def test_no_cache_folder_if_others_can_write_it(homeless, tmp_path, monkeypatch):
    """Code in the folder is executed. (test_code_folder.py has the other ways.)"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = homeless()
    for path in folder, folder.parent:
        for mode in 0o777, 0o702:
            path.chmod(mode)
            assert homeless() is None
        path.chmod(0o755)
        assert homeless() == folder


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


SWAP = """
import os, sys
import charrnn.network.optimizers
folder, evil = sys.argv[1:]
if os.path.exists(folder):
    os.rename(folder, folder + "-old")
os.rename(evil, folder)
"""


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_code_of_another_user_is_not_run(start, tmp_path):
    """The cache is in a shared folder, whose subfolder `charrnn` another user made first.

    That user puts another folder in the place of the one that charrnn has checked.
    """
    mine = Path(outcome(start())[1])
    evil = tmp_path / "evil"
    evil.mkdir()
    for path in mine.iterdir():
        (evil / path.name).write_bytes(pickle.dumps(Evil(str(tmp_path / "executed"))))
    for path in evil, *evil.iterdir(), mine.parent:
        os.chown(path, 54_321, -1)
    mine.parents[1].chmod(0o1777)
    said, _ = outcome(start("-c", SWAP + WORK, mine, evil))
    assert not (tmp_path / "executed").exists()
    assert "each start compiles" in said and f"{mine.parent}: belongs to another user" in said


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
    said, _ = outcome(start(before=before))
    assert said.count("\n") == 2 and "each start compiles" in said


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
