# Each line is a command that anyone can type. `make demo` and `make test` need only Python 3.11+ and PyPI.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test faults fuzz check fix bench clean

demo: $(VENV)/.installed
	$(BIN)/orch demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest

faults: $(VENV)/.installed
	ORCH_FAULTS=long $(BIN)/python -m pytest tests/faults

fuzz: $(VENV)/.installed
	ORCH_FUZZ=long $(BIN)/python -m pytest tests/security

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps textbrewer==0.2.1.post1 # a peer that is measured beside
	$(BIN)/python -m tests.benchmarks --json docs/results/bench-$(shell date +%F).json --draw docs/results/growth.svg

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps bertdistiller==0.1.2 # its pins exclude every current torch; one loss is compared
	touch $@

clean:
	rm -rf $(VENV) runs
