# Two commands to start: `make quickstart` and `make test`. Everything is installed into $(VENV) on first use.
PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
TABLES ?= tables
# test processes at a time; the files are dealt out, so that what a file sets up is set up once
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations 15
BIN := $(VENV)/bin
export UV_HTTP_TIMEOUT ?= 300
# compiled extensions of DeepSpeed depend on the torch of this environment
export TORCH_EXTENSIONS_DIR ?= $(abspath $(VENV))/torch_extensions

.PHONY: help setup quickstart test test-slow test-thorough check lint benchmark clean

help:
	@echo "make quickstart   set up, run a small sweep of the full method on real data, print its table"
	@echo "make test         set up, run the tests (minutes);  make test-slow: the slow ones"
	@echo "make check        lint, types and tests;            make benchmark: where the time of a step goes"

setup: $(VENV)/.complete

$(VENV)/.complete: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "needs Python 3.11 or newer: make PYTHON=..."; exit 1; }
	@test -x $(BIN)/uv || $(PYTHON) -m venv $(VENV) || { echo "no venv module: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv==0.13.8
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: setup
	$(BIN)/python launch/sweep.py sweeps/quickstart.yaml --cluster local --max-parallel 2 --runs $(RUNS)
	$(BIN)/python analysis/make_tables.py --runs $(RUNS) --out $(TABLES)
	@$(BIN)/python launch/status.py $(RUNS) --pictures

test: setup
	$(PYTEST) -m "not slow"

test-slow: setup
	$(PYTEST) -m "slow and not thorough"

test-thorough: setup
	$(PYTEST) -m thorough

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

benchmark: setup
	$(BIN)/python analysis/benchmark.py tiny train.threads=1

clean:
	rm -rf $(VENV) build dist *.egg-info
