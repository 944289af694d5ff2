"""The rooms of the house: which module may import which, who prints, who knows Numba."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import charrnn

ROOT = Path(charrnn.__file__).parent
FLOORS = (  # imports point from a later line to an earlier one, or stay inside a folder
    {"errors"},
    {"config", "files", "memory"},
    {"jit"},
    {"kernels"},
    {"cells", "ending", "stored", "vocab"},
    {"model", "optim", "corpus", "checkpoint", "curves"},
    {"baseline", "companion", "evaluate", "features", "learner", "novelty", "sample", "state"},
    {"beam", "inspection", "plan", "saving", "writing"},
    {"train"},
    {"api"},
    {"cli"},
    {"__main__", "__init__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(ROOT.rglob("*.py"))
NUMBA_ROOMS = {"jit", "kernels", "cells", "optim"}


def name_of(path):
    return str(path.relative_to(ROOT))


def room_of(path):
    """errors for errors.py, cells for cells/lstm.py."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path):
    """The full names of the modules that `path` imports, with the names taken from them."""
    package = ("charrnn", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rooms_imported(path):
    """The rooms of charrnn that `path` imports."""
    for name in imports_of(path):
        package, _, rest = name.partition(".")
        if package == "charrnn":
            yield rest.partition(".")[0] or "__init__"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_module_has_its_floor(path):
    assert room_of(path) in FLOOR


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_downwards(path):
    room = room_of(path)
    for other in rooms_imported(path):
        # the version, from the package itself
        if other not in FLOOR:
            assert room == "cli" and other == "__version__"
        elif other != room or room not in {"kernels", "cells", "cli"}:
            assert FLOOR[other] < FLOOR[room], f"{room} must not import {other}"


def test_cells_do_not_import_each_other():
    for path in ROOT.glob("cells/*.py"):
        if path.name != "__init__.py":
            assert "cells" not in set(rooms_imported(path)), path


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_command_line_prints_or_knows_a_terminal(path):
    if room_of(path) == "cli":
        return
    libraries = {name.partition(".")[0] for name in imports_of(path)}
    assert not libraries & {"click", "prompt_toolkit", "tqdm"}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        assert not (isinstance(node, ast.Name) and node.id == "print"), path
        assert not (isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr"}), path


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_numba_stays_in_its_rooms(path):
    if room_of(path) not in NUMBA_ROOMS:
        libraries = {name.partition(".")[0] for name in imports_of(path)}
        assert not libraries & {"numba", "llvmlite"}
        assert "charrnn.jit.jit" not in set(imports_of(path))


def modules_after(code, *arguments):
    """The names of the modules that are loaded at the end of `code` in a new interpreter."""
    code += "\nimport sys; sys.stderr.write('\\nMODULES ' + ' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return set(result.stderr.rpartition("MODULES ")[2].split())


RUN = """
import sys
from charrnn.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == {code}, end.code
"""


def test_importing_charrnn_is_light():
    assert not modules_after("import charrnn") & {"numba", "numpy", "click", "tqdm"}


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["train", "missing.txt"], 1),
        (["train", "missing.txt", "--learning-rate", "nan"], 2),
        (["sample", "--model", "missing.safetensors"], 1),
        (["sample", "--top-p", "2"], 2),
        (["eval", "--model", "missing.safetensors", "missing.txt"], 1),
        (["write", "--model", "missing.safetensors"], 2),
        (["info", "missing.safetensors"], 1),
        (["plot", "missing.log.jsonl"], 1),
        (["completion", "bash"], 0),
        (["manual"], 0),
    ],
)
def test_help_and_errors_do_not_wait_for_numba(arguments, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "numba" not in modules_after(RUN.format(code=code), *arguments)


@pytest.mark.parametrize("command", ["info", "plot"])
def test_info_and_plot_do_not_wait_for_numba(command, model_file):
    assert "numba" not in modules_after(RUN.format(code=0), command, str(model_file))


def test_a_tab_does_not_wait_for_numba(monkeypatch):
    monkeypatch.setenv("_CHARRNN_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "charrnn train --cell l")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert "numba" not in modules_after("import sys; sys.argv = ['charrnn']" + RUN.format(code=0))
