"""The order of the packages: which may import which, who prints, who knows Numba."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers.loaded_modules import RUN, modules_after

import charrnn

ROOT = Path(charrnn.__file__).parent
LAYERS = (  # imports point from a later layer to an earlier one, or stay inside a package
    {"arithmetic", "errors"},
    {"config", "text"},
    {"network", "storage"},
    {"evaluation", "generation"},
    {"export", "training"},
    {"text_generator"},
    {"api"},
    {"mixture"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
LAYER = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
FILES = sorted(ROOT.rglob("*.py"))
TERMINAL_LIBRARIES = {"click", "prompt_toolkit", "tqdm"}
LLVM_MODULES = {"network/jit", "network/numba_internals", "network/kernels"}
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def module_of(path):
    """charrnn.text for text/__init__.py, charrnn.text.corpus for text/corpus.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("charrnn", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def package_of(module):
    """text for charrnn.text.corpus, api for charrnn.api, __init__ for charrnn itself."""
    return (*module.split("."), "__init__")[1]


MODULES = {module_of(path): path for path in FILES}


def imported_names(path):
    """The full names that `path` imports, those for type checking included."""
    package = ("charrnn", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_modules(path):
    """The modules of charrnn that `path` imports."""
    for name in imported_names(path):
        if name.partition(".")[0] == "charrnn":
            yield name if name in MODULES else name.rpartition(".")[0]


def libraries(path):
    return {name.partition(".")[0] for name in imported_names(path)}


@every_file
def test_imports_point_to_earlier_layers(path):
    package = package_of(module_of(path))
    for module in imported_modules(path):
        other = package_of(module)
        assert other == package or LAYER[other] < LAYER[package], f"{package} imports {module}"


def test_no_modules_import_each_other():
    graph = {module: set(imported_modules(path)) - {module} for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_no_module_hides_a_function_of_the_package():
    assert not {path.stem for path in FILES} & {"load", "sample", "train"}


@every_file
def test_only_the_command_line_prints_or_knows_a_terminal(path):
    if package_of(module_of(path)) in ("cli", "__main__"):
        return
    assert not libraries(path) & TERMINAL_LIBRARIES
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        assert not (isinstance(node, ast.Name) and node.id == "print"), path
        assert not (isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr"}), path


@every_file
def test_numba_is_imported_in_the_network_alone(path):
    where = path.relative_to(ROOT).with_suffix("").as_posix()
    if not where.startswith("network/"):
        assert not libraries(path) & {"numba", "llvmlite"}
        assert "charrnn.network.jit.jit" not in set(imported_names(path))
    elif not where.startswith(tuple(LLVM_MODULES)):
        assert "llvmlite" not in libraries(path)


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


def test_sampling_does_not_wait_for_modules_that_it_does_not_need(model_file):
    """Those of Numba's compiler take 30 ms, the others 10 to 20. The first process may compile."""
    slow = {"numba.cpython.unicode", "numba.np.arrayobj", "numpy.ma", "tqdm"}
    arguments = "sample", "--model", str(model_file), "--length", "5"
    modules_after(RUN.format(code=0), *arguments)
    assert not slow & modules_after(RUN.format(code=0), *arguments)
