# make demo     find the landmarks of one photograph        make docs     build the documentation into site/
# make test     everything that CI runs                     make lowest   quick tests, oldest dependencies allowed
# make quick    the tests without the slow ones             make clean    remove what these made
# make check    format, lint and types only                 make site     the page for the browser into build/site/
# make web-test the tests of the browser alone
PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test quick check docs lowest site web-test clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: check docs
	$(BIN)/python -m pytest --numprocesses auto --ignore tests/cluster -m "not alone"
	$(BIN)/python -m pytest tests/training -m alone  # torchrun's processes: twice a worker of pytest died beside them
	$(BIN)/python -m pytest tests/cluster  # alone: Ray does not share a process, or busy processors, with others

quick: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto -m "not slow and not alone" --ignore tests/cluster

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/typer octamark.cli utils docs --name octamark --title "Command line" --output docs/reference/command_line.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Node and npm for both, Chromium for the tests; without them the tests are skipped and say why.
site: $(VENV)/.demo
	$(BIN)/python tools/build_site.py build/site

web-test: $(VENV)/.dev
	$(BIN)/python -m pytest tests/web

# A warning that an old dependency gives about another one is not ours; errors are.
lowest: $(VENV)/.uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --all-extras pyproject.toml --output-file $(LOWEST)/pins.txt
	$(BIN)/uv pip sync --quiet --python $(LOWEST)/bin/python $(LOWEST)/pins.txt
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --editable .
	$(LOWEST)/bin/python -m pytest --numprocesses auto -m "not slow" -W ignore::DeprecationWarning -W ignore::FutureWarning

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) --editable ".[dev]"
	touch $@

$(VENV)/.uv: constraints.txt | $(BIN)/python
	$(PIP) uv
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) build demo site docs/reference/command_line.md src/octamark/inference/*.onnx
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
