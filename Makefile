# The two commands: `make reproduce` runs the experiments, `make test` the tests. Both set up .venv on first use.
PYTHON ?= python3
PRESET ?= laptop
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup reproduce figures test test-slow lint bench check clean
.DEFAULT_GOAL := help

help:
	@echo "make reproduce   run every experiment (PRESET=smoke|laptop|paper, default laptop) and write results/report.html"
	@echo "make test        run the tests            make test-slow   run the long ones"
	@echo "make lint        ruff and mypy            make bench       the benchmarks, into benchmarks/results.md"
	@echo "make figures     draw the figures again from the stored tables"
	@echo "make check       have the smoke results moved since results/baseline/smoke.json? (PRESET=smoke make reproduce first)"
	@echo "make clean       remove .venv and caches; results stay"

setup: $(READY)

# A file target, so that a second call installs nothing. The pins come from constraints.txt.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ntkrun needs CPython 3.11 or newer; $(PYTHON) is older. Name another: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

reproduce: $(READY)
	$(BIN)/ntkrun reproduce --preset $(PRESET)

figures: $(READY)
	@for run in $(wildcard results/*/sweep.yaml results/*/*/sweep.yaml); do $(BIN)/ntkrun plot "$$(dirname "$$run")" || exit; done

test: $(READY)
	$(BIN)/python -m pytest -n auto

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ntkrun check results/smoke/width --baseline results/baseline/smoke.json

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
