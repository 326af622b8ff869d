# make quickstart: a first campaign from a fresh clone.   make test: the whole suite.   make check: before a commit.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test check format bench bench-kernels bench-evaluator clean

quickstart: $(STAMP)
	$(BIN)/archloom run examples/quickstart.toml --fresh-name

test: $(STAMP)
	$(BIN)/python -m pytest -n logical --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/python -m pytest -q -n logical --dist worksteal

format: $(STAMP)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(STAMP)
	set -e; for each in tests/benchmarks/bench_*.py; do echo "== $$each"; $(BIN)/python $$each; done

bench-kernels: $(STAMP)
	$(BIN)/python tests/benchmarks/bench_kernels.py --sections table growth composed counterparts $(OPTIONS)

bench-evaluator: $(STAMP)
	$(BIN)/python tests/benchmarks/bench_evaluator.py $(OPTIONS)
	set -e; for each in gates executors health cost together; do echo "== $$each"; $(BIN)/python tests/benchmarks/bench_$$each.py; done

$(STAMP): pyproject.toml constraints.txt
	@echo "installing into $(VENV): a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,gpu]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info
