# Needs GNU make, Python 3.10 or newer and a package index; all else is installed in .venv.
# With another Python: make PYTHON=python3.13 test

PYTHON ?= python3
BIN := .venv/bin
# pip does not compile an editable package, and PYTHONDONTWRITEBYTECODE keeps Python from it.
COMPILE := $(BIN)/python -m compileall -q charrnn
# A test in each of two processes: they often wait for processes of their own.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: help demo test test-all test-versions lint bench results clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*  ## ' '/^[a-z.\/-]*:.*  ## / {printf "%-18s%s\n", $$1, $$2}' Makefile

demo: .venv/charrnn  ## train on data/harbour.txt for about a minute and print 500 characters
	@mkdir -p build
	$(BIN)/charrnn train data/harbour.txt --output build/demo.safetensors --overwrite --time 1m
	$(BIN)/charrnn sample --model build/demo.safetensors --length 500 --temperature 0.7

test: .venv/test  ## run the quick tests
	@$(COMPILE)
	$(PYTEST)

test-all: .venv/test  ## run all tests
	$(PYTEST) -m ""

test-versions: build/versions-lowest/test build/versions-highest/test  ## test with the lowest and highest versions of the dependencies
	build/versions-lowest/bin/python -m pytest
	build/versions-highest/bin/python -m pytest

# The lower bounds that pyproject.toml declares: "numpy >=1.24" becomes numpy==1.24.
build/versions-lowest/test: VERSIONS = $(shell sed -nE \
    's/^    "(click|numba|numpy|tqdm) >=([0-9.]+).*/\1==\2/p' pyproject.toml)
# Without such a list pip installs the highest versions that pyproject.toml allows.
build/versions-%/test: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip --disable-pip-version-check install --quiet $(VERSIONS) --editable '.[test]'
	@touch $@

lint: .venv/test  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/test  ## measure speed, start-up time and memory
	@$(COMPILE)
	$(BIN)/python tests/bench/bench.py

TEXTS ?= data/harbour.txt data/python.txt
TIMES ?= 1m 3m 10m

results: .venv/charrnn $(TEXTS)  ## table of losses after training on TEXTS="a.txt b.txt" for TIMES="1m 3m 10m"
	@$(BIN)/python tests/bench/results.py --times "$(TIMES)" $(TEXTS)

data/python.txt: data/build_python_corpus.py  ## build a corpus of 8 MB from Python's standard library
	$(PYTHON) $< $@

clean:  ## remove all files that make created
	rm -rf .venv build dist data/python.txt .pytest_cache .ruff_cache .hypothesis
	find charrnn tests -name __pycache__ -exec rm -rf {} +

# These files record when the environment was last updated to pyproject.toml.
.venv/charrnn: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	    { echo "make: $(PYTHON) is not Python 3.10 or newer; try make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "make: $(PYTHON) has no venv; on Debian, apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip --disable-pip-version-check install --quiet --editable .
	@$(COMPILE)
	@touch $@

.venv/test: .venv/charrnn
	$(BIN)/pip --disable-pip-version-check install --quiet --editable '.[test]'
	@touch $@
